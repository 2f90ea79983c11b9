"""Sufficient statistics of autoregressions, per feature: sums and products of lags and target, in one pass over runs.

They add over runs, so those without a fold are those of all runs less those of the fold; and those of a low order are a
corner of those of the highest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from titan_neuro.errors import MismatchError, TrainingError
from titan_neuro.runs import read_blocks, unit_labels
from titan_neuro.typing import RunData, Stretch

# Wraps the stretches while they are read, such as `tqdm`.
Progress = Callable[[Sequence[Stretch]], Iterable[Stretch]]

# Features whose working set stays in a core's cache: several times faster than all at once.
_BLOCK_FEATURES = 1024


@dataclass(frozen=True, eq=False)
class CenteredStatistics:
    """Second moments about the mean of some features. The variables are the lags, newest first, then the target.

    Attributes
    ----------
    n_rows : float
        Number of rows.
    mean : torch.Tensor
        ``(features, variables)``.
    products : torch.Tensor
        Sums of products about the mean, ``(features, variables, variables)``.
    """

    n_rows: float
    mean: Tensor
    products: Tensor


class StatisticsLayout:
    """Where each sum stands in a table of sums, ``(n_rows, features)``.

    Seen from the target's time point ``s``, a variable is the time point ``s - back``. A second moment is a sum of
    products of two time points a fixed distance apart. The products of one distance are computed once, for all horizons
    and pairs of variables, and summed with different 0/1 weights by one matrix product.

    Parameters
    ----------
    horizons : tuple of int
        Lead times in time points.
    order : int
        Number of lags.

    Attributes
    ----------
    reach : int
        Time points from the oldest lag to the target, at the longest horizon.
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
                for b, other_back in enumerate(backs[a:], start=a):
                    distance = abs(back - other_back)
                    by_distance.setdefault(distance, []).append((index, min(back, other_back), a, b))
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

    def targets(self, stretch: Stretch) -> Tensor:
        """Mark the time points that are targets.

        Returns
        -------
        torch.Tensor
            float64 0 or 1, ``(horizons, n_time_points + reach)``; zeros after the run's end.
        """
        is_target = torch.zeros(len(self.horizons), stretch.run.n_time_points + self.reach, dtype=torch.float64)
        scored = torch.as_tensor(stretch.run.scored).double()
        for index, horizon in enumerate(self.horizons):
            start = max(stretch.start, horizon + self.order - 1)
            is_target[index, start : stretch.stop] = scored[start : stretch.stop]
        return is_target

    def center(self, statistics: Tensor, n_rows: Tensor, index: int) -> CenteredStatistics:
        """Select the horizon of this `index` from a table of some features, ``(n_rows, features)``, and center it."""
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


def assign_folds(runs: Sequence[RunData], n_folds: int) -> list[Stretch]:
    """Distribute `runs` over folds: whole subjects; whole runs of one subject; stretches of the only run.

    Parameters
    ----------
    runs : sequence of RunData
        At least one.
    n_folds : int
        The most folds; fewer where there are fewer subjects or runs.

    Returns
    -------
    list of Stretch
        Every time point of every run, once.
    """
    if len(runs) == 1:
        # Neighboring stretches share the lags across their border; with one run there is nothing better.
        edges = [round(runs[0].n_time_points * part / n_folds) for part in range(n_folds + 1)]
        return [Stretch(runs[0], edges[part], edges[part + 1], part) for part in range(n_folds)]
    labels = unit_labels(runs)
    units = sorted(set(labels))
    fold_of = {unit: position % min(n_folds, len(units)) for position, unit in enumerate(units)}
    return [Stretch(run, 0, run.n_time_points, fold_of[label]) for run, label in zip(runs, labels, strict=True)]


def count_rows(stretches: Sequence[Stretch], layout: StatisticsLayout) -> Tensor:
    """Count the rows of each fold and horizon; a row is a scored target whose lags all lie inside the run.

    Returns
    -------
    torch.Tensor
        float64, ``(folds, horizons)``.
    """
    counts = torch.zeros(max(stretch.fold for stretch in stretches) + 1, len(layout.horizons), dtype=torch.float64)
    for stretch in stretches:
        counts[stretch.fold] += layout.targets(stretch).sum(dim=1)
    return counts


def accumulate_statistics(
    stretches: Sequence[Stretch],
    layout: StatisticsLayout,
    features: slice,
    n_folds: int,
    progress: Progress | None = None,
) -> Tensor:
    """Sum up the statistics of some features over the rows of each fold, in one pass over the runs.

    Parameters
    ----------
    stretches : sequence of Stretch
        What to read, and for which fold.
    layout : StatisticsLayout
        Horizons and order.
    features : slice
        Features to do; may have a step.
    n_folds : int
        Number of folds.
    progress : callable, optional
        Wraps the stretches while they are read, to show progress.

    Returns
    -------
    torch.Tensor
        float64, ``(folds, layout.n_rows, features)``.

    Raises
    ------
    TrainingError
        A time point is not finite.
    """
    n_features = len(range(features.start, features.stop, features.step or 1))
    statistics = torch.zeros(n_folds, layout.n_rows, n_features, dtype=torch.float64)
    for stretch in stretches if progress is None else progress(stretches):
        targets = layout.targets(stretch)
        start = max(0, stretch.start - layout.reach)
        for block, padded in _padded_blocks(stretch.run, start, stretch.stop, layout.reach):
            weights = [
                torch.stack([targets[index, block.start + back : block.stop + back] for index, back in members])
                for _, members in layout.parts
            ]
            series = padded[:, features]
            for columns in feature_blocks(statistics.shape[-1]):
                _add_products(statistics[stretch.fold, :, columns], series[:, columns].double(), weights, layout)
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


def _padded_blocks(run: RunData, start: int, stop: int, n_past: int) -> Iterator[tuple[slice, Tensor]]:
    """Blocks led by `n_past` time points; zeros, which no row uses, before the run."""
    for block, series in read_blocks(run, start=start, stop=stop, n_before=n_past):
        n_read = block.start - max(0, block.start - n_past)
        finite = torch.isfinite(series).all(dim=1)
        if not bool(finite.all()):
            time_point = block.start - n_read + int(finite.logical_not().nonzero()[0])
            raise TrainingError(
                f"{run.key}: time point {time_point} (counted from 0) is not finite.", "Prepare the run again."
            )
        yield block, torch.nn.functional.pad(series, (0, 0, n_past - n_read, 0))
