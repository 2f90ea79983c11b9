"""Linear autoregression, one per feature, fitted in closed form and run as a stream.

For feature ``v`` and horizon ``h`` (an AR(p) of Box and Jenkins, with weights of its own for each horizon)::

    y_v[t + h]  ~  b_hv + sum_{i=0}^{p-1} a_hiv y_v[t - i]

It is the reference of every skill score, and the linear skip of the forecaster. Both are computed here, so that they
are identical.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from titan_neuro.errors import ConfigError, MismatchError, TrainingError
from titan_neuro.linear.lagged_statistics import (
    CenteredStatistics,
    Progress,
    StatisticsLayout,
    accumulate_statistics,
    assign_folds,
    common_n_features,
    count_rows,
    feature_blocks,
)
from titan_neuro.linear.ridge import ridge_factor
from titan_neuro.runs import BLOCK_TIME_POINTS, read_blocks
from titan_neuro.typing import RunData, Stretch

ORDERS = (1, 2, 4, 8)
PENALTIES = (1e-6, 1e-3, 1e-2, 1e-1, 1.0, 10.0)

# Order and penalty, which all features share, are chosen on so many of them, evenly spaced: with the 235,000 voxels
# of a brain at 2 mm, cross-validation took most of the time.
_CHOICE_FEATURES = 2**14
# Forecasts computed at a time; few enough to stay in a core's cache.
_BLOCK_NUMBERS = 2**18


@dataclass(frozen=True, eq=False)
class Autoregression:
    """Fitted weights.

    Attributes
    ----------
    coefficients : torch.Tensor
        float32, ``(horizons, max(orders), features)``: weight of the time point ``i`` steps back, ``i = 0`` being the
        present one; zero beyond the chosen order.
    intercept : torch.Tensor
        float32, ``(horizons, features)``.
    horizons : tuple of int
        Time points ahead.
    order : tuple of int
        For each horizon, the number of time points used; the same for all features.
    penalty : tuple of float
        For each horizon, the ridge penalty per row, in units of the data's variance; the same for all features.
    """

    coefficients: Tensor
    intercept: Tensor
    horizons: tuple[int, ...]
    order: tuple[int, ...]
    penalty: tuple[float, ...]


def autoregress(series: Tensor, history: Tensor, coefficients: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor]:
    """Forecast from every time point of a block of a run.

    The order of products and sums does not depend on the length of the block: the forecasts are identical, bit for bit,
    however a run is cut into blocks.

    Parameters
    ----------
    series : torch.Tensor
        ``(..., time, features)``.
    history : torch.Tensor
        The ``order - 1`` time points before the block, ``(..., order - 1, features)``. Zeros, the mean of z-scored
        data, before the run.
    coefficients : torch.Tensor
        ``(horizons, order, features)``.
    intercept : torch.Tensor
        ``(horizons, features)``.

    Returns
    -------
    forecasts : torch.Tensor
        ``(..., time, horizons, features)``.
    history : torch.Tensor
        The last ``order - 1`` time points, for the next block.

    Raises
    ------
    MismatchError
        The shapes don't fit each other.
    """
    n_time_points, n_features = series.shape[-2:]
    n_horizons, order, n_fitted = coefficients.shape
    if n_features != n_fitted or history.shape[-2:] != (order - 1, n_features):
        raise MismatchError(
            f"Autoregression of order {order} on {n_fitted} features: expected time points (..., time, {n_fitted}) and "
            f"a history (..., {order - 1}, {n_fitted}), found {tuple(series.shape)} and {tuple(history.shape)}."
        )
    padded = torch.cat([history, series], dim=-2)
    width = max(256, _BLOCK_NUMBERS // (n_time_points * n_horizons))
    parts = []
    for first in range(0, n_features, width):
        columns = slice(first, first + width)
        offset = intercept[:, columns]
        total = offset.expand(*series.shape[:-1], *offset.shape).clone()
        for lag in range(order):
            past = padded[..., order - 1 - lag : order - 1 - lag + n_time_points, None, columns]
            # Two operations on purpose: a fused multiply-add may round once here and twice there in one tensor.
            total += coefficients[:, lag, columns] * past
        parts.append(total)
    return torch.cat(parts, dim=-1), padded[..., n_time_points:, :].clone()


def autoregress_blocks(
    run: RunData, fitted: Autoregression, block_time_points: int = BLOCK_TIME_POINTS
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read a run block by block, and forecast from each of its time points.

    Parameters
    ----------
    run : RunData
    fitted : Autoregression
    block_time_points : int
        Length of a block in time points.

    Yields
    ------
    series : torch.Tensor
        ``(time, features)``.
    forecasts : torch.Tensor
        Made at these time points, ``(time, horizons, features)``.
    """
    _, order, n_features = fitted.coefficients.shape
    history = fitted.coefficients.new_zeros(order - 1, n_features)
    for _, series in read_blocks(run, block_time_points):
        forecasts, history = autoregress(series, history, fitted.coefficients, fitted.intercept)
        yield series, forecasts


