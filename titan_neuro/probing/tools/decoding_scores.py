"""Decoding scores: by subject, under permutation, and compared with the controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from titan_neuro.metrics.measures import fisher_z
from titan_neuro.probing.tools.linear_decoder import draw_shifts, is_slow, shifted_scores
from titan_neuro.probing.tools.results import ProbeSetup, describe_p, paired_row, signed, tested_row
from titan_neuro.probing.tools.trace import (
    ACTIVITY_PATTERN,
    MEMORY_OUTPUT,
    MEMORY_WEIGHTS,
    TIME_POLYNOMIAL,
    TOKENS,
    UNTRAINED_OUTPUT,
    UNTRAINED_WEIGHTS,
)
from titan_neuro.typing import RunData

# Whether each readout is a control.
READOUTS = {
    MEMORY_OUTPUT: False,
    MEMORY_WEIGHTS: False,
    ACTIVITY_PATTERN: True,
    TOKENS: True,
    UNTRAINED_OUTPUT: True,
    UNTRAINED_WEIGHTS: True,
    TIME_POLYNOMIAL: True,
}
_COMPARISONS = (
    *((MEMORY_OUTPUT, control) for control in (ACTIVITY_PATTERN, TOKENS, UNTRAINED_OUTPUT, TIME_POLYNOMIAL)),
    *((MEMORY_WEIGHTS, control) for control in (ACTIVITY_PATTERN, UNTRAINED_WEIGHTS, TIME_POLYNOMIAL)),
)
# Targets of the summary; the table has all.
_MOST_LISTED = 4
_ALPHA = 0.05

Key = tuple[str, str, float]
"""Target; readout; gap in seconds between the time points decoded and those that the decoder was fitted on."""


class DecodingScores:
    """Scores of runs at every circular shift of their labels, and the rows of the table made of them.

    Parameters
    ----------
    setup : ProbeSetup

    Attributes
    ----------
    scores : dict
        By key, then by subject: stimulus and scores of each run, ``(shifts,)``; correlations as Fisher's z.
    classes : dict of str to int
        Number of classes of each categorical target.
    slow : dict of str to None
        Targets of which a run's labels and predictions are so slow that shifts reject too often.
    """

    def __init__(self, setup: ProbeSetup) -> None:
        self.setup = setup
        self.scores: dict[Key, dict[str, list[tuple[str, np.ndarray]]]] = {}
        self.classes: dict[str, int] = {}
        self.slow: dict[str, None] = {}

    def add(self, key: Key, run: RunData, predicted: np.ndarray, labels: np.ndarray, usable: np.ndarray) -> None:
        """Score the predicted labels of a run.

        Parameters
        ----------
        key : tuple
        run : RunData
        predicted, labels : numpy.ndarray
            ``(time,)``: both text, or both numbers.
        usable : numpy.ndarray
            bool ``(time,)``.
        """
        scores = shifted_scores(predicted, labels, usable)
        if is_slow(predicted, labels):
            self.slow[key[0]] = None
        if labels.dtype.kind == "U":
            scores = np.where(np.isfinite(scores), scores, 1 / self.classes[key[0]])
        else:
            # A constant prediction has a correlation of 0.
            scores = fisher_z(np.nan_to_num(scores))
        self.scores.setdefault(key, {}).setdefault(run.subject, []).append((run.stimulus, scores))

    @property
    def targets(self) -> list[str]:
        """What was decoded."""
        return list(dict.fromkeys(target for target, _, _ in self.scores))

    @property
    def subjects(self) -> list[str]:
        """Subjects with any score, sorted."""
        return sorted({subject for by_subject in self.scores.values() for subject in by_subject})

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of a `scores` table: scores first, then differences from controls."""
        rows = [self._score_row(key) for key in self.scores]
        for target in self.targets:
            for x in sorted({x for name, _, x in self.scores if name == target}):
                differences = [self._difference_row(target, *pair, x) for pair in _COMPARISONS]
                rows += [row for row in differences if row]
        return rows

    def _by_subject(self, key: Key) -> dict[str, float]:
        """Score of each subject, the mean over runs; correlations as Fisher's z."""
        scores = self.scores.get(key, {})
        return {subject: float(np.mean([run[0] for _, run in scores[subject]])) for subject in sorted(scores)}

    def _null(self, key: Key) -> np.ndarray:
        """Mean over subjects for each permutation: ``(permutations,)``."""
        scores = self.scores[key]
        lengths: dict[str, int] = {}
        for stimulus, run in (pair for runs in scores.values() for pair in runs):
            lengths[stimulus] = max(lengths.get(stimulus, 0), len(run))
        fractions = draw_shifts(lengths, n_permutations=self.setup.n_permutations, seed=self.setup.seed)
        total = 0.0
        for subject in sorted(scores):
            # Rounding must not turn a fraction of k / n into shift k - 1.
            shifted = [
                run[np.floor(fractions[stimulus] * len(run) + 1e-9).astype(int)] for stimulus, run in scores[subject]
            ]
            total = total + np.mean(shifted, axis=0)
        return np.asarray(total / len(scores))

    def _measure(self, target: str) -> str:
        return f"{target}: {'balanced accuracy' if target in self.classes else 'r'}"

    def _score_row(self, key: Key) -> dict[str, Any]:
        target, readout, x = key
        from_z: Callable[[float], float] = float if target in self.classes else np.tanh
        row = tested_row(
            self._measure(target),
            condition_name(readout, x),
            np.array([*self._by_subject(key).values()]),
            self._null(key),
            self.setup,
            is_control=READOUTS[readout],
            x=x,
        )
        numbers = ("value", "low", "high", "null", "null_low", "null_high")
        return {**row, **{name: float(from_z(row[name])) for name in numbers}}

    def _difference_row(self, target: str, readout: str, control: str, x: float) -> dict[str, Any] | None:
        """Score of a readout less that of a control, in the same subjects; correlations as Fisher's z."""
        scores, control_scores = self._by_subject((target, readout, x)), self._by_subject((target, control, x))
        values = [scores[subject] - control_scores[subject] for subject in scores if subject in control_scores]
        if not values:
            return None
        condition = condition_name(f"{readout} less {control}", x)
        return paired_row(self._difference_measure(target), condition, np.array(values), self.setup, x=x)

    def _difference_measure(self, target: str) -> str:
        return f"{self._measure(target)}, difference{'' if target in self.classes else ' (Fisher z)'}"

    def summarize(self, exclusion_s: float, rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
        """Return two sentences on the first targets that were decoded, and on what no control reaches.

        Parameters
        ----------
        exclusion_s : float
            Gap of the decoders that were fitted on other time segments.
        rows : mapping
            Rows of the table by measure and condition.
        """

        def row_of(target: str, x: float) -> Mapping[str, Any] | None:
            return rows.get((self._measure(target), condition_name(MEMORY_OUTPUT, x)))

        # If others saw the same stimulus, only other segments show that more is contained than the time point.
        x = exclusion_s if row_of(self.targets[0], exclusion_s) else 0.0
        found = {target: row for target in self.targets if (row := row_of(target, x))}
        if not found:
            return f"{self.targets[0]} could not be decoded from the memory output: see NotTested in the metadata."
        listed = list(found)[:_MOST_LISTED]
        decoded = [
            f"{target} is decoded with {self._measure(target).rpartition(': ')[2]} {row['value']:.3f} "
            f"(permuted labels: {row['null']:.3f}, {describe_p(row['p'])})"
            for target, row in found.items()
            if target in listed
        ]
        if len(found) > len(listed):
            decoded.append(f"{len(found) - len(listed)} further targets are in the table")
        where = " in time segments that the decoder was not fitted on" if x else ""
        return f"From the memory output{where}, {'; '.join(decoded)}. {self._compare_in_words(listed, x, rows)}"

    def _compare_in_words(
        self, targets: Sequence[str], x: float, rows: Mapping[tuple[str, str], Mapping[str, Any]]
    ) -> str:
        """Return a sentence on the differences from controls."""
        differences = {
            (target, control): row
            for target in targets
            for readout, control in _COMPARISONS
            if readout == MEMORY_OUTPUT
            and (row := rows.get((self._difference_measure(target), condition_name(f"{readout} less {control}", x))))
        }
        from_pattern = [row for (_, control), row in differences.items() if control == ACTIVITY_PATTERN]
        if not from_pattern:
            return "Without a control, this does not show that the label is remembered."
        values = ", ".join(f"{signed(row['value'])} ({describe_p(row['p'])})" for row in from_pattern)
        n_subjects = min(row["n_subjects"] for row in differences.values())
        beyond = [
            target
            for target in targets
            if all(row["p"] < _ALPHA for (name, _), row in differences.items() if name == target)
        ]
        outcome = ", ".join(beyond) or "nothing"
        if 2**-n_subjects > _ALPHA:
            outcome = "not testable in so few subjects"
        return (
            f"The difference from the {ACTIVITY_PATTERN}, a control without memory, is {values}; decoded better "
            f"than from every control (p < {_ALPHA} each, uncorrected, n = {n_subjects}): {outcome}; slow drifts that "
            "follow the labels may contribute."
        )


def condition_name(readout: str, x: float) -> str:
    """Return the name of a condition: the readout, and whether the decoder was fitted on other time segments."""
    return f"{readout}, other time segments" if x else readout
