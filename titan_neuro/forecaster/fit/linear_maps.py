"""Fit the linear forecasts in components: from the stimulus about the target, and from the last time points."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from titan_neuro.forecaster.fit.components import ComponentRun
from titan_neuro.forecaster.fit.stimulus_memory import StimulusAverages
from titan_neuro.forecaster.recall.component_autoregression import ComponentAutoregression, ComponentAutoregressionFit
from titan_neuro.forecaster.recall.config import RecallConfig
from titan_neuro.forecaster.recall.recall import Recalled
from titan_neuro.forecaster.recall.stimulus_memory import StimulusMemory, StimulusMemoryFit
from titan_neuro.linear.components import principal_components
from titan_neuro.linear.ridge import RidgeStatistics

# Ridge penalties a row, in units of the features' mean power; the largest sets their weights to almost 0.
_PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 1e6)
# Fraction of the error that a stimulus has to remove at some horizon. In recordings with phases randomized for each
# subject, which have slow waves and no stimulus, it removed 1 %; in those of a sitcom 12 %.
_LEAST_FRACTION_REMOVED = 2e-2
# Components of the errors by which penalties are chosen.
_CHOICE_COMPONENTS = 32


@dataclasses.dataclass(frozen=True, eq=False)
class LinearMaps:
    """Fitted weights, and the forecasts of each training run by weights fitted without its fold.

    The forecasts are ``(time, horizons, width)``.
    """

    stimulus: StimulusMemoryFit
    autoregression: ComponentAutoregressionFit
    forecasts: list[Recalled]


def fit_linear_maps(
    config: RecallConfig,
    runs: Sequence[ComponentRun],
    stimulus_fit: StimulusMemoryFit,
    averages: StimulusAverages | None,
    directions: Tensor,
    horizons: tuple[int, ...],
    *,
    prior: Tensor | None = None,
) -> LinearMaps:
    """Fit the weights of stimulus memory and vector autoregression together, for each horizon.

    A ridge regression of the linear skip's errors on the features of both, with a penalty for the stimulus and for each
    kind of autoregressive features, chosen by cross-validation. Where the stimulus removes less than
    `_LEAST_FRACTION_REMOVED` of the error that the autoregression leaves, at every horizon, no stimulus is remembered:
    without a stimulus the inferred positions still predict a little of slow waves.

    Parameters
    ----------
    config : RecallConfig
    runs : sequence of ComponentRun
    stimulus_fit : StimulusMemoryFit
        Without weights.
    averages : StimulusAverages or None
        Of the stimulus memory, to leave out further subjects.
    directions : torch.Tensor
        ``(components, width)``: of the time points, for the vector autoregression.
    horizons : tuple of int
        Lead times in time points.
    prior : torch.Tensor, optional
        ``(horizons, features, width)``: VAR weights of a model fitted before, toward which these are shrunk instead of
        toward 0, at each lead time at which held-out folds gain by it.

    Returns
    -------
    LinearMaps
    """
    n_components, width = directions.shape
    stimulus = StimulusMemory(n_components=n_components, horizons=horizons, width=width)
    stimulus.load(stimulus_fit)
    autoregression = ComponentAutoregression(
        n_horizons=len(horizons), n_lags=config.autoregressive_lags, n_components=n_components, width=width
    )
    no_weights = autoregression.weights, autoregression.weights_without
    autoregression.load(ComponentAutoregressionFit(directions, *no_weights))
    weights, weights_without = _fit_weights(runs, stimulus, stimulus_fit, averages, autoregression, prior)

    n_stimulus = stimulus.weights.shape[1]
    stimulus_fit = dataclasses.replace(
        stimulus_fit, weights=weights[:, :n_stimulus], weights_without=weights_without[:, :, :n_stimulus]
    )
    autoregression_fit = ComponentAutoregressionFit(
        directions, weights[:, n_stimulus:], weights_without[:, :, n_stimulus:]
    )
    stimulus.load(stimulus_fit)
    autoregression.load(autoregression_fit)
    forecasts = [_forecast(run, stimulus, autoregression) for run in runs]
    squared = sum((_squared_errors(*pair, horizons) for pair in zip(runs, forecasts, strict=True)), torch.zeros(()))
    removed = 1 - squared[1] / squared[0].clamp_min(1e-12)
    if stimulus.n_positions and float(removed.max()) < _LEAST_FRACTION_REMOVED:
        empty = StimulusMemoryFit.empty(n_components=n_components, n_horizons=len(horizons), width=width)
        return fit_linear_maps(config, runs, empty, None, directions, horizons, prior=prior)
    return LinearMaps(stimulus_fit, autoregression_fit, forecasts)


def _fit_weights(
    runs: Sequence[ComponentRun],
    stimulus: StimulusMemory,
    stimulus_fit: StimulusMemoryFit,
    averages: StimulusAverages | None,
    autoregression: ComponentAutoregression,
    prior: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Weights of all features, ``(horizons, features, width)``, and without each fold, ``(folds, ...)``."""
    folds = range(1 + max(run.fold for run in runs))
    own = [_statistics([run for run in runs if run.fold == fold], stimulus, autoregression) for fold in folds]
    total = functools.reduce(_add, own)
    others = []
    for fold in folds:
        if averages is None:
            # Autoregressive features of a run hold nothing of other runs.
            others.append([everything - part for everything, part in zip(total, own[fold], strict=True)])
            continue
        # The averages from which the other folds are predicted hold the subjects of this one. They stay in them where
        # nobody else is left to predict from: of two subjects.
        members = {run.subject for run in runs if run.fold == fold}
        n_others = int(averages.aligned.present.any(dim=1).sum()) - len(members)
        keys, values = averages.leave_one_out(members if n_others > 1 else ())
        nested = StimulusMemory(n_components=values.shape[2], horizons=stimulus.horizons, width=keys.shape[2])
        nested.load(dataclasses.replace(stimulus_fit, keys_without=keys, values_without=values))
        others.append(_statistics([run for run in runs if run.fold != fold], nested, autoregression))
    sizes = (stimulus.weights.shape[1], *autoregression.feature_sizes)
    fitted = []
    for index, horizon in enumerate(stimulus.horizons):
        targets = torch.cat([run.errors[horizon:, index][run.scored[horizon:]] for run in runs])
        strongest = principal_components(targets, _CHOICE_COMPONENTS).T
        known = None if prior is None else prior[index]
        own_parts, other_parts = ([part[index] for part in parts] for parts in (own, others))
        fitted.append(_solve_from(own_parts, other_parts, sizes, strongest, known))
    weights, weights_without = zip(*fitted, strict=True)
    return torch.stack(weights), torch.stack(weights_without, dim=1)


