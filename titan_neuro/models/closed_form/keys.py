"""What the keys of the memory that learns at test time are made of, and how fast it learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from titan_neuro.models.closed_form.components import ComponentRun, left_of
from titan_neuro.models.closed_form.film import choosing
from titan_neuro.models.recall import Recall
from titan_neuro.ops.components import principal_components
from titan_neuro.ops.neural_memory import init_state, memory_scan

# Step sizes to choose features with, as shares of the largest; and, once they are chosen, the step itself.
_STEP_SHARES = (0.1, 0.25, 0.6)
_FINE_STEP_SHARES = (0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 0.8)
_FORGETTING = 5e-4
# Mean squared length of a key; few are then longer than 1, where they are cut.
_MEAN_SQUARE = 0.7
# Share of the error that a further kind of feature has to remove to be taken in.
_LEAST_GAIN = 5e-4
# Components of the errors by which choices are made.
_CHOOSING_COMPONENTS = 32
# Features weaker than this share of the errors are none.
_LEAST_POWER = 1e-6
# Where nothing is gained by learning at test time, the step that training starts from.
_SMALLEST_SHARE = 0.005


class _Group(NamedTuple):
    """A kind of feature: a map ``(group width, known features)`` whose results have variance 1."""

    name: str
    map: Tensor


def fit_keys(recall: Recall, made: Sequence[ComponentRun]) -> None:
    """Choose, for each horizon, kinds of features and a step: by forward selection, those that err least.

    The memory runs through each training run as it will through one of the test, from empty, and what it then removes
    of the error is what is compared.
    """
    chosen = [made[index] for index in choosing(made)]
    directions = principal_components(torch.cat([run.innovations[run.scored] for run in chosen]), _CHOOSING_COMPONENTS)
    width = recall.config.group_width
    key_map = torch.zeros(len(recall.horizons), recall.config.n_groups * width, recall.n_known)
    steps = []
    for index in range(len(recall.horizons)):
        groups = _groups(recall, chosen, index)
        taken, share = _select(recall, chosen, index, groups, directions)
        if not taken:
            # Training may still find what selection did not.
            taken = [group for group in groups if group.name in {"film", "own", "lag 0"}]
        for place, group in enumerate(taken[: recall.config.n_groups]):
            key_map[index, place * width : place * width + len(group.map)] = group.map * _scale(taken)
        steps.append((share * recall.memory.largest_step, _FORGETTING))
    recall.set_keys(key_map, steps)


def _scale(groups: Sequence[_Group]) -> float:
    return float((_MEAN_SQUARE / sum(len(group.map) for group in groups)) ** 0.5)


def _groups(recall: Recall, runs: Sequence[ComponentRun], index: int) -> list[_Group]:
    """The kinds of features that there are at a horizon; those that never vary are left out."""
    width = recall.width
    places = {"film": slice(0, width), "own": slice(width, 2 * width)}
    for lag in range(recall.config.key_lags):
        first = 2 * width + lag * recall.n_key_own
        places[f"lag {lag}"] = slice(first, first + recall.n_key_own)
    groups = []
    power = float(torch.cat([run.innovations[run.scored] for run in runs]).square().mean())
    for name, place in places.items():
        samples = torch.cat([run.known[run.scored, index, place] for run in runs])
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
    recall: Recall, runs: Sequence[ComponentRun], index: int, groups: Sequence[_Group], directions: Tensor
) -> tuple[list[_Group], float]:
    lefts = [left_of(recall, run, index) @ directions.T for run in runs]
    taken: list[_Group] = []
    rest = list(groups)
    best, total = 0.0, sum(float(left[run.scored].square().sum()) for run, left in zip(runs, lefts, strict=True))
    while rest and len(taken) < recall.config.n_groups:
        removed = _removed(recall, runs, lefts, index, [[*taken, group] for group in rest], _STEP_SHARES)
        if float(removed.max()) < best + _LEAST_GAIN * total:
            break
        found = int(removed.amax(dim=1).argmax())
        # What does not help beside the few is not tried beside more.
        helps = (removed.amax(dim=1) > best).tolist()
        taken.append(rest[found])
        rest = [group for place, group in enumerate(rest) if helps[place] and place != found]
        best = float(removed.max())
    if not taken:
        return taken, _SMALLEST_SHARE
    removed = _removed(recall, runs, lefts, index, [taken], _FINE_STEP_SHARES)
    return taken, _FINE_STEP_SHARES[int(removed.argmax())]


def _removed(
    recall: Recall,
    runs: Sequence[ComponentRun],
    lefts: Sequence[Tensor],
    index: int,
    candidates: Sequence[Sequence[_Group]],
    shares: Sequence[float],
) -> Tensor:
    """Squared error that a memory with each set of features and each step removes, ``(candidates, steps)``."""
    removed = torch.zeros(len(candidates), len(shares), dtype=torch.float64)
    horizon = recall.horizons[index]
    longest = max(sum(len(group.map) for group in groups) for groups in candidates)
    for run, left in zip(runs, lefts, strict=True):
        keys = torch.zeros(len(candidates), len(run.frames), longest)
        for place, groups in enumerate(candidates):
            mapped = run.known[:, index] @ (torch.cat([group.map for group in groups]) * _scale(groups)).T
            keys[place, :, : mapped.shape[1]] = mapped / (mapped.norm(dim=1, keepdim=True) - 1).clamp_min(0).add(1)
        read = _run_memory(recall, keys, left, horizon, shares)
        target = left[horizon:] * run.scored[horizon:, None]
        read = read[:, :-horizon] * run.scored[horizon:, None]
        # |target|^2 - |target - read|^2
        gain = 2 * torch.einsum("ctd,td->c", read, target) - read.square().sum(dim=(1, 2))
        removed += gain.view(removed.shape)
    return removed


def _run_memory(recall: Recall, keys: Tensor, left: Tensor, horizon: int, shares: Sequence[float]) -> Tensor:
    """What the memories read, ``(candidates * steps, time, width)``, for keys ``(candidates, time, key width)``."""
    n_candidates, n_frames, key_width = keys.shape
    heads = keys.repeat_interleave(len(shares), dim=0)[None]
    waited = torch.cat([heads.new_zeros(1, heads.shape[1], horizon, key_width), heads], dim=2)[:, :, :n_frames]
    steps = torch.tensor(shares).repeat(n_candidates) * recall.memory.largest_step
    theta = steps[None, :, None].expand(1, -1, n_frames)
    read, _ = memory_scan(
        heads,
        waited,
        left.expand(1, heads.shape[1], -1, -1).contiguous(),
        torch.full_like(theta, _FORGETTING),
        torch.zeros_like(theta),
        theta.contiguous(),
        init_state((torch.zeros(heads.shape[1], left.shape[1], key_width),), 1),
        chunk_size=recall.config.chunk_frames,
    )
    return read[0]
