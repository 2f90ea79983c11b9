"""Choose the key features and the step size of the forecast memory, and estimate its reliability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from titan_neuro.forecaster.recall.fit.components import ComponentRun, SpatialComponents, residual_errors
from titan_neuro.forecaster.recall.fit.linear_maps import LinearForecasts
from titan_neuro.forecaster.recall.fit.stimulus_memory import runs_for_choices
from titan_neuro.forecaster.recall.forecast_memory import ForecastMemoryFit, largest_step_size
from titan_neuro.forecaster.recall.recall import RecallConfig, RecallSizes, key_features
from titan_neuro.linear.components import principal_components
from titan_neuro.titans.memory import init_state, memory_scan

# Step sizes with which features are chosen, as fractions of the largest; and, once they are chosen, the step size.
_STEP_FRACTIONS = (0.1, 0.25, 0.6)
_FINE_STEP_FRACTIONS = (0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 0.8)
_FORGETTING = 5e-4
# Mean squared length of a key; few are then longer than 1, to which they are scaled down.
_MEAN_SQUARE = 0.7
# Fraction of the error that a memory has to remove to be used at all, and that each further group of features has to
# remove in addition. Without a stimulus, a person's own slow dynamics account for half of the first.
_LEAST_FRACTION_REMOVED, _LEAST_FURTHER_FRACTION = 1e-2, 1e-3
# A memory that is not reliable this many time points ahead, or at the longest horizon, is not used at any horizon: a
# hemodynamic response lasts about as long, and a person's own is learned as easily as a response to the stimulus.
_FAR_TIME_POINTS = 6
# Components of the errors by which choices are made.
_CHOICE_COMPONENTS = 32
# Features with less than this fraction of the innovations' power are left out: scaled to variance 1 they were noise.
_LEAST_POWER = 1e-6
# Step from which training starts where the memory is not used.
_SMALLEST_FRACTION = 0.005


class _Group(NamedTuple):
    """A group of key features: a map ``(group width, key features)`` whose outputs have variance 1."""

    name: str
    map: Tensor


class _Example(NamedTuple):
    """A training run at one horizon.

    Attributes
    ----------
    unit : int
        Index of its subject; of the run, where there is one subject.
    features, residual : torch.Tensor
        Key features ``(time, key features)``, and errors that the other parts leave, ``(time, components)``.
    scored : torch.Tensor
        bool ``(time,)``.
    """

    unit: int
    features: Tensor
    residual: Tensor
    scored: Tensor


def fit_forecast_memory(
    config: RecallConfig,
    runs: Sequence[ComponentRun],
    linear_forecasts: Sequence[LinearForecasts],
    forecasts: Sequence[Tensor],
    components: SpatialComponents,
    horizons: tuple[int, ...],
) -> ForecastMemoryFit:
    """Choose, for each horizon, groups of key features and a step size by forward selection.

    A memory runs through each training run as through a test run, from empty; options are compared by the error that it
    removes. Its reliability follows from the same runs; it is 0 where the memory helps at short horizons alone.

    Parameters
    ----------
    config : RecallConfig
    runs : sequence of ComponentRun
    linear_forecasts : sequence of LinearForecasts
        Of each run: they are key features.
    forecasts : sequence of torch.Tensor
        Of each run, by all other parts together, ``(time, horizons, width)``.
    components : SpatialComponents
    horizons : tuple of int
        Lead times in time points.

    Returns
    -------
    ForecastMemoryFit
    """
    sizes, width = components.sizes, config.group_width
    indices = runs_for_choices(runs)
    sample = [runs[index] for index in indices]
    features = [_key_features(config, components, runs[index], linear_forecasts[index]) for index in indices]
    residuals = [residual_errors(runs[index], forecasts[index], horizons) for index in indices]
    innovations = torch.cat([run.innovations[run.scored] for run in sample])
    directions = principal_components(innovations, _CHOICE_COMPONENTS)
    key_map = torch.zeros(len(horizons), config.n_groups * width, sizes.n_key_features)
    reliability = torch.zeros(len(horizons), sizes.width)
    step_size = torch.zeros(len(horizons), dtype=torch.float64)
    for index, horizon in enumerate(horizons):
        examples = [
            _Example(unit, values[:, index], residual[:, index], run.scored)
            for unit, values, residual, run in zip(_units(sample), features, residuals, sample, strict=True)
        ]
        groups = _feature_groups(config, sizes, examples, float(innovations.square().mean()))
        few = [example._replace(residual=example.residual @ directions.T) for example in examples]
        selected, fraction = _select_groups(config, few, horizon, groups)
        if selected:
            reliability[index] = _run_options(config, examples, horizon, [selected], [fraction]).reliability()[0]
        else:
            # Training may still find what the selection did not.
            selected = [group for group in groups if group.name in {"stimulus", "autoregression", "lag 0"}]
        for place, group in enumerate(selected[: config.n_groups]):
            key_map[index, place * width : place * width + len(group.map)] = group.map * _key_scale(selected)
        step_size[index] = fraction * largest_step_size(config.chunk_time_points)
    far = [index for index, horizon in enumerate(horizons) if horizon >= _FAR_TIME_POINTS] or [-1]
    if not bool(reliability[far].any()):
        # Help at short horizons alone comes from the dynamics of this person's signal, not from the stimulus.
        reliability.zero_()
    return ForecastMemoryFit(key_map, reliability, step_size, torch.full_like(step_size, _FORGETTING))


def _key_features(
    config: RecallConfig, components: SpatialComponents, run: ComponentRun, forecasts: LinearForecasts
) -> Tensor:
    """Key features of a run, ``(time, horizons, features)``; see :func:`key_features`."""
    n_key_components = components.sizes.n_key_components
    key_components = run.innovations[None] @ components.innovation_directions[:n_key_components].T
    tail = key_components.new_zeros(1, config.key_lags - 1, n_key_components)
    features, _ = key_features(forecasts.stimulus[None], forecasts.autoregression[None], key_components, tail)
    return features[0]


def _units(runs: Sequence[ComponentRun]) -> list[int]:
    """Index of the subject of each run, as errors of one subject are not independent; of the run, with one subject."""
    subjects = sorted({run.subject for run in runs})
    return [subjects.index(run.subject) if len(subjects) > 1 else place for place, run in enumerate(runs)]


def _key_scale(groups: Sequence[_Group]) -> float:
    return float((_MEAN_SQUARE / sum(len(group.map) for group in groups)) ** 0.5)


def _feature_groups(
    config: RecallConfig, sizes: RecallSizes, examples: Sequence[_Example], power: float
) -> list[_Group]:
    """All groups of key features at a horizon, but those that hardly vary."""
    width = sizes.width
    columns_of = {"stimulus": slice(0, width), "autoregression": slice(width, 2 * width)}
    for lag in range(config.key_lags):
        first = 2 * width + lag * sizes.n_key_components
        columns_of[f"lag {lag}"] = slice(first, first + sizes.n_key_components)
    groups = []
    for name, columns in columns_of.items():
        samples = torch.cat([example.features[example.scored, columns] for example in examples])
        if float(samples.square().mean()) <= _LEAST_POWER * power:
            continue
        directions = principal_components(samples, config.group_width)
        scale = (samples @ directions.T).square().mean(0).sqrt()
        varies = scale > 1e-3 * scale[0]
        mapped = torch.zeros(int(varies.sum()), sizes.n_key_features)
        mapped[:, columns] = directions[varies] / scale[varies, None]
        groups.append(_Group(name, mapped))
    return groups


def _select_groups(
    config: RecallConfig, examples: Sequence[_Example], horizon: int, groups: Sequence[_Group]
) -> tuple[list[_Group], float]:
    """Forward selection of groups; and the step size with the smallest error, as a fraction of the largest."""
    selected: list[_Group] = []
    candidates = list(groups)
    best, total = 0.0, sum(float(example.residual[example.scored].square().sum()) for example in examples)
    while candidates and len(selected) < config.n_groups:
        options = [[*selected, group] for group in candidates]
        removed = _run_options(config, examples, horizon, options, _STEP_FRACTIONS).error_removed()
        most = removed.view(len(candidates), -1).amax(dim=1)
        least = (_LEAST_FURTHER_FRACTION if selected else _LEAST_FRACTION_REMOVED) * total
        if float(most.max()) < best + least:
            break
        winner = int(most.argmax())
        # A group that does not help in addition to few is not tried in addition to more.
        helps = (most > best).tolist()
        selected.append(candidates[winner])
        candidates = [group for place, group in enumerate(candidates) if helps[place] and place != winner]
        best = float(most.max())
    if not selected:
        return selected, _SMALLEST_FRACTION
    removed = _run_options(config, examples, horizon, [selected], _FINE_STEP_FRACTIONS).error_removed()
    return selected, _FINE_STEP_FRACTIONS[int(removed.argmax())]


class _OutputSums(NamedTuple):
    """Sums over all scored time points, for each unit, option and component: ``(units, options, components)``.

    Attributes
    ----------
    product, square : torch.Tensor
        Of the memory's output with the error, and with itself.
    power : torch.Tensor
        ``(components,)``: mean square of the error.
    """

    product: Tensor
    square: Tensor
    power: Tensor

    def reliability(self) -> Tensor:
        """Shrinkage weight of the output, 0 to 1: the least-squares weight less one standard error.

        The standard error is that between units, or that of independent time points where it is larger: few units may
        agree by chance.

        Returns
        -------
        torch.Tensor
            float64 ``(options, components)``.
        """
        product, square = self.product.sum(dim=0), self.square.sum(dim=0)
        weight = product / square.clamp_min(1e-12)
        variance = square * self.power
        n_units = len(self.product)
        if n_units > 1:
            between = (self.product - weight * self.square).square().sum(dim=0) * n_units / (n_units - 1)
            variance = torch.maximum(variance, between)
        return ((product - variance.sqrt()) / square.clamp_min(1e-12)).clamp(0, 1)

    def error_removed(self) -> Tensor:
        """Squared error that the output times its reliability removes, ``(options,)``."""
        weight, product, square = self.reliability(), self.product.sum(dim=0), self.square.sum(dim=0)
        return (2 * weight * product - weight.square() * square).sum(dim=1)


def _run_options(
    config: RecallConfig,
    examples: Sequence[_Example],
    horizon: int,
    candidates: Sequence[Sequence[_Group]],
    fractions: Sequence[float],
) -> _OutputSums:
    """Run a memory with each set of groups, and each step size, through the runs."""
    n_units, n_options = 1 + max(example.unit for example in examples), len(candidates) * len(fractions)
    product = torch.zeros(n_units, n_options, examples[0].residual.shape[1])
    square, power, n_time_points = torch.zeros_like(product), torch.zeros(()), 0
    longest = max(sum(len(group.map) for group in groups) for groups in candidates)
    for unit, features, residual, scored in examples:
        keys = torch.zeros(len(candidates), len(features), longest)
        for place, groups in enumerate(candidates):
            mapped = features @ (torch.cat([group.map for group in groups]) * _key_scale(groups)).T
            keys[place, :, : mapped.shape[1]] = mapped / (mapped.norm(dim=1, keepdim=True) - 1).clamp_min(0).add(1)
        outputs = _run_memory(config.chunk_time_points, keys, residual, horizon, fractions)
        target = residual[horizon:] * scored[horizon:, None]
        outputs = outputs[:, :-horizon] * scored[horizon:, None]
        product[unit] += torch.einsum("ctd,td->cd", outputs, target)
        square[unit] += outputs.square().sum(dim=1)
        power = power + target.square().sum(dim=0)
        n_time_points += int(scored[horizon:].sum())
    return _OutputSums(product.double(), square.double(), power.double() / max(1, n_time_points))


def _run_memory(
    chunk_time_points: int, keys: Tensor, residual: Tensor, horizon: int, fractions: Sequence[float]
) -> Tensor:
    """Output of the memories, ``(candidates * steps, time, width)``, for keys ``(candidates, time, key width)``."""
    n_candidates, n_time_points, key_width = keys.shape
    queries = keys.repeat_interleave(len(fractions), dim=0)[None]
    n_heads = queries.shape[1]
    waited = torch.cat([queries.new_zeros(1, n_heads, horizon, key_width), queries], dim=2)[:, :, :n_time_points]
    step_sizes = torch.tensor(fractions).repeat(n_candidates) * largest_step_size(chunk_time_points)
    theta = step_sizes[None, :, None].expand(1, -1, n_time_points)
    outputs, _ = memory_scan(
        queries,
        waited,
        residual.expand(1, n_heads, -1, -1).contiguous(),
        torch.full_like(theta, _FORGETTING),
        torch.zeros_like(theta),
        theta.contiguous(),
        init_state((torch.zeros(n_heads, residual.shape[1], key_width),), 1),
        chunk_size=chunk_time_points,
    )
    return outputs[0]