def _statistics(
    runs: Sequence[ComponentRun], stimulus: StimulusMemory, autoregression: ComponentAutoregression
) -> list[RidgeStatistics]:
    """Statistics of the regression on all features at each horizon, summed over the scored time points of some runs."""
    return functools.reduce(_add, (_run_statistics(run, stimulus, autoregression) for run in runs))


def _run_statistics(
    run: ComponentRun, stimulus: StimulusMemory, autoregression: ComponentAutoregression
) -> list[RidgeStatistics]:
    about_target = _stimulus_features(run, stimulus)
    past, _ = autoregression.features(run.series[None], run.innovations[None], autoregression.init_state(1))
    statistics = []
    for index, horizon in enumerate(stimulus.horizons):
        rows = run.scored[horizon:].nonzero()[:, 0]
        features = torch.cat([about_target[rows, index], past[0, rows]], dim=1)
        statistics.append(RidgeStatistics.from_rows(features, run.errors[horizon:, index][rows]))
    return statistics


def _add(left: Sequence[RidgeStatistics], right: Sequence[RidgeStatistics]) -> list[RidgeStatistics]:
    return [one + other for one, other in zip(left, right, strict=True)]


def _stimulus_features(run: ComponentRun, stimulus: StimulusMemory) -> Tensor:
    """Expected values of the other subjects' stimulus about each target, ``(time, horizons, features)``."""
    if not stimulus.n_positions:
        return run.series.new_zeros(len(run.series), *stimulus.weights.shape[:2])
    subject = run.subject_index
    probabilities, _ = stimulus.locate(run.innovations[None], stimulus.init_state(1), subject)
    return stimulus.target_features(probabilities, subject)[0]


def _forecast(run: ComponentRun, stimulus: StimulusMemory, autoregression: ComponentAutoregression) -> Recalled:
    series, innovations = run.series[None], run.innovations[None]
    from_stimulus, _ = stimulus(innovations, stimulus.init_state(1), run.subject_index, run.fold_index)
    from_series, _ = autoregression(series, innovations, autoregression.init_state(1), run.fold_index)
    return Recalled(from_stimulus[0], from_series[0])


