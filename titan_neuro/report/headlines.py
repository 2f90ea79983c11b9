"""What a study has found, in a few lines: the end of ``run ... group``, and the first screen of the page."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from titan_neuro.evaluation.formatting import format_interval
from titan_neuro.evaluation.metrics_and_rows import (
    AR,
    BACKBONE_SUFFIX,
    CEILINGS,
    FEW_SUBJECTS,
    FROZEN_SUFFIX,
    LEAD_TIME_POINTS,
    LEAD_TIME_S,
    NOTHING,
    PROTOCOLS,
    Kind,
    control_name,
    count_in_words,
    lead_time_in_words,
    row_of,
)
from titan_neuro.report.answers import Conclusion, answers
from titan_neuro.report.numbers import number
from titan_neuro.report.records import Results
from titan_neuro.report.results import lead_times_of


class NamedRows(NamedTuple):
    """A row that the study's model is drawn and named beside: its name, and its rows by lead time."""

    name: str
    rows: pd.DataFrame


def best_baseline(scores: pd.DataFrame) -> NamedRows | None:
    """Return the baseline with the highest mean `skill_ar` over lead times, linear autoregression included.

    It is chosen by the test runs, which favors it: no model looks better by this choice.

    Parameters
    ----------
    scores : pandas.DataFrame
        The forecast table.
    """
    baselines = scores[scores["kind"] == Kind.BASELINE]
    if baselines.empty:
        return None
    name = str(baselines.groupby("model", sort=False)["skill_ar"].mean().idxmax())
    return NamedRows(name, baselines[baselines["model"] == name].sort_values(LEAD_TIME_POINTS))


def terminal_lines(results: Results) -> list[str]:
    """Say what was asked and found, in about a dozen lines.

    Parameters
    ----------
    results : Results

    Returns
    -------
    list of str
        What was asked; the skill at the ends of the lead times beside the best baseline; what the parts add; the answer
        of each probe.
    """
    return [*forecast_lines(results), *(str(answer) for answer in answers(results))]


def forecast_lines(results: Results) -> list[str]:
    """Return the lines on the forecasts alone; none where nothing was scored."""
    scores, metadata, model = results.scores, results.metadata, results.main_model
    if scores is None or metadata is None:
        return []
    lines = [f"Asked: {asked(results)}"]
    if model:
        lines += _skill_lines(scores, model)
    lines += [text for text in (parts_sentence(results), few_subjects(scores), *metadata.caveats) if text]
    return lines


def parts_sentence(results: Results) -> str:
    """Say what the parts of the model add, and where memory and backbone are one part; empty without controls.

    Parameters
    ----------
    results : Results
    """
    if results.metadata is None:
        return ""
    same = " Here the memory is all that the backbone adds: one part, not two." if _is_memory_alone(results) else ""
    return f"{results.metadata.ablations}{same}"


def _is_memory_alone(results: Results) -> bool:
    """Whether the forecasts without the memory are those without the backbone: two numbers would look like a sum."""
    scores, model = results.scores, results.main_model
    if scores is None or not model:
        return False
    frozen, zeroed = (
        scores.loc[scores["model"] == control_name(model, suffix), ["skill_ar", "r2"]].to_numpy(float)
        for suffix in (FROZEN_SUFFIX, BACKBONE_SUFFIX)
    )
    return len(frozen) > 0 and np.array_equal(frozen, zeroed)


def asked(results: Results) -> str:
    """Say in one sentence what was asked: task, people, runs and protocol; empty where nothing was scored."""
    scores = results.scores
    if scores is None:
        return ""
    people = count_in_words(int(scores["n_subjects"].max()), "subject")
    runs = count_in_words(int(scores["n_runs"].max()), "test run")
    protocol = str(scores["protocol"].iloc[0])
    return (
        f"how well the next time points of task {results.task} are forecast in {people} ({runs}; "
        f"{PROTOCOLS.get(protocol, protocol)})."
    )


def few_subjects(scores: pd.DataFrame) -> str:
    """Say that the subjects are too few for any claim; empty where they are not."""
    n_subjects = int(scores["n_subjects"].max())
    if n_subjects >= FEW_SUBJECTS:
        return ""
    return f"With {count_in_words(n_subjects, 'subject')} these numbers describe the recordings; they support no claim."


def _skill_lines(scores: pd.DataFrame, model: str) -> list[str]:
    baseline, lines, lead_times = best_baseline(scores), [], lead_times_of(scores)
    rows = scores[scores["model"] == model]
    for points in sorted({lead_times[0], lead_times[-1]}):
        row = _at(rows, points)
        ahead = lead_time_in_words(points, float(row[LEAD_TIME_S]))
        words = f"Skill {ahead} ahead: {model} {format_interval(row, 'skill_ar')}"
        if baseline is not None:
            words += f"; best baseline ({baseline.name}) {format_interval(_at(baseline.rows, points), 'skill_ar')}"
        lines.append(words)
    lines[0] += ". Skill: error removed beyond linear autoregression; brackets: 95 % over subjects"
    return [f"{line}." for line in lines]


