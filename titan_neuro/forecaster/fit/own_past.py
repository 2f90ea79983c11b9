"""Fit what each component's own past tells of the errors that the other parts of the recall leave."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from titan_neuro.forecaster.fit.components import ComponentRun, residual_errors
from titan_neuro.forecaster.recall.own_past import OwnPast, OwnPastFit
from titan_neuro.forecaster.recall.recall import Recalled
from titan_neuro.linear.ridge import choose_option, ridge_factor
from titan_neuro.linear.running_averages import LEAST_RUN_TIME_POINTS, N_OWN_PREDICTORS

# Ridge penalties a row, in units of the variance of each component.
_PENALTIES = (0.001, 0.005, 0.02, 0.1, 0.5, 3.0)


def fit_own_past(
    runs: Sequence[ComponentRun], recalled: Sequence[Recalled], horizons: tuple[int, ...]
) -> tuple[OwnPastFit, list[Recalled]]:
    """Fit the weights, and add their forecasts to those of the parts fitted before.

    A ridge regression for each component, on a dozen predictors. At each lead time one penalty serves all components:
    the one that removes most error in held-out folds, if it removes some by more than one standard error. Runs of fewer
    than `LEAST_RUN_TIME_POINTS` time points are not learned from: without longer ones all weights are 0.

    Parameters
    ----------
    runs : sequence of ComponentRun
    recalled : sequence of Recalled
        Of each run, by the parts fitted before, ``(time, horizons, width)``.
    horizons : tuple of int
        Lead times in time points.

    Returns
    -------
    fit : OwnPastFit
    recalled : list of Recalled
        With these forecasts added to what follows from the stream's own past.
    """
    module = OwnPast(n_horizons=len(horizons), width=runs[0].series.shape[1])
    folds = sorted({run.fold for run in runs})
    shape = len(folds), len(horizons), module.width, N_OWN_PREDICTORS
    gram = torch.zeros(*shape, N_OWN_PREDICTORS, dtype=torch.float64)
    cross = torch.zeros(*shape, dtype=torch.float64)
    n_rows, power, n_scored = torch.zeros(shape[:2]), torch.zeros(module.width), 0
    for run, made in zip(runs, recalled, strict=True):
        if len(run.series) < LEAST_RUN_TIME_POINTS:
            continue
        errors = residual_errors(run, made.total, horizons)
        predictors = module.init_state(1).read(run.series[None])[0][0].double()
        fold = folds.index(run.fold)
        power += run.series[run.scored].square().sum(0)
        n_scored += int(run.scored.sum())
        for index, horizon in enumerate(horizons):
            rows = run.scored[horizon:].nonzero()[:, 0]
            chosen, targets = predictors[:, rows], errors[horizon:, index][rows].double()
            gram[fold, index] += chosen.mT @ chosen
            cross[fold, index] += torch.einsum("dtp,td->dp", chosen, targets)
            n_rows[fold, index] += len(rows)
    unit = (power / max(1, n_scored)).clamp_min(1e-12).double()
    fit = _solve(gram, cross, n_rows, unit, max(folds) + 1)
    module.load(fit)
    own = [module(run.series[None], module.init_state(1), run.fold_index)[0][0] for run in runs]
    return fit, [made._replace(own=made.own + more) for made, more in zip(recalled, own, strict=True)]


def _solve(gram: Tensor, cross: Tensor, n_rows: Tensor, unit: Tensor, n_folds: int) -> OwnPastFit:
    """Choose a penalty for each horizon, and solve with all folds and without each.

    Sums are those of each fold, ``(folds, horizons, ...)``; `unit` is the variance of each component.
    """
    _, n_horizons, width, n_predictors = cross.shape
    weights = torch.zeros(width, n_predictors, n_horizons)
    weights_without = torch.zeros(n_folds, *weights.shape)
    if len(gram) == 1:
        return OwnPastFit(weights, weights_without)

    def solve(index: int, folds: Tensor, penalty: float) -> Tensor:
        # Each component has a penalty of its own: in units of its variance all have the same.
        products = gram[folds, index].sum(0) / unit[:, None, None]
        sums, count = cross[folds, index].sum(0) / unit[:, None], float(n_rows[folds, index].sum())
        return torch.cholesky_solve(sums[..., None], ridge_factor(products, penalty * count))[..., 0]

    every = torch.arange(len(gram))
    for index in range(n_horizons):
        counts = n_rows[:, index]
        # Without a row in a fold, or outside it, there is nothing to hold out.
        kept = [fold for fold, count in enumerate(counts) if 0 < float(count) < float(counts.sum())]
        if len(kept) < 2:
            continue
        changes = torch.zeros(len(kept), len(_PENALTIES), dtype=torch.float64)
        without = {}
        for column, penalty in enumerate(_PENALTIES):
            for row, fold in enumerate(kept):
                found = without[fold, column] = solve(index, every[every != fold], penalty)
                power = torch.einsum("dp,dpq,dq", found, gram[fold, index], found)
                changes[row, column] = power - 2 * (found * cross[fold, index]).sum()
        best = choose_option(changes)
        if best is None:
            continue
        weights[..., index] = solve(index, every, _PENALTIES[best]).float()
        weights_without[..., index] = weights[..., index]
        for fold in kept:
            weights_without[fold, ..., index] = without[fold, best].float()
    return OwnPastFit(weights, weights_without)
