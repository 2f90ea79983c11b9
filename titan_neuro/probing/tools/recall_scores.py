"""Reinstatement and retold scenes over subjects: rows of the table, tests, maps, and what they say in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from titan_neuro.metrics import p_of_null, sign_flip_test
from titan_neuro.probing.tools.memory_surprise import ACTIVITY, GLOBAL_SIGNAL, MEASURES
from titan_neuro.probing.tools.reinstatement import Similarity, draw_keys
from titan_neuro.probing.tools.results import ProbeSetup, corrected_p_map, describe_p, paired_row, signed, tested_row
from titan_neuro.probing.tools.retold_scenes import WatchedScenes
from titan_neuro.probing.tools.trace import ACTIVITY_PATTERN, MEMORY_OUTPUT, MEMORY_WEIGHTS, TIME_POLYNOMIAL
from titan_neuro.probing.tools.untrained import untrained_name

OTHERS = "other people's watching"
SKILL, STRENGTH = "skill over autoregression", "strength of the memory"
LENGTH, POSITION = "length of the scene", "position of the scene"
DISPLACEMENT = "framewise displacement"

# Measures of the table.
REINSTATEMENT, OVER_NEIGHBORS = "reinstatement", "reinstatement over neighboring scenes"
DIFFERENCE, NEIGHBOR_DIFFERENCE = f"difference in {REINSTATEMENT}", f"difference in {OVER_NEIGHBORS}"
RETOLD, RETOLD_DIFFERENCE = "retold or forgotten (AUC)", "difference in AUC"

_OF_MODEL = (*MEASURES, SKILL, STRENGTH)
_OF_RECORDING = (ACTIVITY, GLOBAL_SIGNAL, DISPLACEMENT, LENGTH, POSITION)
_UNADJUSTED = (LENGTH, POSITION)
_CHANCE = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class SubjectRecall:
    """Results of one subject in one fold.

    Attributes
    ----------
    subject : str
    similarities : mapping of str to Similarity
        By what the retelling is compared with.
    maps : mapping of str to numpy.ndarray
        Reinstatement of each feature, ``(features,)``, by what the retelling is compared with.
    scenes : WatchedScenes
    """

    subject: str
    similarities: Mapping[str, Similarity]
    maps: Mapping[str, np.ndarray]
    scenes: WatchedScenes


class RecallScores:
    """Collect the results of subjects, and test them.

    A subject of several folds counts once, with the mean over its folds.

    Parameters
    ----------
    setup : ProbeSetup

    Attributes
    ----------
    subjects : list of SubjectRecall
        To be appended to, before the first result is asked for.
    """

    def __init__(self, setup: ProbeSetup) -> None:
        self.setup = setup
        self.subjects: list[SubjectRecall] = []

    @property
    def names(self) -> list[str]:
        """Labels of the subjects, sorted."""
        return sorted({each.subject for each in self.subjects})

    @property
    def sources(self) -> list[str]:
        """What retellings are compared with: controls last."""
        sources = dict.fromkeys(source for each in self.subjects for source in each.similarities)
        return sorted(sources, key=lambda source: (_is_control(source), source != OTHERS))

    @cached_property
    def _keys(self) -> dict[str, np.ndarray]:
        similarities = [each for subject in self.subjects for each in subject.similarities.values()]
        names = [name for each in similarities for name in each.retold]
        names += [name for subject in self.subjects for name in subject.scenes.names]
        return draw_keys([*dict.fromkeys(names)], n_permutations=self.setup.n_permutations, seed=self.setup.seed)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the `scores` table."""
        measures = [(name, False) for name in _OF_MODEL]
        measures += [(untrained_name(name), True) for name in _OF_MODEL] + [(name, True) for name in _OF_RECORDING]
        aucs = {name: self._aucs(name) for name, _ in measures}
        rows = [self._reinstatement_row(source) for source in self.sources]
        compared = [self._neighbor_row(source) for source in self.sources]
        for measure, values_of in ((DIFFERENCE, self._contrasts), (NEIGHBOR_DIFFERENCE, self._over_neighbors)):
            compared += [self._difference_row(measure, values_of, *pair) for pair in self._comparisons()]
        rows += [row for row in compared if row is not None]
        rows += [self._auc_row(name, aucs[name], is_control) for name, is_control in measures if aucs[name]]
        for name in _OF_MODEL:
            pair = aucs[name], aucs[untrained_name(name)]
            shared = sorted(pair[0].keys() & pair[1].keys())
            if shared:
                values = np.array([pair[0][subject][0] - pair[1][subject][0] for subject in shared])
                condition = f"{name} less untrained model"
                rows.append(paired_row(RETOLD_DIFFERENCE, condition, values, self.setup, x=np.nan))
        return rows

    def _by_subject(self, value_of: Callable[[SubjectRecall], Any]) -> dict[str, Any]:
        """Mean over the folds of each subject, in the order of their labels; without those that have no value."""
        values: dict[str, list[Any]] = {}
        for each in self.subjects:
            value = value_of(each)
            if value is not None and np.isfinite(value).all():
                values.setdefault(each.subject, []).append(value)
        return {subject: np.mean(values[subject], axis=0) for subject in sorted(values)}

    def _of_source(self, source: str, value_of: Callable[[Similarity], Any]) -> dict[str, Any]:
        """Return a value of the similarities with one source, by subject."""
        return self._by_subject(
            lambda each: value_of(each.similarities[source]) if source in each.similarities else None
        )

    def _contrasts(self, source: str) -> dict[str, Any]:
        return self._of_source(source, lambda similarity: similarity.contrast)

    def _over_neighbors(self, source: str) -> dict[str, Any]:
        return self._of_source(source, lambda similarity: similarity.over_neighbors)

    def _reinstatement_row(self, source: str) -> dict[str, Any]:
        values = np.array([*self._contrasts(source).values()])
        shuffled = self._of_source(source, lambda similarity: similarity.permuted(self._keys))
        null = np.mean([*shuffled.values()], axis=0)
        return tested_row(REINSTATEMENT, source, values, null, self.setup, is_control=_is_control(source))

    def _neighbor_row(self, source: str) -> dict[str, Any] | None:
        by_subject = self._over_neighbors(source)
        if not by_subject:
            return None
        row = paired_row(OVER_NEIGHBORS, source, np.array([*by_subject.values()]), self.setup, x=np.nan)
        return {**row, "is_control": _is_control(source)}

    def _comparisons(self) -> list[tuple[str, str]]:
        """Pairs of what is compared with its controls."""
        pairs = []
        for source in self.sources:
            if not _is_control(source) and source != OTHERS:
                pairs += [(source, untrained_name(source)), (source, ACTIVITY_PATTERN)]
        return [*pairs, (MEMORY_OUTPUT, TIME_POLYNOMIAL), (MEMORY_WEIGHTS, TIME_POLYNOMIAL)]

    def _difference_row(
        self, measure: str, values_of: Callable[[str], dict[str, Any]], source: str, control: str
    ) -> dict[str, Any] | None:
        values, controls = values_of(source), values_of(control)
        shared = [subject for subject in values if subject in controls]
        if not shared:
            return None
        differences = np.array([values[subject] - controls[subject] for subject in shared])
        return paired_row(measure, f"{source} less {control}", differences, self.setup, x=np.nan)

    def _aucs(self, measure: str) -> dict[str, Any]:
        adjusted = measure not in _UNADJUSTED
        return self._by_subject(lambda each: each.scenes.auc(measure, self._keys, adjusted=adjusted))

    def _auc_row(self, measure: str, aucs: Mapping[str, np.ndarray], is_control: bool) -> dict[str, Any]:
        each = np.array([*aucs.values()])
        row = tested_row(RETOLD, measure, each[:, 0], each[:, 1:].mean(axis=0), self.setup, is_control=is_control)
        # Retold scenes may have larger or smaller values. Equal sums in another order differ by rounding.
        distance = abs(row["value"] - _CHANCE) - 1e-9
        return {**row, "p": p_of_null(distance, np.abs(each[:, 1:].mean(axis=0) - _CHANCE))}

    def corrected(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Correct the p values of the model's measures, by which retold and forgotten scenes are compared (Holm)."""
        p = {row["condition"]: row["p"] for row in rows if row["measure"] == RETOLD and not row["is_control"]}
        return dict(zip(p, map(float, multipletests([*p.values()], method="holm")[1]), strict=True)) if p else {}

    def sign_flip_p(self) -> dict[str, float]:
        """Test the reinstatement by each source once more, by flipping the signs of subjects."""
        values = {source: np.array([*self._contrasts(source).values()]) for source in self.sources}
        draws = {"n_permutations": self.setup.n_permutations, "seed": self.setup.seed}
        return {source: float(sign_flip_test(each, **draws)) for source, each in values.items() if len(each) > 1}

    def subject_table(self) -> pd.DataFrame:
        """Return one row for each subject, fold and source: similarities with the same and with other scenes."""
        columns = ("subject", "source", "n_retold", "n_watched", "matched", "mismatched", "reinstatement")
        rows = [
            (each.subject, source, *similarity.matrix.shape, similarity.matched, similarity.mismatched)
            for each in self.subjects
            for source, similarity in each.similarities.items()
        ]
        return pd.DataFrame([(*row, row[-2] - row[-1]) for row in rows], columns=list(columns))

    def maps(self) -> dict[str, tuple[np.ndarray, Mapping[str, Any]]]:
        """Return for other people's watching and for the forecasts: the mean map, and its p values, corrected."""
        maps: dict[str, tuple[np.ndarray, Mapping[str, Any]]] = {}
        for source in self.sources:
            # A map's features without a value are not those of all subjects: each is tested where all have one.
            of_subjects = [each.maps[source] for each in self.subjects if source in each.maps]
            if not of_subjects:
                continue
            stat = "others" if source == OTHERS else "forecast"
            values = np.stack(of_subjects)
            contrast = f"reinstatement by {source}"
            maps[stat] = (
                # NaN where a subject has no value.
                values.mean(axis=0),
                {"Description": f"{contrast}, mean over subjects", "NumberOfSubjects": len(values)},
            )
            maps[f"{stat}q"] = (
                corrected_p_map(values, self.setup),
                {
                    "Description": f"p of the {contrast}",
                    "Test": "one-sided sign-flip test over subjects",
                    "Correction": "false discovery rate over features (Benjamini-Hochberg)",
                    "NumberOfSubjects": len(values),
                },
            )
        return maps

    def summarize(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Return two sentences: what is reinstated, and whether a measure tells retold from forgotten scenes."""
        by_name = {(row["measure"], row["condition"]): row for row in rows}
        compared = [
            f"{name} by {signed(row['value'])} ({describe_p(row['p'])})"
            for name, source in (
                ("other people's pattern of it", OTHERS),
                ("the memory output", MEMORY_OUTPUT),
                ("an untrained memory's output", untrained_name(MEMORY_OUTPUT)),
            )
            if (row := by_name.get((REINSTATEMENT, source))) is not None
        ]
        reinstated = (
            "While a scene is retold, the similarity with the same scene exceeds that with other scenes: "
            f"{', '.join(compared) or 'not tested'}; n = {len(self.names)}."
        )
        corrected = self.corrected(rows)
        if not corrected:
            return f"{reinstated} Retold and forgotten scenes could not be compared, for lack of either."
        best = min(corrected, key=lambda name: corrected[name])
        auc = f"AUC {by_name[RETOLD, best]['value']:.3f}, {describe_p(corrected[best])}, corrected"
        return (
            f"{reinstated} Of {len(corrected)} measures of the model while a scene is watched, {best} tells best "
            f"whether it is retold ({auc}); this does not show that people remember by such a memory."
        )


def _is_control(source: str) -> bool:
    return source in (ACTIVITY_PATTERN, TIME_POLYNOMIAL) or source.endswith(untrained_name(""))
