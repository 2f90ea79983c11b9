"""What each part of the study's model adds to its forecasts: the model minus its controls, as a table and in words."""

from __future__ import annotations

import numpy as np
import pandas as pd

from titan_neuro.evaluation.benchmark import Benchmark
from titan_neuro.evaluation.formatting import format_interval, markdown_table
from titan_neuro.evaluation.metrics_and_rows import (
    ABOVE_ZERO,
    ADDS,
    BACKBONE_SUFFIX,
    BLOCKS_SUFFIX,
    FROZEN_SUFFIX,
    GRU,
    HARMS,
    LEAD_TIME_POINTS,
    LEAD_TIME_S,
    NOTHING,
    RECALL_SUFFIX,
    SWIN_MEANS_SUFFIX,
    SWIN_SUFFIX,
    UNKNOWN,
    Kind,
    ablation_of,
    control_name,
    effect_of,
    row_of,
)
from titan_neuro.evaluation.tables import summarize

# A part that adds nothing should not look like one that adds 0.001.
_DECIMALS = 4
# Parts of the sentence, in its order. Of the controls of one part the sentence takes the one that is nearest the model.
_PARTS = ((FROZEN_SUFFIX,), (BACKBONE_SUFFIX,), (BLOCKS_SUFFIX,), (SWIN_SUFFIX, SWIN_MEANS_SUFFIX))


def ablations_table(benchmark: Benchmark, *, n_resamples: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Compare the study's model with each of its controls, and with the GRU, over all lead times together.

    The difference of `skill_ar` is taken within each subject and averaged over lead times. No choice of a lead time
    depends on the test data.

    Parameters
    ----------
    benchmark : Benchmark
        All folds, joined.
    n_resamples : int
        Bootstrap resamples.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        One row per pair: ``model``, ``compared_with``, ``n_subjects``, ``mean_difference`` with the ends of its 95 %
        interval (NaN with fewer than three subjects), and ``effect``, a key of
        :data:`titan_neuro.evaluation.metrics_and_rows.EFFECTS`. Empty for a model without controls.
    """
    scores, main, kinds = benchmark.scores, benchmark.main_model, benchmark.kinds
    others = [name for name, kind in kinds.items() if kind == Kind.CONTROL]
    others += [GRU] if kinds.get(GRU) == Kind.COMPARISON_MODEL else []
    rows = []
    for other in others:
        by_lead_time = [
            scores.subject_values("skill_ar", main, horizon) - scores.subject_values("skill_ar", other, horizon)
            for horizon in scores.first.horizons
        ]
        differences = np.mean(by_lead_time, axis=0)
        mean, low, high = summarize(differences, "mean_difference", n_resamples=n_resamples, seed=seed)
        rows.append(
            {
                "model": main,
                "compared_with": other,
                "n_subjects": len(differences),
                "mean_difference": mean,
                "mean_difference_low": low,
                "mean_difference_high": high,
                "effect": effect_of(mean, low, high),
            }
        )
    return pd.DataFrame(rows)


def ablations(table: pd.DataFrame) -> str:
    """Say what memory, backbone and Swin encoder add to the forecasts, also where that is nothing.

    Parameters
    ----------
    table : pandas.DataFrame
        Returned by `ablations_table`, or read from its file.

    Returns
    -------
    str
        One sentence on the parts that learn, and one on the recall as a whole where the model has one; empty for a
        model without such controls.
    """
    if table.empty:
        return ""
    model, by_control = str(table["model"].iloc[0]), table.set_index("compared_with")
    chosen = []
    for suffixes in _PARTS:
        names = by_control.index.intersection([control_name(model, suffix) for suffix in suffixes])
        if len(names):
            chosen.append(by_control.loc[names].sort_values("mean_difference", kind="stable").iloc[0])
    if not chosen:
        return ""
    if any(row["effect"] == UNKNOWN for row in chosen):
        parts = " or ".join(_part(row) for row in chosen)
        return f"What {parts} adds to the forecasts of {model} is not known: there is no interval over subjects."
    clauses = "; ".join(_clause(row, is_first=row is chosen[0]) for row in chosen)
    whole = by_control.loc[by_control.index.intersection([control_name(model, RECALL_SUFFIX)])]
    further = [f" T{_clause(row, is_first=False)[1:]}." for _, row in whole.iterrows()]
    return "".join([f"Averaged over lead times and subjects, {clauses}.", *further])


def _clause(row: pd.Series, *, is_first: bool) -> str:
    """One part and its effect: ``the backbone adds nothing``."""
    part, effect, size = _part(row), row["effect"], f"{abs(float(row['mean_difference'])):.3f}"
    skill = f" the skill of {row['model']}" if is_first else ""
    if effect == HARMS:
        return f"{part} harms: it takes {size}" + (f" from{skill}" if skill else "")
    return f"{part} {f'adds {size}' if effect == ADDS else NOTHING}" + (f" to{skill}" if skill else "")


def _part(row: pd.Series) -> str:
    ablation = ablation_of(str(row.name))
    return str(row.name) if ablation is None else ablation.part


def format_ablations(table: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    """Lay out what the model gains over rows without a part as Markdown: by lead time, over all of them, in words.

    Parameters
    ----------
    table : pandas.DataFrame
        Returned by `ablations_table`, or read from its file; with a row at least.
    comparisons : pandas.DataFrame
        Returned by `comparisons_table`, or read from its file.

    Returns
    -------
    str
        Aligned lines, 95 % intervals in brackets; below them what a difference above 0 means.
    """
    times = comparisons.drop_duplicates(LEAD_TIME_POINTS)
    header = [f"skill_ar of {table['model'].iloc[0]} minus that of", "in words"]
    header += [f"h = {row[LEAD_TIME_POINTS]:g} ({row[LEAD_TIME_S]:g} s)" for _, row in times.iterrows()]
    header += ["mean over h", "what it lacks"]
    rows = []
    for _, row in table.iterrows():
        other = str(row["compared_with"])
        by_lead_time = comparisons[comparisons["compared_with"] == other]
        cells = [format_interval(one, "difference", _DECIMALS) for _, one in by_lead_time.iterrows()]
        mean = format_interval(row, "mean_difference", _DECIMALS)
        rows.append([other, row_of(other).label, *cells, mean, str(row["effect"])])
    return f"{markdown_table(header, rows)}\n\n{ABOVE_ZERO}"
