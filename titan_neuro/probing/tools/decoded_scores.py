"""How well things were decoded: over subjects, by chance, and against the controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from titan_neuro.metrics.measures import fisher_z
from titan_neuro.probing.tools.linear_decoder import draw_shifts, shifted_scores
from titan_neuro.probing.tools.results import ProbeContext, paired_row, tested_row
from titan_neuro.typing import RunData

# Whether each thing that is read is a control.
READ = {
    "memory": False,
    "state": False,
    "time point alone": True,
    "encoded": True,
    "untrained memory": True,
    "untrained state": True,
    "polynomial of time": True,
}
COMPARED = (
    *(("memory", other) for other in ("time point alone", "encoded", "untrained memory", "polynomial of time")),
    *(("state", other) for other in ("time point alone", "untrained state", "polynomial of time")),
)

Key = tuple[str, str, float]
"""What was decoded; from what; how far in time, in seconds, from the time points that its decoder was fitted on."""


class DecodedScores:
    """Scores of runs at every shift of their labels, and the rows that they come to.

    Parameters
    ----------
    metadata : ProbeContext

    Attributes
    ----------
    scores : dict
        By key, then by subject: stimulus and scores of each run, ``(series,)``; r on Fisher's scale.
    classes : dict of str to int
        Of what has categories.
    """

    def __init__(self, metadata: ProbeContext) -> None:
        self.metadata = metadata
        self.scores: dict[Key, dict[str, list[tuple[str, np.ndarray]]]] = {}
        self.classes: dict[str, int] = {}

    def keep(self, key: Key, run: RunData, predicted: np.ndarray, labels: np.ndarray, usable: np.ndarray) -> None:
        """Keep how well a run's labels were predicted."""
        scores = shifted_scores(predicted, labels, usable)
        if labels.dtype.kind == "U":
            scores = np.where(np.isfinite(scores), scores, 1 / self.classes[key[0]])
        else:
            # A prediction that is constant knows nothing.
            scores = fisher_z(np.nan_to_num(scores))
        self.scores.setdefault(key, {}).setdefault(run.subject, []).append((run.stimulus, scores))

    @property
    def targets(self) -> list[str]:
        """What was decoded."""
        return list(dict.fromkeys(target for target, _, _ in self.scores))

    @property
    def subjects(self) -> list[str]:
        """Of whom."""
        return sorted({subject for by_subject in self.scores.values() for subject in by_subject})

    def rows(self) -> list[dict[str, Any]]:
        """Rows of a `scores` table: first what was decoded, then differences."""
        rows = [self._score(key) for key in self.scores]
        for target in self.targets:
            for x in sorted({x for name, _, x in self.scores if name == target}):
                rows += [row for one, other in COMPARED if (row := self._difference(target, one, other, x))]
        return rows

    def _subjects(self, key: Key) -> dict[str, float]:
        """Score of each subject, a mean over runs; r on Fisher's scale."""
        scores = self.scores.get(key, {})
        return {subject: float(np.mean([run[0] for _, run in scores[subject]])) for subject in sorted(scores)}

    def _null(self, key: Key) -> np.ndarray:
        """Mean over subjects with each draw of shifts: ``(permutations,)``."""
        scores = self.scores[key]
        lengths: dict[str, int] = {}
        for stimulus, run in (pair for runs in scores.values() for pair in runs):
            lengths[stimulus] = max(lengths.get(stimulus, 0), len(run))
        shares = draw_shifts(lengths, n_permutations=self.metadata.n_permutations, seed=self.metadata.seed)
        total = 0.0
        for subject in sorted(scores):
            # Rounding must not turn a share of k / n into time point k - 1.
            moved = [run[np.floor(shares[stimulus] * len(run) + 1e-9).astype(int)] for stimulus, run in scores[subject]]
            total = total + np.mean(moved, axis=0)
        return np.asarray(total / len(scores))

    def _measure(self, target: str) -> str:
        return f"{target}: {'balanced accuracy' if target in self.classes else 'r'}"

    def _score(self, key: Key) -> dict[str, Any]:
        target, read, x = key
        back: Callable[[float], float] = float if target in self.classes else np.tanh
        values = np.array([*self._subjects(key).values()])
        row = tested_row(
            self._measure(target), named(read, x), values, self._null(key), self.metadata, is_control=READ[read], x=x
        )
        numbers = ("value", "low", "high", "null", "null_low", "null_high")
        return {**row, **{name: float(back(row[name])) for name in numbers}}

    def _difference(self, target: str, one: str, other: str, x: float) -> dict[str, Any] | None:
        """How much better one is decoded from than the other, in the same subjects; r on Fisher's scale."""
        ours, theirs = self._subjects((target, one, x)), self._subjects((target, other, x))
        both = [subject for subject in ours if subject in theirs]
        if not both:
            return None
        values = np.array([ours[subject] - theirs[subject] for subject in both])
        scale = "" if target in self.classes else " (Fisher z)"
        measure = f"{self._measure(target)}, difference{scale}"
        return paired_row(measure, named(f"{one} - {other}", x), values, self.metadata, x=x)

    def said(self, target: str, exclusion_s: float, rows: Mapping[tuple[str, str], dict[str, Any]]) -> str:
        """What one sentence says of one target."""
        measure, scale = self._measure(target), "" if target in self.classes else " (Fisher z)"
        same = rows.get((measure, "memory"))
        if same is None:
            return f"{measure}: not decoded from the memory"
        # Where others saw the same stimulus, only other moments show that more than the moment is known.
        elsewhere = named("memory", exclusion_s)
        row = rows.get((measure, elsewhere), same)
        text = f"{measure} {row['value']:.3f} from the memory, by chance {row['null']:.3f}, {_p(row)}"
        text += f", n = {row['n_subjects']}"
        compared = "memory - time point alone" if row is same else named("memory - time point alone", exclusion_s)
        difference = rows.get((f"{measure}, difference{scale}", compared))
        if difference is not None:
            text += f", {difference['value']:+.3f}{scale} against the time point alone, {_p(difference)}"
        if row is same:
            return text
        return (
            f"{text}, where fitted on other moments of the stimulus ({same['value']:.3f}, {_p(same)}, on the same ones)"
        )


def _p(row: Mapping[str, Any]) -> str:
    return f"p = {row['p']:.3g}" if np.isfinite(row["p"]) else "not tested"


def named(read: str, x: float) -> str:
    """Name a condition."""
    return f"{read}, other moments" if x else read
