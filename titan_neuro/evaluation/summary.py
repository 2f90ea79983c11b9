"""What the table says, in sentences that claim no more than its intervals do."""

from __future__ import annotations

import pandas as pd

from titan_neuro.evaluation.benchmark import Benchmark
from titan_neuro.evaluation.tables import summarize
from titan_neuro.evaluation.vocabulary import METRICS, Kind

# Rows that the main model is compared with, where they are in the table.
COMPARED = ("var", "var-online", "transformer-20", "soft-analog-160")
# Below this the bootstrap can't reach far enough to cover what it says.
_FEW_SUBJECTS = 5


def summary(table: pd.DataFrame) -> str:
    """Say whether the main model beats linear autoregression.

    It does where the whole interval of `skill_ar` lies above 0.

    Parameters
    ----------
    table : pandas.DataFrame
        What `scores_table` returned.

    Returns
    -------
    str
        One sentence. With fewer than three subjects, or with few, it says what that means.
    """
    [main] = table.loc[table["kind"] == Kind.MODEL, "model"].unique()
    return _summarize(main, table)


def comparisons(benchmark: Benchmark, table: pd.DataFrame, *, n_resamples: int = 10_000, seed: int = 0) -> list[str]:
    """Say whether comparison models beat linear autoregression, and the main model its controls and the rows of
    `COMPARED`.

    The difference of `skill_ar` is taken within each subject; what is said rests on its interval over subjects.

    Parameters
    ----------
    benchmark : Benchmark
        All folds, joined.
    table : pandas.DataFrame
        What `scores_table` returned for it.
    n_resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    list of str
        One sentence a comparison; empty where none of them is in the table.
    """
    main, scores = benchmark.main_model, benchmark.scores
    sentences = [
        _summarize(comparison_model, table)
        for comparison_model in table.loc[table["kind"] == Kind.COMPARISON_MODEL, "model"].unique()
    ]
    controls = [name for name, kind in benchmark.kinds.items() if kind == Kind.CONTROL]
    for other in (*controls, *(name for name in COMPARED if name in benchmark.kinds)):
        rows = []
        for horizon in scores.first.horizons:
            difference = scores.subject_values("skill_ar", main, horizon) - scores.subject_values(
                "skill_ar", other, horizon
            )
            mean, low, high = summarize(difference, "difference", n_resamples=n_resamples, seed=seed)
            rows.append(
                {"lead_time_points": horizon, "difference": mean, "difference_low": low, "difference_high": high}
            )
        sentences.append(_sentence(main, other, pd.DataFrame(rows), "difference", "difference of skill_ar"))
    return sentences


def _summarize(model: str, table: pd.DataFrame) -> str:
    rows = table[table["model"] == model]
    n_subjects = int(rows["n_subjects"].iloc[0])
    who = f"{n_subjects} subject{'s' if n_subjects > 1 else ''}"
    if rows["skill_ar_low"].isna().all():
        numbers = ", ".join(f"{row.skill_ar:.3f} at h = {row.lead_time_points}" for row in rows.itertuples())
        return (
            f"{model}: skill_ar over linear AR is {numbers}; with {who} no interval over subjects is possible, and the "
            "numbers describe these recordings only."
        )
    caution = ", too few for the interval to cover 95 %" if n_subjects < _FEW_SUBJECTS else ""
    return f"{_sentence(model, 'linear AR', rows, 'skill_ar', 'skill_ar').removesuffix('.')}; {who}{caution}."


def _sentence(model: str, other: str, rows: pd.DataFrame, column: str, what: str) -> str:
    if rows[f"{column}_low"].isna().all():
        numbers = ", ".join(f"{row[column]:.3f} at h = {row['lead_time_points']:.0f}" for _, row in rows.iterrows())
        return f"{model} against {other}: {what} {numbers}, without an interval."
    better, worse = rows[f"{column}_low"] > 0, rows[f"{column}_high"] < 0
    clauses = [
        f"{how} {other} at h = {', '.join(str(h) for h in rows.loc[which, 'lead_time_points'])} "
        f"({what} {', '.join(interval(row, column) for _, row in rows[which].iterrows())})"
        for how, which in (("beats", better), ("does not beat", ~better & ~worse), ("is worse than", worse))
        if which.any()
    ]
    return f"{model} {'; '.join(clauses)}."


def interval(row: pd.Series, metric: str) -> str:
    """Write a mean and its interval: ``0.030 [0.010, 0.050]``."""
    if pd.isna(row[metric]):
        return "n/a"
    if pd.isna(row[f"{metric}_low"]):
        return f"{row[metric]:.3f}"
    return f"{row[metric]:.3f} [{row[f'{metric}_low']:.3f}, {row[f'{metric}_high']:.3f}]"


def format_table(table: pd.DataFrame, metrics: tuple[str, ...] = METRICS) -> str:
    """Lay a table out as Markdown that reads well on a terminal too: one row per model and horizon.

    Parameters
    ----------
    table : pandas.DataFrame
        What `scores_table` returned, or ``scores.tsv`` read back with ``na_values="n/a"``.
    metrics : tuple of str
        Columns that have an interval.

    Returns
    -------
    str
        Aligned lines; intervals in brackets.
    """
    horizons = ["lead_time_points", "lead_time_s"] if "lead_time_points" in table else []
    header = ["model", "kind", *(["h", "seconds"] if horizons else []), *metrics]
    lines = [
        [row["model"], row["kind"], *(f"{row[name]:g}" for name in horizons), *(interval(row, m) for m in metrics)]
        for _, row in table.iterrows()
    ]
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in [header, rule, *lines]
    )