def fit_autoregression(
    runs: Sequence[RunData],
    horizons: Sequence[int],
    *,
    orders: Sequence[int] = ORDERS,
    penalties: Sequence[float] = PENALTIES,
    n_folds: int = 5,
    memory_bytes: int = 2**30,
    progress: Progress | None = None,
) -> Autoregression:
    """Fit a ridge regression for each feature and horizon, its order and penalty chosen on held-out training data.

    Minimizes ``sum_t (y_v[t + h] - forecast)^2 + penalty * n_rows * sum_i a_i^2`` over the rows ``t`` whose target is
    scored and whose ``max(orders)`` lags lie inside the run: the same rows for every order. For each horizon one order
    and penalty serve all features: the pair with the smallest squared error in cross-validation, summed over features
    (of more than 16,384 over a part, evenly spaced). A fold is a group of subjects; of runs, where there is one
    subject; a stretch of time, where there is one run.

    Parameters
    ----------
    runs : sequence of RunData
        Training runs, z-scored per feature.
    horizons : sequence of int
        Time points ahead, each at least 1.
    orders : sequence of int
        Orders to choose from, each at least 1.
    penalties : sequence of float
        Penalties to choose from, above 0; in units of the data's variance.
    n_folds : int
        The most folds, at least 2.
    memory_bytes : int
        Memory for sufficient statistics. Features for which it does not suffice take a further pass over the runs.
    progress : callable, optional
        Wraps the stretches of runs while they are read, to show progress.

    Returns
    -------
    Autoregression
        The weights, fitted on all runs.

    Raises
    ------
    ConfigError, MismatchError
        A horizon, order, penalty or number of folds out of its range; runs with different numbers of features.
    TrainingError
        No run; a time point that is not finite; too few scored time points to fit and to hold out.
    """
    _check_choices(horizons, orders, penalties, n_folds)
    common_n_features(runs)
    layout = StatisticsLayout(tuple(horizons), max(orders))
    stretches = assign_folds(runs, n_folds)
    counts = _count_rows(stretches, layout)
    candidates = [(order, penalty) for order in sorted(orders) for penalty in sorted(penalties)]
    totals, errors = _read_runs(stretches, layout, counts, candidates, memory_bytes, progress)
    return _fit_weights(totals, counts.sum(0), layout, [candidates[int(best)] for best in errors.argmin(dim=1)])


