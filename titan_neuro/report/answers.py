"""What each probe answers in one line: its question, yes or no, and the number that says so.

Only rows of the probes' tables are read here; nothing is tested. A probe answers yes where its own test and every
paired test against a control say so. Where the control does as well, the answer is that the memory adds nothing to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import pandas as pd

from titan_neuro.evaluation.metrics_and_rows import LEAD_TIME_POINTS, count_in_words
from titan_neuro.probing.surprise import ANNOTATED_EVENTS
from titan_neuro.probing.tools.history_swaps import NO_HISTORY
from titan_neuro.probing.tools.recall_scores import DIFFERENCE, REINSTATEMENT
from titan_neuro.probing.tools.trace import MEMORY_OUTPUT, MEMORY_WEIGHTS
from titan_neuro.report.numbers import number, p_value
from titan_neuro.report.records import ProbeResult, Results
from titan_neuro.report.results import lead_times_of

_ALPHA = 0.05


class Conclusion(StrEnum):
    """Answer to a yes-or-no question, as the page and the terminal print it."""

    YES = "yes"
    AS_CONTROL = "not more than a control"
    NO = "no"
    NOT_ASKED = "not asked"


@dataclass(frozen=True)
class Answer:
    """One probe's answer.

    Attributes
    ----------
    name : str
        Of the probe.
    question : str
        A question that yes or no answers.
    conclusion : Conclusion
    reason : str
        The number behind the conclusion with its p; of a probe that was not asked, why.
    """

    name: str
    question: str
    conclusion: Conclusion
    reason: str

    def __str__(self) -> str:
        """One line for the terminal."""
        return f"{self.question} {self.conclusion.capitalize()}: {self.reason}"


class _Found(NamedTuple):
    """The row that answers a question, its p, its number in words, and the paired tests against controls."""

    p: float
    words: str
    paired: pd.DataFrame


_QUESTIONS = {
    "context-length": "Does a longer past help the forecast?",
    "history-swap": "Is skill lost when the earlier history is erased?",
    "surprise": "Is the memory more surprised at event boundaries?",
    "time-segment-matching": "Does the memory tell the time point of the stimulus?",
    "decoding": "Can annotations be decoded from the memory?",
    "recall": "Does the memory hold a scene again while it is retold?",
}


def answers(results: Results) -> list[Answer]:
    """Answer the question of every probe, in the order in which they are run.

    Parameters
    ----------
    results : Results

    Returns
    -------
    list of Answer
        Six; a probe without a result was not asked.
    """
    probes = {probe.name: probe for probe in results.probes}
    return [
        _of_context(results.curve) if name == "context-length" else _of_probe(name, probes.get(name))
        for name in _QUESTIONS
    ]


def _of_context(curve: pd.DataFrame | None) -> Answer:
    """Answer from the ends of the curve: yes where their intervals lie apart, which is stricter than a paired test."""
    name, question = "context-length", _QUESTIONS["context-length"]
    if curve is None:
        return Answer(name, question, Conclusion.NOT_ASKED, _not_run(name))
    shortest = curve[curve[LEAD_TIME_POINTS] == lead_times_of(curve)[0]]
    whole, part = shortest[shortest["whole_run"]], shortest[~shortest["whole_run"]].sort_values("context_s")
    if whole.empty or part.empty:
        return Answer(name, question, Conclusion.NOT_ASKED, "no run is longer than the shortest context.")
    long, short = whole.iloc[0], part.iloc[0]
    conclusion = Conclusion.YES if long["skill_ar_low"] > short["skill_ar_high"] else Conclusion.NO
    words = f"skill {number(long['skill_ar'])} with the whole run, {number(short['skill_ar'])} with the last "
    return Answer(name, question, conclusion, f"{words}{short['context_s']:g} s.")


def _of_probe(name: str, probe: ProbeResult | None) -> Answer:
    question = _QUESTIONS[name]
    if probe is None:
        return Answer(name, question, Conclusion.NOT_ASKED, _not_run(name))
    found = _FINDERS[name](probe)
    if found is None or not math.isfinite(found.p):
        return Answer(name, question, Conclusion.NOT_ASKED, _why_not(probe))
    weaker = found.paired[~(found.paired["p"] < _ALPHA)]
    tested = f"{found.words}, {_p(found.p)}"
    if found.p >= _ALPHA:
        return Answer(name, question, Conclusion.NO, f"{tested}.")
    if weaker.empty:
        return Answer(name, question, Conclusion.YES, f"{tested}.")
    row = weaker.sort_values("value").iloc[0]
    difference = f"only {number(row['value'])} more" if row["value"] > 0 else f"{number(-row['value'])} less"
    beyond = f"{difference} than with the {_control_of(row)} ({_p(row['p'])})"
    return Answer(name, question, Conclusion.AS_CONTROL, f"{tested}, but {beyond}.")


def _p(p: float) -> str:
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _not_run(name: str) -> str:
    return f"`titan-neuro probe {name}` has not run."


def _why_not(probe: ProbeResult) -> str:
    reasons = [str(reason) for reason in probe.metadata.get("NotTested", [])]
    return reasons[0] if reasons else "its table has no tested row."


def _control_of(row: pd.Series) -> str:
    """Name the control of a paired row, which stands after ``less`` in its condition or its measure."""
    text = str(row["condition"]) if " less " in str(row["condition"]) else str(row["measure"])
    return text.partition(" less ")[2]


def _first(rows: pd.DataFrame) -> pd.Series | None:
    tested = rows[rows["value"].notna()]
    return None if tested.empty else tested.iloc[0]


def _find_lost(probe: ProbeResult) -> _Found | None:
    """The shortest lead time comes first in the table; the context that is left is the shortest."""
    rows = probe.scores[(probe.scores["condition"] == NO_HISTORY) & ~probe.scores["is_control"]]
    row = _first(rows[rows["x"] == rows["x"].min()])
    if row is None:
        return None
    return _Found(row["p"], f"skill falls by {number(row['value'])} without what lies {row['x']:g} s back", rows[:0])


def _find_surprise(probe: ProbeResult) -> _Found | None:
    scores = probe.scores
    tested = scores[~scores["is_control"] & scores["condition"].str.endswith(", circular shifts")]
    # Events that the dataset names answer before those that are found in brains.
    named = tested[tested["condition"].str.startswith(f"{ANNOTATED_EVENTS},") & tested["value"].notna()]
    row = _first(named if len(named) else tested)
    if row is None:
        return None
    kind, measure = str(row["condition"]).rpartition(", ")[0], str(row["measure"])
    # Both null distributions, corrected over measures and kinds of events.
    corrected: Mapping[str, float] = probe.metadata.get("PCorrected", {})
    paired = scores[
        scores["measure"].str.startswith(f"{measure} less ") & scores["condition"].str.startswith(f"{kind}, paired")
    ]
    p = float(corrected.get(f"{kind}: {measure}", row["p"]))
    return _Found(p, f"{number(row['value'], 2)} standard deviations above elsewhere, {kind}", paired)


def _find_time_segment(probe: ProbeResult) -> _Found | None:
    scores = probe.scores
    row = _first_of(scores, scores["condition"], (MEMORY_WEIGHTS, MEMORY_OUTPUT))
    if row is None:
        return None
    differences = scores[(scores["measure"] == "accuracy difference") & (scores["x"] == row["x"])]
    return _Found(row["p"], f"right in {row['value']:.0%} of cases", _less(differences, str(row["condition"])))


def _find_decoded(probe: ProbeResult) -> _Found | None:
    """The annotation that is told best from segments that the decoder was not fitted on; else at the same time points.

    Its p is multiplied by the number of annotations.
    """
    scores = probe.scores
    rows = scores[scores["condition"].str.startswith(MEMORY_OUTPUT) & ~scores["condition"].str.contains(" less ")]
    rows = rows[rows["value"].notna() & ~rows["is_control"] & (rows["x"] == rows["x"].max())]
    if rows.empty:
        return None
    row = rows.sort_values("p", kind="stable").iloc[0]
    differences = scores[scores["measure"].str.startswith(f"{row['measure']}, difference") & (scores["x"] == row["x"])]
    p = min(1.0, float(row["p"]) * len(rows))
    of = f" (the best of {count_in_words(len(rows), 'annotation')})" if len(rows) > 1 else ""
    return _Found(p, f"{row['measure']} {number(row['value'])}{of}", _less(differences, MEMORY_OUTPUT))


def _find_reinstated(probe: ProbeResult) -> _Found | None:
    rows = probe.scores[probe.scores["measure"] == REINSTATEMENT]
    row = _first_of(rows, rows["condition"], (MEMORY_OUTPUT, MEMORY_WEIGHTS))
    if row is None:
        return None
    differences = probe.scores[probe.scores["measure"] == DIFFERENCE]
    words = f"similarity with the same scene {number(row['value'])} above other scenes"
    return _Found(row["p"], words, _less(differences, str(row["condition"])))


def _first_of(rows: pd.DataFrame, column: pd.Series, names: Iterable[str]) -> pd.Series | None:
    """Return the first row with a value of the first of these names that has one."""
    found = (_first(rows[column == name]) for name in names)
    return next((row for row in found if row is not None), None)


def _less(differences: pd.DataFrame, readout: str) -> pd.DataFrame:
    return differences[differences["condition"].str.startswith(f"{readout} less ") & differences["p"].notna()]


_FINDERS: dict[str, Callable[[ProbeResult], _Found | None]] = {
    "history-swap": _find_lost,
    "surprise": _find_surprise,
    "time-segment-matching": _find_time_segment,
    "decoding": _find_decoded,
    "recall": _find_reinstated,
}
