"""What the keys of the memory that learns at test time are made of, and how fast it learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from titan_neuro.forecaster.recall.fit.components import ComponentRun, held_out_index, residual_of
from titan_neuro.forecaster.recall.fit.stimulus_memory import choosing
from titan_neuro.forecaster.recall.recall import Recall
from titan_neuro.linear.components import principal_components
from titan_neuro.titans.memory import init_state, memory_scan

# Step sizes to choose features with, as shares of the largest; and, once they are chosen, the step itself.
_STEP_FRACTIONS = (0.1, 0.25, 0.6)
_FINE_STEP_FRACTIONS = (0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 0.8)
_FORGETTING = 5e-4
# Mean squared length of a key; few are then longer than 1, where they are cut.
_MEAN_SQUARE = 0.7
# Share of the error that a memory has to remove to be believed at all, and that each further kind of feature has to
# remove beside the others. Where there is no story a person's own slow dynamics are worth half of the first.
_LEAST_GAIN, _LEAST_FURTHER_GAIN = 1e-2, 1e-3
# A memory that is not believed so many time points ahead, or as far as forecasts go, is not believed at all: a
# hemodynamic response lasts about as long, and each person's own is learned as easily as what the person was shown.
_FAR_TIME_POINTS = 6
# Components of the errors by which choices are made.
_CHOOSING_COMPONENTS = 32
# Features weaker than this share of the errors are none.
_LEAST_POWER = 1e-6
# Where nothing is gained by learning at test time, the step that training starts from.
_SMALLEST_FRACTION = 0.005


class _Group(NamedTuple):
    """A kind of feature: a map ``(group width, known features)`` whose results have variance 1."""

    name: str
    map: Tensor


class _Example(NamedTuple):
    """A training run at one horizon: what is known at each time point, what is left of its error, and whether it is
    scored.

    Attributes
    ----------
    unit : int
        Index of its subject; of the run, where there is one subject.
    known, left : torch.Tensor
        ``(time, known features)`` and ``(time, components)``.
    scored : torch.Tensor
        bool ``(time,)``.
    """

    unit: int
    known: Tensor
    left: Tensor
    scored: Tensor


def fit_keys(recall: Recall, made: Sequence[ComponentRun]) -> None:
    """Choose, for each horizon, kinds of features and a step: by forward selection, those that err least.

    The memory runs through each training run as it will through one of the test, from empty, and what it then removes
    of the error is what is compared. How far it is believed, component by component, follows from that too; nowhere,
    where it pays at short horizons alone.
    """
    chosen = [made[index] for index in choosing(made)]
    known = [
        recall.key_features(run.series[None], run.errors[None], recall.init_state(1), held_out_index(run))[0][0]
        for run in chosen
    ]
    innovations = torch.cat([run.innovations[run.scored] for run in chosen])
    directions = principal_components(innovations, _CHOOSING_COMPONENTS)
    width = recall.config.group_width
    key_map = torch.zeros(len(recall.horizons), recall.config.n_groups * width, recall.n_known)
    gain = torch.zeros(len(recall.horizons), recall.width)
    steps = []
    for index, horizon in enumerate(recall.horizons):
        examples = [
            _Example(unit, seen[:, index], residual_of(recall, run, index), run.scored)
            for unit, seen, run in zip(_units(chosen), known, chosen, strict=True)
        ]
        groups = _groups(recall, examples, float(innovations.square().mean()))
        few = [example._replace(left=example.left @ directions.T) for example in examples]
        taken, share = _select(recall, few, horizon, groups)
        if taken:
            removed = _run_through(recall, examples, horizon, [taken], [share])
            gain[index] = removed.gain()[0]
        else:
            # Training may still find what selection did not.
            taken = [group for group in groups if group.name in {"stimulus", "own", "lag 0"}]
        for place, group in enumerate(taken[: recall.config.n_groups]):
            key_map[index, place * width : place * width + len(group.map)] = group.map * _scale(taken)
        steps.append((share * recall.memory.largest_step, _FORGETTING))
    far = [index for index, horizon in enumerate(recall.horizons) if horizon >= _FAR_TIME_POINTS] or [-1]
    if not bool(gain[far].any()):
        # What helps at short horizons alone is how this brain's signal moves, not what it was shown.
        gain.zero_()
    recall.set_keys(key_map, steps, gain)


def _units(runs: Sequence[ComponentRun]) -> list[int]:
    """Which runs count as one, their errors not being independent: those of a subject, if there are several."""
    subjects = sorted({run.subject for run in runs})
    return [subjects.index(run.subject) if len(subjects) > 1 else place for place, run in enumerate(runs)]


def _scale(groups: Sequence[_Group]) -> float:
    return float((_MEAN_SQUARE / sum(len(group.map) for group in groups)) ** 0.5)


def _groups(recall: Recall, examples: Sequence[_Example], power: float) -> list[_Group]:
    """The kinds of features that there are at a horizon; those that never vary are left out."""
    width = recall.width
    places = {"stimulus": slice(0, width), "own": slice(width, 2 * width)}
    for lag in range(recall.config.key_lags):
        first = 2 * width + lag * recall.n_key_own
        places[f"lag {lag}"] = slice(first, first + recall.n_key_own)
    groups = []
    for name, place in places.items():
        samples = torch.cat([example.known[example.scored, place] for example in examples])
        # What is next to nothing would be blown up to variance 1.
        if float(samples.square().mean()) <= _LEAST_POWER * power:
            continue
        directions = principal_components(samples, recall.config.group_width)
        spread = (samples @ directions.T).square().mean(0).sqrt()
        kept = spread > 1e-3 * spread[0]
        mapped = torch.zeros(int(kept.sum()), recall.n_known)
        mapped[:, place] = directions[kept] / spread[kept, None]
        groups.append(_Group(name, mapped))
    return groups


def _select(
    recall: Recall, examples: Sequence[_Example], horizon: int, groups: Sequence[_Group]
) -> tuple[list[_Group], float]:
    taken: list[_Group] = []
    rest = list(groups)
    best, total = 0.0, sum(float(example.left[example.scored].square().sum()) for example in examples)
    while rest and len(taken) < recall.config.n_groups:
        removed = _run_through(recall, examples, horizon, [[*taken, group] for group in rest], _STEP_FRACTIONS)
        most = removed.error().view(len(rest), -1).amax(dim=1)
        if float(most.max()) < best + (_LEAST_FURTHER_GAIN if taken else _LEAST_GAIN) * total:
            break
        found = int(most.argmax())
        # What does not help beside the few is not tried beside more.
        helps = (most > best).tolist()
        taken.append(rest[found])
        rest = [group for place, group in enumerate(rest) if helps[place] and place != found]
        best = float(most.max())
    if not taken:
        return taken, _SMALLEST_FRACTION
    removed = _run_through(recall, examples, horizon, [taken], _FINE_STEP_FRACTIONS)
    return taken, _FINE_STEP_FRACTIONS[int(removed.error().argmax())]


class _Removed(NamedTuple):
    """Sums over all scored time points, for each unit, choice and component of the errors: ``(units, choices,
    components)``.

    Attributes
    ----------
    product, square : torch.Tensor
        Of what was read with the error, and of what was read with itself.
    power : torch.Tensor
        ``(components,)``: mean square of the error.
    """

    product: Tensor
    square: Tensor
    power: Tensor

    def gain(self) -> Tensor:
        """What is read counts so much, 0 to 1: one standard error less than would have served best.

        The standard error is that between units, or that of independent time points where it is larger: few units may
        agree by chance.
        """
        product, square = self.product.sum(dim=0), self.square.sum(dim=0)
        best = product / square.clamp_min(1e-12)
        doubt = square * self.power
        n_units = len(self.product)
        if n_units > 1:
            between = (self.product - best * self.square).square().sum(dim=0) * n_units / (n_units - 1)
            doubt = torch.maximum(doubt, between)
        return ((product - doubt.sqrt()) / square.clamp_min(1e-12)).clamp(0, 1)

    def error(self) -> Tensor:
        """Squared error that is removed, ``(choices,)``."""
        gain, product, square = self.gain(), self.product.sum(dim=0), self.square.sum(dim=0)
        return (2 * gain * product - gain.square() * square).sum(dim=1)


def _run_through(
    recall: Recall,
    examples: Sequence[_Example],
    horizon: int,
    candidates: Sequence[Sequence[_Group]],
    shares: Sequence[float],
) -> _Removed:
    """Let a memory with each set of features, and each step, learn its way through the runs."""
    n_units, n_choices = 1 + max(example.unit for example in examples), len(candidates) * len(shares)
    product = torch.zeros(n_units, n_choices, examples[0].left.shape[1])
    square, power, n_time_points = torch.zeros_like(product), torch.zeros(()), 0
    longest = max(sum(len(group.map) for group in groups) for groups in candidates)
    for unit, known, left, scored in examples:
        keys = torch.zeros(len(candidates), len(known), longest)
        for place, groups in enumerate(candidates):
            mapped = known @ (torch.cat([group.map for group in groups]) * _scale(groups)).T
            keys[place, :, : mapped.shape[1]] = mapped / (mapped.norm(dim=1, keepdim=True) - 1).clamp_min(0).add(1)
        read = _run_memory(recall, keys, left, horizon, shares)
        target = left[horizon:] * scored[horizon:, None]
        read = read[:, :-horizon] * scored[horizon:, None]
        product[unit] += torch.einsum("ctd,td->cd", read, target)
        square[unit] += read.square().sum(dim=1)
        power = power + target.square().sum(dim=0)
        n_time_points += int(scored[horizon:].sum())
    return _Removed(product.double(), square.double(), power.double() / max(1, n_time_points))


def _run_memory(recall: Recall, keys: Tensor, left: Tensor, horizon: int, shares: Sequence[float]) -> Tensor:
    """What the memories read, ``(candidates * steps, time, width)``, for keys ``(candidates, time, key width)``."""
    n_candidates, n_time_points, key_width = keys.shape
    heads = keys.repeat_interleave(len(shares), dim=0)[None]
    waited = torch.cat([heads.new_zeros(1, heads.shape[1], horizon, key_width), heads], dim=2)[:, :, :n_time_points]
    steps = torch.tensor(shares).repeat(n_candidates) * recall.memory.largest_step
    theta = steps[None, :, None].expand(1, -1, n_time_points)
    read, _ = memory_scan(
        heads,
        waited,
        left.expand(1, heads.shape[1], -1, -1).contiguous(),
        torch.full_like(theta, _FORGETTING),
        torch.zeros_like(theta),
        theta.contiguous(),
        init_state((torch.zeros(heads.shape[1], left.shape[1], key_width),), 1),
        chunk_size=recall.config.chunk_time_points,
    )
    return read[0]