def _at(rows: pd.DataFrame, points: int) -> pd.Series:
    return rows[rows[LEAD_TIME_POINTS] == points].iloc[0]


def result_sentence(results: Results) -> str:
    """Say in plain words what was found: by how much the model's forecasts are better, and who else is as good.

    Parameters
    ----------
    results : Results

    Returns
    -------
    str
        Two sentences; where nothing was scored, or no model, that it was not.
    """
    scores, model = results.scores, results.main_model
    if scores is None:
        return "No result yet: no forecast has been scored."
    if not model:
        return "Only baselines were scored. There is no model with a memory to judge."
    rows = scores[scores["model"] == model].sort_values(LEAD_TIME_POINTS)
    people = "1 person" if rows["n_subjects"].max() == 1 else f"{int(rows['n_subjects'].max())} people"
    ends = [rows.iloc[position] for position in dict.fromkeys((0, len(rows) - 1))]
    compared = " and ".join(f"{less_error(row['skill_ar'])} {row[LEAD_TIME_S]:g} s ahead" for row in ends)
    sentence = f"In {people}, the forecasts of {model} have {compared} than linear autoregression"
    is_unsure = int(rows["n_subjects"].max()) >= FEW_SUBJECTS and any(not row["skill_ar_low"] > 0 for row in ends)
    doubt = ", which may be chance where an interval includes 0" if is_unsure else ""
    return f"{sentence}{doubt}. {_beside_baseline(scores, rows, results.comparisons)}".strip()


def _percent(fraction: float) -> str:
    return f"{number(100 * float(fraction), 1 if abs(fraction) < 0.1 else 0)} %"


def less_error(skill: float) -> str:
    """Say a skill in words: ``38.3 % less squared error``."""
    return f"{_percent(abs(float(skill)))} {'less' if skill >= 0 else 'more'} squared error"


def _beside_baseline(scores: pd.DataFrame, rows: pd.DataFrame, comparisons: pd.DataFrame | None) -> str:
    """Compare the model with the best baseline: by paired differences where these were made, else by the numbers."""
    baseline = best_baseline(scores)
    if baseline is None or baseline.name == AR:
        return "No simple forecaster does better than linear autoregression." if baseline else ""
    name, mean = row_of(baseline.name).label, float(baseline.rows["skill_ar"].mean())
    clause = f"The best simple forecaster ({name}) removes {_percent(mean)} on average, against "
    clause += f"{_percent(float(rows['skill_ar'].mean()))} by the model"
    pairs = None if comparisons is None else comparisons[comparisons["compared_with"] == baseline.name]
    if pairs is None or pairs.empty or pairs["difference_low"].isna().all():
        return f"{clause}."
    if int(scores["n_subjects"].max()) < FEW_SUBJECTS:
        return f"{clause}."
    shown = better_or_worse(pairs)
    if not shown:
        return f"{clause}: no difference is shown at any lead time."
    return f"{clause}: the model is {shown} of {len(pairs)} lead times."


def better_or_worse(pairs: pd.DataFrame) -> str:
    """Say at how many lead times an interval lies above or below 0: ``better at 3 and worse at 1``; empty for none."""
    n_better, n_worse = int((pairs["difference_low"] > 0).sum()), int((pairs["difference_high"] < 0).sum())
    shown = [f"{word} at {count}" for word, count in (("better", n_better), ("worse", n_worse)) if count]
    return " and ".join(shown)


def not_shown_sentence(results: Results) -> str:
    """Say in plain words what the result does not show, first of all about the memory; empty without a model."""
    model, ablations, scores = results.main_model, results.ablations, results.scores
    if not model or scores is None:
        return ""
    parts = []
    if few := few_subjects(scores):
        parts.append(few)
    frozen = None if ablations is None else ablations[ablations["compared_with"] == control_name(model, FROZEN_SUFFIX)]
    if frozen is not None and len(frozen) and str(frozen["effect"].iloc[0]) == NOTHING:
        size = number(abs(float(frozen["mean_difference"].iloc[0])), 4)
        parts.append(
            f"It does not show that the memory that learns at test time helps: without it the skill differs by {size}."
        )
    unasked = [answer.name for answer in answers(results) if answer.conclusion is Conclusion.NOT_ASKED]
    if unasked:
        parts.append(f"Not asked: {', '.join(unasked)}.")
    if not parts:
        parts.append("It describes a model that reads recordings; it does not show that the brain works in this way.")
    return " ".join(parts)


def ceiling_rows_of(ceilings: pd.DataFrame | None) -> NamedRows | None:
    """Return the first noise ceiling that has a `skill_ar`."""
    if ceilings is None:
        return None
    for name in CEILINGS:
        rows = ceilings[(ceilings["ceiling"] == name) & ceilings["skill_ar"].notna()]
        if len(rows):
            return NamedRows(name, rows.sort_values(LEAD_TIME_POINTS))
    return None
