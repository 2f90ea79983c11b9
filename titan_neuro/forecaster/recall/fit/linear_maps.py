"""The linear forecast in components: from the stimulus about the moment that was found, and from the brain's own past."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from titan_neuro.forecaster.recall.fit.components import ComponentRun, held_out_index
from titan_neuro.forecaster.recall.recall import Recall
from titan_neuro.linear.components import principal_components

# Ridge penalties a row, in units of the features' mean variance; the largest leaves nothing of them.
_PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 1e6)
# Share of the error that a stimulus has to remove at some horizon. From recordings with phases drawn anew for each
# subject, which have slow waves and no stimulus, it removed 1 %; from those of a sitcom 12 %.
_LEAST_GAIN = 2e-2
# Components of the errors by which penalties are chosen.
_CHOOSING_COMPONENTS = 32


def fit_linear(recall: Recall, made: Sequence[ComponentRun]) -> None:
    """Set how the stimulus is read on from, and the map of the own past; note in each run what they come to.

    A ridge regression of the linear skip's errors, for each horizon, on both; a penalty for the stimulus and for each
    kind that the own past has, chosen on folds that are held out in turn. A stimulus that removes less than
    `_LEAST_GAIN` of what the own past leaves, at every horizon, is forgotten: where none was shown, what is taken for
    its moments still tells a little of slow waves.
    """
    stimulus = [_recalled(recall, run) for run in made]
    own = [_own_past(recall, run) for run in made]
    fold_of = [run.fold for run in made]
    n_stimulus = stimulus[0].shape[-1]
    fitted = []
    for index, horizon in enumerate(recall.horizons):
        tables = []
        for run, about, past in zip(made, stimulus, own, strict=True):
            at = run.scored[horizon:].nonzero()[:, 0]
            features = torch.cat([about[at, index], past[at]], dim=1)
            tables.append((features, run.errors[horizon:, index][at]))
        fitted.append(_ridge(tables, fold_of, (n_stimulus, *recall.own_sizes)))
    weights = torch.stack([whole for whole, _ in fitted])
    without = torch.stack([held_out for _, held_out in fitted], dim=1)
    recall.stimulus.set_reader(weights[:, :n_stimulus], without[:, :, :n_stimulus])
    recall.set_own_map(weights[:, n_stimulus:], without[:, :, n_stimulus:])
    squared = torch.zeros(2, len(recall.horizons))
    for run in made:
        known, base, *_ = recall.key_features(
            run.series[None], run.errors[None], recall.init_state(1), held_out_index(run)
        )
        run.base = base[0]
        squared += _squared_errors(recall, run, known[0, ..., recall.width : 2 * recall.width])
    # Each run is read with what was fitted without it, so that this is what the stimulus removes in runs it does not
    # know.
    stimulus_gain = 1 - squared[1] / squared[0].clamp_min(1e-12)
    if recall.stimulus.n_positions and float(stimulus_gain.max()) < _LEAST_GAIN:
        recall.stimulus = recall.init_stimulus_memory(0)
        fit_linear(recall, made)


def _squared_errors(recall: Recall, run: ComponentRun, own: Tensor) -> Tensor:
    """What is left by the forecasts from the own past, and by those from the stimulus beside it; ``(2, horizons)``."""
    squared = torch.zeros(2, len(recall.horizons))
    for index, horizon in enumerate(recall.horizons):
        errors, scored = run.errors[horizon:, index], run.scored[horizon:]
        for row, forecasts in enumerate((own, run.base)):
            squared[row, index] = (errors - forecasts[:-horizon, index])[scored].square().sum()
    return squared


def _recalled(recall: Recall, run: ComponentRun) -> Tensor:
    """The others' stimulus about the time points that are forecast, by the moment found; ``(time, horizons, ...)``."""
    stimulus, subject = recall.stimulus, held_out_index(run)[:, 0]
    if not stimulus.n_positions:
        return run.series.new_zeros(len(run.series), *stimulus.reader.shape[:2])
    probabilities, _ = stimulus.find(run.innovations[None], stimulus.init_state(1), subject)
    return stimulus.read_on(probabilities, subject)[0]


def _own_past(recall: Recall, run: ComponentRun) -> Tensor:
    """What the linear forecast is made from, ``(time, features)``."""
    past, _ = recall.own_past(run.series[None], run.innovations[None], recall.init_state(1).recent_tail)
    return past[0]


def _ridge(
    tables: Sequence[tuple[Tensor, Tensor]], fold_of: Sequence[int], sizes: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Weights ``(features, width)``, and ``(folds, features, width)`` without each fold.

    Features come in groups of these `sizes`, each of which has a penalty of its own.
    """
    n_features = tables[0][0].shape[1]
    folds = sorted(set(fold_of))
    positions = {}
    for fold in folds:
        features = torch.cat([tables[i][0] for i in range(len(tables)) if fold_of[i] == fold])
        targets = torch.cat([tables[i][1] for i in range(len(tables)) if fold_of[i] == fold])
        positions[fold] = (features.T @ features, features.T @ targets, len(features))
    gram, cross, n_rows = (sum(parts) for parts in zip(*positions.values(), strict=True))
    if len(folds) == 1:
        return torch.zeros(n_features, cross.shape[1]), torch.zeros(1, n_features, cross.shape[1])
    # What the data do not have, as the stimulus where there is none, is columns of zeros.
    power = gram.diagonal()
    ends = list(itertools.accumulate(sizes))
    parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    groups = [part for part in parts if bool(power[part].any())]
    units = [float(power[part][power[part] > 0].mean()) for part in groups]

    def solve(matrix: Tensor, target: Tensor, penalties: Sequence[float], share: float) -> Tensor:
        ridge = torch.ones(n_features)
        for penalty, part, unit in zip(penalties, groups, units, strict=True):
            ridge[part] = penalty * share * unit
        return torch.cholesky_solve(target, torch.linalg.cholesky(matrix + torch.diag(ridge)))

    strongest = principal_components(torch.cat([targets for _, targets in tables]), _CHOOSING_COMPONENTS).T

    @functools.cache
    def error(penalties: tuple[float, ...]) -> float:
        total = 0.0
        for own_gram, own_cross, n_own in positions.values():
            few = own_cross @ strongest
            weights = solve(gram - own_gram, cross @ strongest - few, penalties, 1 - n_own / n_rows)
            total += float((weights * (own_gram @ weights)).sum() - 2 * (weights * few).sum())
        return total

    # In turn, each beside the best of the others, twice.
    best = (1.0,) * len(groups)
    for place in [*range(len(groups))] * 2:
        best = min(((*best[:place], penalty, *best[place + 1 :]) for penalty in _PENALTIES), key=error)
    held_out = [
        solve(gram - own_gram, cross - own_cross, best, 1 - n_own / n_rows)
        for own_gram, own_cross, n_own in positions.values()
    ]
    return solve(gram, cross, best, 1.0), torch.stack(held_out)