def _squared_errors(run: ComponentRun, forecasts: Recalled, horizons: Sequence[int]) -> Tensor:
    """Squared error of the autoregression, and of stimulus and autoregression together; ``(2, horizons)``."""
    squared = torch.zeros(2, len(horizons))
    for index, horizon in enumerate(horizons):
        errors, scored = run.errors[horizon:, index], run.scored[horizon:]
        for row, values in enumerate((forecasts.own, forecasts.total)):
            squared[row, index] = (errors - values[:-horizon, index])[scored].square().sum()
    return squared


def _solve_from(
    own: Sequence[RidgeStatistics],
    others: Sequence[RidgeStatistics],
    sizes: Sequence[int],
    strongest: Tensor,
    prior: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Do as :func:`_solve_groups`; shrink the last features' weights toward `prior` where held-out folds gain by it."""
    nothing = torch.zeros_like(own[0].cross)
    if prior is None:
        return _solve_groups(own, others, sizes, strongest)
    options = []
    for toward in (torch.cat([nothing[: -len(prior)], prior]), nothing):
        left, left_of_others = ([part.beyond(toward) for part in parts] for parts in (own, others))
        weights, weights_without = (toward + change for change in _solve_groups(left, left_of_others, sizes, strongest))
        error = sum(float(part.error_change(each)) for part, each in zip(own, weights_without, strict=True))
        options.append((error, weights, weights_without))
    return min(options, key=lambda option: option[0])[1:]


def _solve_groups(
    own: Sequence[RidgeStatistics], others: Sequence[RidgeStatistics], sizes: Sequence[int], strongest: Tensor
) -> tuple[Tensor, Tensor]:
    """Choose a penalty for each group of features by cross-validation, and solve.

    Parameters
    ----------
    own, others : sequence of RidgeStatistics
        For each fold, of its runs; and of the other folds' runs, with features that hold nothing of it.
    sizes : sequence of int
        Number of features of each group.
    strongest : torch.Tensor
        ``(width, components)``: directions of the errors by which penalties are chosen.

    Returns
    -------
    weights : torch.Tensor
        ``(features, width)``.
    weights_without : torch.Tensor
        ``(folds, features, width)``: without each fold.
    """
    total = functools.reduce(operator.add, own)
    if len(own) == 1:
        return torch.zeros_like(total.cross), torch.zeros(1, *total.cross.shape)
    power = total.gram.diagonal()
    # Groups that are 0 throughout, as the stimulus where there is none, have no penalty to choose.
    ends = list(itertools.accumulate(sizes))
    columns = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    groups = [part for part in columns if bool(power[part].any())]
    units = [float(power[part][power[part] > 0].mean()) for part in groups]

    def ridge(penalties: Sequence[float], fraction: float) -> Tensor:
        diagonal = torch.ones(len(power))
        for penalty, part, unit in zip(penalties, groups, units, strict=True):
            diagonal[part] = penalty * fraction * unit
        return diagonal

    def solve(statistics: RidgeStatistics, penalties: Sequence[float]) -> Tensor:
        return statistics.solve(ridge(penalties, statistics.n_rows / total.n_rows))

    few = [[part.project_targets(strongest) for part in parts] for parts in zip(own, others, strict=True)]

    @functools.cache
    def error(penalties: tuple[float, ...]) -> float:
        return sum(float(held_out.error_change(solve(rest, penalties))) for held_out, rest in few)

    best = _descend([_PENALTIES] * len(groups), error, start=[_PENALTIES.index(1.0)] * len(groups))
    return solve(total, best), torch.stack([solve(rest, best) for rest in others])


def _descend(
    grids: Sequence[Sequence[float]], error: Callable[[tuple[float, ...]], float], start: Sequence[int]
) -> tuple[float, ...]:
    """Coordinate descent on grids, from `start`: each value moves to its neighbor while the error falls.

    Given the others, the error falls towards one value of each grid: a third of the trials that all values of each grid
    would take find it.
    """
    places = list(start)

    def at(tried: Sequence[int]) -> float:
        return error(tuple(grid[place] for grid, place in zip(grids, tried, strict=True)))

    is_better = True
    while is_better:
        is_better = False
        for index, step in itertools.product(range(len(grids)), (1, -1)):
            while 0 <= places[index] + step < len(grids[index]):
                tried = [*places[:index], places[index] + step, *places[index + 1 :]]
                if at(tried) >= at(places):
                    break
                places, is_better = tried, True
    return tuple(grid[place] for grid, place in zip(grids, places, strict=True))
