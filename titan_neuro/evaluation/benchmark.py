"""The whole benchmark: the scores of every seed, and each subject's metrics averaged over the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from titan_neuro.errors import MismatchError, NoMatchError
from titan_neuro.evaluation.metrics_and_rows import CORRELATIONS, REFERENCES, Kind
from titan_neuro.evaluation.rollout_scores import RolloutScores, combine_rollouts
from titan_neuro.evaluation.scores import FoldRuns, Scores, combine_scores
from titan_neuro.metrics import skill
from titan_neuro.metrics.measures import FloatArray, fisher_z


@dataclass(frozen=True, eq=False)
class ScoresBySeed:
    """Scores of the same runs by models of several seeds.

    Each seed is scored separately; a subject's metric is the mean over the seeds (of correlations on Fisher's scale).
    Forecasts are never averaged over seeds before they are scored: that would score an ensemble.

    Attributes
    ----------
    by_seed : mapping of int to Scores
        Of the same models, lead times and subjects.
    """

    by_seed: Mapping[int, Scores]

    @property
    def first(self) -> Scores:
        """Scores of the first seed, for what all seeds share."""
        return next(iter(self.by_seed.values()))

    def seed_values(self, metric: str, model: str, horizon: int) -> FloatArray:
        """Metric of each seed and subject, ``(seeds, subjects)``; see `Scores.subject_values`."""
        return np.stack([scores.subject_values(metric, model, horizon) for scores in self.by_seed.values()])

    def subject_values(self, metric: str, model: str, horizon: int) -> FloatArray:
        """Metric of each subject, ``(subjects,)``: the mean over the seeds."""
        values = self.seed_values(metric, model, horizon)
        mean: FloatArray = np.tanh(fisher_z(values).mean(axis=0)) if metric in CORRELATIONS else values.mean(axis=0)
        return mean

    def seed_sd(self, metric: str, model: str, horizon: int) -> float:
        """Standard deviation over the seeds of the mean over subjects; NaN with one seed."""
        values = self.seed_values(metric, model, horizon)
        return float(np.std(np.nanmean(values, axis=1), ddof=1)) if len(values) > 1 else float("nan")

    def n_time_points(self, horizon: int) -> NDArray[np.int64]:
        """Scored time points of each subject, ``(subjects,)``, in the seed with the fewest; each draws its offsets."""
        lead = self.first.horizons.index(horizon)
        counts = [[sums.n_time_points[lead] for sums in scores.subjects.values()] for scores in self.by_seed.values()]
        fewest: NDArray[np.int64] = np.min(counts, axis=0)
        return fewest

    def feature_map(self, metric: str, model: str, horizon: int) -> FloatArray:
        """Metric of each feature, averaged over subjects; errors are summed over the seeds.

        Parameters
        ----------
        metric : str
            ``skill_ar`` or ``r2``.
        model : str
            One of `Scores.mapped`.
        horizon : int
            One of `Scores.horizons`.

        Returns
        -------
        numpy.ndarray
            ``(features,)``; NaN where it is not defined in any subject.
        """
        error = sum(scores.error_map(model, horizon) for scores in self.by_seed.values())
        reference = sum(scores.error_map(REFERENCES[metric], horizon) for scores in self.by_seed.values())
        values = skill(np.asarray(error), np.asarray(reference))
        n_defined = np.isfinite(values).sum(axis=0)
        return np.where(n_defined > 0, np.nansum(values, axis=0) / np.maximum(n_defined, 1), np.nan)

    def n_constant_features(self) -> dict[str, int]:
        """By subject, the number of features that are left out because they are constant in a run."""
        return {label: sums.n_constant for label, sums in self.first.subjects.items()}


@dataclass(frozen=True, eq=False)
class Benchmark:
    """All scores, of one fold or of several joined by `combine`.

    Attributes
    ----------
    protocol : {"subject", "run", "strict"}
    kinds : mapping of str to Kind
        Kind of each row, in the order of the table.
    scores : ScoresBySeed
        Over the targets without high motion.
    high_motion : mapping of int to Scores
        By seed, over the targets with high motion, of the subjects who have such time points.
    rollouts : mapping of int to RolloutScores
        By seed; empty where there are no rollouts.
    offsets : mapping of int to mapping of str to int
        By seed and run, the time point at which the run began.
    folds : tuple of FoldRuns
        Runs of each fold.
    """

    protocol: str
    kinds: Mapping[str, Kind]
    scores: ScoresBySeed
    high_motion: Mapping[int, Scores]
    rollouts: Mapping[int, RolloutScores]
    offsets: Mapping[int, Mapping[str, int]]
    folds: tuple[FoldRuns, ...]

    @property
    def main_model(self) -> str:
        """Name of the study's own model."""
        return next(name for name, kind in self.kinds.items() if kind == Kind.MODEL)

    def high_motion_scores(self) -> ScoresBySeed | None:
        """Scores over the targets with high motion, of the subjects who have some in every seed; None without any."""
        shared = set.intersection(*(set(scores.subjects) for scores in self.high_motion.values()))
        if not shared:
            return None
        return ScoresBySeed(
            {
                seed: replace(scores, subjects={name: sums for name, sums in scores.subjects.items() if name in shared})
                for seed, scores in self.high_motion.items()
            }
        )


def combine(parts: Sequence[Benchmark]) -> Benchmark:
    """Join the benchmarks of several folds.

    Parameters
    ----------
    parts : sequence of Benchmark
        Of the same protocol, seeds and rows.

    Returns
    -------
    Benchmark

    Raises
    ------
    NoMatchError
        `parts` is empty.
    MismatchError
        Protocol, seeds, rows, lead times or numbers of features differ, or a run was tested twice.
    """
    if not parts:
        raise NoMatchError("There are no scores to join.", "Check the split and the filters.")
    first = parts[0]
    for part in parts:
        for what, expected, found in (
            ("protocol", first.protocol, part.protocol),
            ("seeds", list(first.offsets), list(part.offsets)),
            ("kinds of rows", dict(first.kinds), dict(part.kinds)),
        ):
            if expected != found:
                raise MismatchError(f"Folds differ in their {what}: {expected}, {found}.")
    seeds = list(first.offsets)
    return Benchmark(
        protocol=first.protocol,
        kinds=first.kinds,
        scores=ScoresBySeed({seed: combine_scores([part.scores.by_seed[seed] for part in parts]) for seed in seeds}),
        high_motion={seed: combine_scores([part.high_motion[seed] for part in parts]) for seed in seeds},
        rollouts={seed: combine_rollouts([part.rollouts[seed] for part in parts]) for seed in first.rollouts},
        offsets={seed: {run: at for part in parts for run, at in part.offsets[seed].items()} for seed in seeds},
        folds=tuple(fold for part in parts for fold in part.folds),
    )
