"""Scores of one seed: sums per subject, and the metrics made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from titan_neuro.errors import MismatchError, NoMatchError
from titan_neuro.evaluation.metrics_and_rows import REFERENCES
from titan_neuro.evaluation.sums import SubjectSums
from titan_neuro.metrics import pooled_skill


@dataclass(frozen=True)
class FoldRuns:
    """Keys of the runs that a fold was fitted on (validation runs included) and tested on."""

    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one seed, of one fold or of several joined by `combine_scores`.

    A subject's metric is made from sums over all its test runs. The skills and `r2` pool the features
    (:func:`titan_neuro.metrics.pooled_skill` says why). `r` is the average over features and runs, on Fisher's scale,
    of their correlations over a run; `pattern_r` the average over time points of the correlations over features.

    Attributes
    ----------
    models : tuple of str
        Names of all rows, baselines included.
    mapped : tuple of str
        Those of them that have maps.
    horizons : tuple of int
        Lead times, in time points.
    subjects : mapping of str to SubjectSums
        Sums of each subject, in the order of their labels.
    """

    models: tuple[str, ...]
    mapped: tuple[str, ...]
    horizons: tuple[int, ...]
    subjects: Mapping[str, SubjectSums]

    def subject_values(self, metric: str, model: str, horizon: int) -> NDArray[np.float64]:
        """Metric of each subject.

        Parameters
        ----------
        metric : str
            One of :data:`titan_neuro.evaluation.metrics_and_rows.METRICS`.
        model : str
            One of `models`.
        horizon : int
            One of `horizons`.

        Returns
        -------
        numpy.ndarray
            ``(subjects,)``, in the order of `subjects`; NaN where it is not defined.
        """
        return np.array([self._value(sums, metric, model, horizon) for sums in self.subjects.values()])

    def error_map(self, model: str, horizon: int) -> NDArray[np.float64]:
        """Squared errors, summed over scored time points.

        Parameters
        ----------
        model : str
            One of `mapped`.
        horizon : int
            One of `horizons`.

        Returns
        -------
        numpy.ndarray
            ``(subjects, features)``.
        """
        where = self.horizons.index(horizon), self.mapped.index(model)
        return np.stack([sums.error_maps[where] for sums in self.subjects.values()])

    def _value(self, sums: SubjectSums, metric: str, model: str, horizon: int) -> float:
        lead, row = self.horizons.index(horizon), self.models.index(model)
        if metric in REFERENCES:
            reference = self.models.index(REFERENCES[metric])
            return pooled_skill(sums.squared_error[lead, row], sums.squared_error[lead, reference])
        total, count = (sums.r_z, sums.n_r) if metric == "r" else (sums.pattern_z, sums.n_patterns)
        return float(np.tanh(total[lead, row] / count[lead, row])) if count[lead, row] else float("nan")


def combine_scores(parts: Sequence[Scores]) -> Scores:
    """Join the scores of several runs or folds; the sums of a subject tested in several of them are added.

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
        `parts` is empty.
    MismatchError
        Rows, lead times or numbers of features differ, or a run was tested twice.
    """
    if not parts:
        raise NoMatchError("There are no scores to join.", "Check the split and the filters.")
    first = parts[0]
    by_subject: dict[str, list[SubjectSums]] = {}
    expected: tuple[int, ...] = ()
    for part in parts:
        if (part.models, part.mapped, part.horizons) != (first.models, first.mapped, first.horizons):
            raise MismatchError(
                f"Folds differ: {first.models} at horizons {first.horizons}, {part.models} at {part.horizons}."
            )
        for label, sums in part.subjects.items():
            shape = sums.error_maps.shape
            if shape != (expected := expected or shape):
                raise MismatchError(f"{sums.runs[0]} has {shape[-1]} features, the runs before it {expected[-1]}.")
            by_subject.setdefault(label, []).append(sums)
    subjects = {label: reduce(_add, by_subject[label]) for label in sorted(by_subject)}
    return Scores(first.models, first.mapped, first.horizons, subjects)


def _add(first: SubjectSums, second: SubjectSums) -> SubjectSums:
    twice = sorted(set(first.runs) & set(second.runs))
    if twice:
        raise MismatchError(f"{twice[0]} was tested in two folds.", "Each run may be tested once; check the split.")
    return first + second