def _read_runs(
    stretches: Sequence[Stretch],
    layout: StatisticsLayout,
    counts: Tensor,
    candidates: Sequence[tuple[int, float]],
    memory_bytes: int,
    progress: Progress | None,
) -> tuple[Tensor, Tensor]:
    """Sufficient statistics of all runs, ``(layout.n_rows, features)``, and held-out errors of the candidates."""
    n_features, n_parts = stretches[0].run.n_features, len(counts)
    totals = torch.empty(layout.n_rows, n_features, dtype=torch.float64)
    errors = torch.zeros(len(layout.horizons), len(candidates), dtype=torch.float64)
    sample = slice(0, n_features, -(-n_features // _CHOICE_FEATURES))
    if sample.step > 1:
        statistics = accumulate_statistics(stretches, layout, sample, n_parts, progress)
        errors += _held_out_errors(statistics, counts, layout, candidates)
        # All features together then need no folds.
        stretches, n_parts = [stretch._replace(fold=0) for stretch in stretches], 1
    width = max(1, memory_bytes // (8 * layout.n_rows * (n_parts + 1)))
    for first in range(0, n_features, width):
        features = slice(first, min(first + width, n_features))
        statistics = accumulate_statistics(stretches, layout, features, n_parts, progress)
        totals[:, features] = statistics.sum(0)
        if sample.step == 1:
            errors += _held_out_errors(statistics, counts, layout, candidates)
    return totals, errors


def _fit_weights(
    totals: Tensor, n_rows: Tensor, layout: StatisticsLayout, chosen: Sequence[tuple[int, float]]
) -> Autoregression:
    """Fit all features with the order and penalty that were chosen for each horizon."""
    n_horizons, n_features = len(layout.horizons), totals.shape[1]
    coefficients, intercept = torch.zeros(n_horizons, layout.order, n_features), torch.zeros(n_horizons, n_features)
    for index, candidate in enumerate(chosen):
        for columns in feature_blocks(n_features):
            weights, offset = _solve(layout.center(totals[:, columns], n_rows[index], index), [candidate])
            coefficients[index, :, columns] = weights[..., 0].T.float()
            intercept[index, columns] = offset[:, 0].float()
    order, penalty = zip(*chosen, strict=True)
    return Autoregression(coefficients, intercept, layout.horizons, order, penalty)


def _solve(statistics: CenteredStatistics, candidates: Sequence[tuple[int, float]]) -> tuple[Tensor, Tensor]:
    """Ridge weights ``(features, order, candidates)`` and intercepts ``(features, candidates)``."""
    gram, cross = statistics.products[:, :-1, :-1], statistics.products[:, :-1, -1:]
    factors = {penalty: ridge_factor(gram, penalty * statistics.n_rows) for _, penalty in candidates}
    weights = gram.new_zeros(*gram.shape[:2], len(candidates))
    for column, (order, penalty) in enumerate(candidates):
        # One factor serves every order: its corner is the factor of the corner.
        factor = factors[penalty][:, :order, :order]
        weights[:, :order, column] = torch.cholesky_solve(cross[:, :order], factor)[..., 0]
    return weights, statistics.mean[:, -1:] - (statistics.mean[:, None, :-1] @ weights)[:, 0]


def _held_out_errors(
    statistics: Tensor, counts: Tensor, layout: StatisticsLayout, candidates: Sequence[tuple[int, float]]
) -> Tensor:
    """Cross-validated squared error, summed over features: ``(horizons, candidates)``."""
    errors = torch.zeros(len(layout.horizons), len(candidates), dtype=torch.float64)
    n_rows = counts.sum(0)
    for columns in feature_blocks(statistics.shape[-1]):
        part = statistics[:, :, columns]
        total = part.sum(0)
        # A fold without a row at some horizon is skipped there.
        for fold, index in counts.nonzero().tolist():
            train = layout.center(total - part[fold], n_rows[index] - counts[fold, index], index)
            test = layout.center(part[fold], counts[fold, index], index)
            weights, offset = _solve(train, candidates)
            # The residual is a sum of the variables: the target, less the weights times the lags.
            residual = torch.cat([-weights, torch.ones_like(weights[:, :1])], dim=1)
            spread = (residual * (test.products @ residual)).sum(dim=(0, 1))
            bias = (test.mean[:, None] @ residual)[:, 0] - offset
            errors[index] += spread + test.n_rows * bias.square().sum(0)
    return errors


def _check_choices(horizons: Sequence[int], orders: Sequence[int], penalties: Sequence[float], n_folds: int) -> None:
    if not (horizons and min(horizons) >= 1 and orders and min(orders) >= 1 and penalties and min(penalties) > 0):
        raise ConfigError(
            f"Autoregression: horizons {tuple(horizons)} and orders {tuple(orders)} must be at least 1 and penalties "
            f"{tuple(penalties)} above 0, and there must be one of each."
        )
    if n_folds < 2:
        raise ConfigError(f"Autoregression: n_folds must be at least 2, found {n_folds}.")


def _count_rows(stretches: Sequence[Stretch], layout: StatisticsLayout) -> Tensor:
    """Rows of each fold and horizon, ``(folds, horizons)``, at least two folds with rows at each horizon."""
    counts = count_rows(stretches, layout)
    for index, horizon in enumerate(layout.horizons):
        n_filled = int((counts[:, index] > 0).sum())
        if n_filled < 2:
            length = horizon + layout.order
            raise TrainingError(
                f"Autoregression at horizon {horizon}: {int(counts[:, index].sum())} training rows in {n_filled} of "
                f"{len(counts)} folds; order and penalty are chosen on rows in at least two. A row is a scored time "
                f"point with {length - 1} time points of its run before it.",
                f"Give more or longer training runs, of at least {length} time points each, or shorter horizons.",
            )
    return counts
