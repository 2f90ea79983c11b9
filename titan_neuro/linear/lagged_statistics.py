"""First and second moments of a run's lags and targets, per feature, in one pass over the data.

All that a linear autoregression needs to know of its training data. Moments add over runs, so those of a part of the
data are those of the whole less those of the rest; and the moments of a low order are a corner of those of the highest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from titan_neuro.errors import MismatchError, TrainingError
from titan_neuro.typing import RunData

_BLOCK_TIME_POINTS = 256
# Features whose working set stays in a core's cache: several times faster than all at once.
_BLOCK_FEATURES = 1024


@dataclass(frozen=True, eq=False)
class Span:
    """Target time points ``start <= s < stop`` of a run, and the fold that they belong to."""

    run: RunData
    start: int
    stop: int
    fold: int


@dataclass(frozen=True, eq=False)
class CenteredStatistics:
    """Moments about the mean of some features. The variables are the lags, newest first, and at last the target.

    Attributes
    ----------
    n_rows : float
        Rows that were summed.
    mean : torch.Tensor
        ``(features, variables)``.
    products : torch.Tensor
        Sums of products about the mean, ``(features, variables, variables)``.
    """

    n_rows: float
    mean: Tensor
    products: Tensor


class StatisticsLayout:
    """Where each moment stands in a table of moments, ``(n_rows, features)``.

    Seen from the target's time point ``s``, a variable is the time point ``s - back``. A second moment is a sum of
    products of two time points a fixed distance apart; the products of one distance are made once, for all horizons and
    pairs of variables, and summed with different 0/1 weights by one matrix product.

    Parameters
    ----------
    horizons : tuple of int
        Time points ahead.
    order : int
        Number of lags.

    Attributes
    ----------
    reach : int
        How far the oldest lag lies behind the target, at the longest horizon.
    parts : list of (int, list of (int, int))
        Consecutive rows that belong together: their distance (-1: plain sums), and for each of them the index of its
        horizon and the `back` of its newer time point.
    n_rows : int
        Rows of the table.
    """

    def __init__(self, horizons: tuple[int, ...], order: int) -> None:
        self.horizons, self.order, self.reach = horizons, order, max(horizons) + order - 1
        self._first = torch.empty(len(horizons), order + 1, dtype=torch.long)
        self._second = torch.empty(len(horizons), order + 1, order + 1, dtype=torch.long)
        by_distance: dict[int, list[tuple[int, int, int, int]]] = {}
        for index, horizon in enumerate(horizons):
            backs = [*(horizon + lag for lag in range(order)), 0]
            for a, back in enumerate(backs):
                by_distance.setdefault(-1, []).append((index, back, a, a))
                for b, other in enumerate(backs[a:], start=a):
                    by_distance.setdefault(abs(back - other), []).append((index, min(back, other), a, b))
        self.parts: list[tuple[int, list[tuple[int, int]]]] = []
        self.n_rows = 0
        for distance, members in sorted(by_distance.items()):
            self.parts.append((distance, [(index, back) for index, back, _, _ in members]))
            for index, _, a, b in members:
                if distance < 0:
                    self._first[index, a] = self.n_rows
                else:
                    self._second[index, a, b] = self._second[index, b, a] = self.n_rows
                self.n_rows += 1

    def targets(self, span: Span) -> Tensor:
        """Mark the time points that are targets: float64 0 or 1, ``(horizons, n_time_points + reach)``, zeros at the
        end.
        """
        chosen = torch.zeros(len(self.horizons), span.run.n_time_points + self.reach, dtype=torch.float64)
        scored = torch.as_tensor(span.run.scored).double()
        for index, horizon in enumerate(self.horizons):
            start = max(span.start, horizon + self.order - 1)
            chosen[index, start : span.stop] = scored[start : span.stop]
        return chosen

    def center(self, statistics: Tensor, n_rows: Tensor, index: int) -> CenteredStatistics:
        """Take one horizon's moments, by its `index`, out of a table of some features, ``(n_rows, features)``."""
        mean = statistics[self._first[index]].T / n_rows
        # Contiguous, or every batched product that follows copies it again.
        products = statistics[self._second[index]].permute(2, 0, 1).contiguous()
        return CenteredStatistics(float(n_rows), mean, products - n_rows * mean[:, :, None] * mean[:, None, :])


