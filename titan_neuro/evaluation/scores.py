"""What a benchmark keeps: sums per subject, model, horizon and feature, and the measures made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from titan_neuro.baselines import AutoregressionBaseline, Persistence, TrainingMean
from titan_neuro.errors import MismatchError, NoMatchError
from titan_neuro.metrics import ForecastMoments, fisher_mean, pearson, pooled_skill, skill

BASELINES = (TrainingMean.name, Persistence.name, AutoregressionBaseline.name)
# Each skill, and the baseline that it is measured against.
REFERENCES = {"skill_ar": AutoregressionBaseline.name, "skill": Persistence.name, "r2": TrainingMean.name}
CORRELATIONS = ("r", "pattern_r")
METRICS = (*REFERENCES, *CORRELATIONS)


@dataclass(frozen=True)
class Fold:
    """Names of the runs that a fold trained and tested on."""

    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SubjectMoments:
    """Names of a subject's test runs, and the sums over their scored frames."""

    runs: tuple[str, ...]
    moments: ForecastMoments


@dataclass(frozen=True, eq=False)
class Scores:
    """Result of one fold, or of several joined by `combine`.

    A subject's measure is made from sums over all its test runs. The skills and `r2` pool the features
    (`titan_neuro.metrics.pooled_skill` says why); `r` is the average over features, on Fisher's scale, of their
    correlations over time; `pattern_r` the average over frames of the correlations over features. Features that are
    constant over a subject's scored frames are left out of all but `pattern_r`, and counted.

    Attributes
    ----------
    models : tuple of str
        Names, the baselines first.
    horizons : tuple of int
        Frames ahead.
    subjects : mapping of str to SubjectMoments
        Sums of each subject, by label.
    folds : tuple of Fold
        What was trained and tested on.
    """

    models: tuple[str, ...]
    horizons: tuple[int, ...]
    subjects: Mapping[str, SubjectMoments]
    folds: tuple[Fold, ...]

    def subject_values(self, metric: str, model: str, horizon: int) -> NDArray[np.float64]:
        """Measure of each subject, ``(subjects,)``, in the order of `subjects`; NaN where it is not defined.

        Parameters
        ----------
        metric : str
            One of `METRICS`.
        model : str
            One of `models`.
        horizon : int
            Frames ahead, one of `horizons`.
        """
        return np.array([self._subject_value(item.moments, metric, model, horizon) for item in self.subjects.values()])

    def feature_map(self, metric: str, model: str, horizon: int) -> NDArray[np.float64]:
        """Measure of each feature, averaged over subjects, ``(features,)``; NaN where no subject's is defined.

        Parameters
        ----------
        metric : str
            One of the skills or `r2`.
        model : str
            One of `models`.
        horizon : int
            Frames ahead, one of `horizons`.
        """
        maps = []
        for item in self.subjects.values():
            error, reference, varies = self._errors(item.moments, metric, model, horizon)
            maps.append(np.where(varies, skill(error, reference), np.nan))
        stacked = np.stack(maps)
        n_defined = np.isfinite(stacked).sum(axis=0)
        return np.where(n_defined > 0, np.nansum(stacked, axis=0) / np.maximum(n_defined, 1), np.nan)

    def n_constant_features(self) -> dict[str, int]:
        """For each subject, how many features are left out since they are constant over the scored frames."""
        return {
            label: int((item.moments.target_spread == 0).any(axis=0).sum()) for label, item in self.subjects.items()
        }

    def _errors(
        self, moments: ForecastMoments, metric: str, model: str, horizon: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        at = self.horizons.index(horizon)
        error = moments.squared_error[at, self.models.index(model)]
        reference = moments.squared_error[at, self.models.index(REFERENCES[metric])]
        return error, reference, moments.target_spread[at] > 0

    def _subject_value(self, moments: ForecastMoments, metric: str, model: str, horizon: int) -> float:
        if metric in REFERENCES:
            error, reference, varies = self._errors(moments, metric, model, horizon)
            return pooled_skill(error[varies], reference[varies])
        at, which = self.horizons.index(horizon), self.models.index(model)
        if metric == "pattern_r":
            n_patterns = moments.n_patterns[at, which]
            return float(np.tanh(moments.pattern_z[at, which] / n_patterns)) if n_patterns else float("nan")
        forecast_spread, co_spread = moments.forecast_spread[at, which], moments.co_spread[at, which]
        return fisher_mean(pearson(co_spread, forecast_spread, moments.target_spread[at]))


def combine(parts: Sequence[Scores]) -> Scores:
    """Join the scores of several folds; the sums of a subject tested in several of them are added.

    Parameters
    ----------
    parts : sequence of Scores
        Scores of disjoint test runs.

    Returns
    -------
    Scores
        Subjects in the order of their labels.

    Raises
    ------
    NoMatchError
        There is nothing to join.
    MismatchError
        Models, horizons or numbers of features differ, or a run was tested twice.
    """
    if not parts:
        raise NoMatchError("There are no scores to join.", "Check the split and the filters.")
    first = parts[0]
    by_subject: dict[str, list[SubjectMoments]] = {}
    expected: tuple[int, ...] = ()
    for part in parts:
        if (part.models, part.horizons) != (first.models, first.horizons):
            raise MismatchError(
                f"Folds differ: {first.models} at horizons {first.horizons}, {part.models} at {part.horizons}."
            )
        for label, item in part.subjects.items():
            shape = item.moments.squared_error.shape
            if shape != (expected := expected or shape):
                raise MismatchError(f"{item.runs[0]} has {shape[-1]} features, the runs before it {expected[-1]}.")
            by_subject.setdefault(label, []).append(item)
    subjects = {label: reduce(_join, by_subject[label]) for label in sorted(by_subject)}
    return Scores(first.models, first.horizons, subjects, tuple(fold for part in parts for fold in part.folds))


def _join(one: SubjectMoments, other: SubjectMoments) -> SubjectMoments:
    twice = sorted(set(one.runs) & set(other.runs))
    if twice:
        raise MismatchError(f"{twice[0]} was tested in two folds.", "Each run may be tested once; check the split.")
    return SubjectMoments((*one.runs, *other.runs), one.moments + other.moments)