def common_n_features(runs: Sequence[RunData]) -> int:
    """Return the number of features that all `runs` share.

    Raises
    ------
    TrainingError
        There is no run.
    MismatchError
        The runs differ.
    """
    if not runs:
        raise TrainingError("There is no training run to fit on.", "Check the split and the participant filter.")
    for run in runs:
        if run.n_features != runs[0].n_features:
            raise MismatchError(
                f"Training runs differ: {runs[0].key} has {runs[0].n_features} features, {run.key} {run.n_features}.",
                "Prepare all runs with one mask or one parcellation.",
            )
    return runs[0].n_features


def assign_folds(runs: Sequence[RunData], n_folds: int) -> list[Span]:
    """Share `runs` among folds: whole subjects; whole runs, where there is one subject; stretches of the only run.

    Parameters
    ----------
    runs : sequence of RunData
        At least one.
    n_folds : int
        The most folds to make; fewer where there are fewer subjects or runs.

    Returns
    -------
    list of Span
        Every time point of every run, once.
    """
    if len(runs) == 1:
        # Neighbouring stretches share the lags across their border; with one run there is nothing better.
        edges = [round(runs[0].n_time_points * part / n_folds) for part in range(n_folds + 1)]
        return [Span(runs[0], edges[part], edges[part + 1], part) for part in range(n_folds)]
    several_subjects = len({run.subject for run in runs}) > 1
    unit_of = {run.key: run.subject if several_subjects else run.key for run in runs}
    units = sorted(set(unit_of.values()))
    fold_of = {unit: position % min(n_folds, len(units)) for position, unit in enumerate(units)}
    return [Span(run, 0, run.n_time_points, fold_of[unit_of[run.key]]) for run in runs]


def count_rows(spans: Sequence[Span], layout: StatisticsLayout) -> Tensor:
    """Count the rows (a scored target whose lags all lie inside the run) of each fold and horizon.

    Returns
    -------
    torch.Tensor
        float64, ``(folds, horizons)``.
    """
    counts = torch.zeros(max(span.fold for span in spans) + 1, len(layout.horizons), dtype=torch.float64)
    for span in spans:
        counts[span.fold] += layout.targets(span).sum(dim=1)
    return counts


def accumulate_statistics(spans: Sequence[Span], layout: StatisticsLayout, features: slice, n_folds: int) -> Tensor:
    """Sum the moments of some features over the rows of each fold, in one pass over the runs.

    Parameters
    ----------
    spans : sequence of Span
        What to read, and for which fold.
    layout : StatisticsLayout
        Horizons and order.
    features : slice
        Features to do.
    n_folds : int
        Number of folds.

    Returns
    -------
    torch.Tensor
        float64, ``(folds, layout.n_rows, features)``.

    Raises
    ------
    TrainingError
        A time point is not finite.
    """
    statistics = torch.zeros(n_folds, layout.n_rows, features.stop - features.start, dtype=torch.float64)
    for span in tqdm(spans, desc="autoregression", unit="run", disable=None, leave=False):
        targets = layout.targets(span)
        for start in range(max(0, span.start - layout.reach), span.stop, _BLOCK_TIME_POINTS):
            stop = min(start + _BLOCK_TIME_POINTS, span.stop)
            weights = [
                torch.stack([targets[index, start + back : stop + back] for index, back in members])
                for _, members in layout.parts
            ]
            series = _read_with_past(span.run, start, stop, layout.reach)[:, features]
            for some in feature_blocks(statistics.shape[-1]):
                _add_products(statistics[span.fold, :, some], series[:, some].double(), weights, layout)
    return statistics


def feature_blocks(n_features: int) -> Iterator[slice]:
    """Cut the features into blocks whose working set stays in a core's cache."""
    for first in range(0, n_features, _BLOCK_FEATURES):
        yield slice(first, min(first + _BLOCK_FEATURES, n_features))


def _add_products(statistics: Tensor, series: Tensor, weights: Sequence[Tensor], layout: StatisticsLayout) -> None:
    newer = series[layout.reach :]
    row = 0
    for (distance, members), weight in zip(layout.parts, weights, strict=True):
        older = series[layout.reach - distance : series.shape[0] - distance]
        statistics[row : row + len(members)] += weight @ (newer if distance < 0 else newer * older)
        row += len(members)


def _read_with_past(run: RunData, start: int, stop: int, n_past: int) -> Tensor:
    """Time points ``start - n_past <= t < stop``; zeros, which no row uses, where the run had not begun."""
    low = max(0, start - n_past)
    series = run.read(low, stop)
    finite = torch.isfinite(series).all(dim=1)
    if not bool(finite.all()):
        raise TrainingError(
            f"{run.key}: time point {low + int(finite.logical_not().nonzero()[0])} (counted from 0) is not finite.",
            "Prepare the run again.",
        )
    return torch.nn.functional.pad(series, (0, 0, n_past - (start - low), 0))
