"""The tables of the forecast benchmark as Markdown: a page for each dataset, and one that sums all of them up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from titan_neuro.evaluation.formatting import format_interval, markdown_table
from titan_neuro.evaluation.metrics_and_rows import AR, LEAD_TIME_POINTS, VAR, VAR_ONLINE, Kind, row_of

SURROGATE = "phase-randomized data"
_SHORT = (
    "The best baseline is chosen for each lead time by its mean over the test subjects, which favors the baselines. "
    "Rows with `minus` are the model minus the model without that part. On phase-randomized data (`--null-control "
    "phase`: phases drawn anew for each feature and run; only the spectra remain) the same model was trained and "
    "tested on one fold, with the first seed: what it gains there it owes to the spectra, that is to filters."
)


def summary_page(pages: Mapping[str, Mapping[str, Any]], missing: Sequence[str]) -> str:
    """Sum up all datasets on one page.

    Parameters
    ----------
    pages : mapping
        The JSON of each table, by the name of its dataset, with its tables as data frames.
    missing : sequence of str
        Datasets without a table.
    """
    commits = {commit for page in pages.values() for commit in [page["commit"], *page["models_of_commits"]]}
    parts = [
        "# Forecasts: all datasets",
        f"Commit: {', '.join(sorted(map(str, commits)))}."
        + (" THESE TABLES ARE NOT OF ONE COMMIT." if len(commits) > 1 else "")
        + (f" Not made: {', '.join(missing)}." if missing else ""),
        f"`skill_ar`: fraction of the squared error of linear autoregression that a forecast removes, in subjects (and "
        f"runs, where the protocol says so) that were not trained on; h: lead time in time points; 95 % intervals, "
        f"bootstrap over subjects. {_SHORT}",
    ]
    for name, page in pages.items():
        parts += [f"## {page['title']}", _size(page), short_table(page), *page["parts"]]
        parts += [f"All rows: `benchmarks/results/forecasts_{name}.md`, made by `{page['command']}`."]
    return "\n\n".join(parts) + "\n"


def dataset_page(title: str, results: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """All tables of one dataset as one Markdown page.

    Parameters
    ----------
    title : str
    results : mapping
        See `forecasts.collect`.
    metadata : mapping
        Where the numbers are from.
    """
    scores: pd.DataFrame = results["scores"]
    main, noise = main_model(scores), results["surrogate_scores"]
    parts = [
        f"# {title}",
        "\n".join(f"- {name}: {value}" for name, value in metadata.items()),
        f"{_size(results)} h: lead time in time points. Intervals are 95 %, bootstrap over subjects.",
        *results["parts"],
        *results["summary"],
        "\n".join(f"- {sentence}" for sentence in results["comparisons"]),
        *results["caveats"],
        "## In short",
        short_table(results),
        _SHORT,
        "## skill_ar: 1 - MSE / MSE of linear autoregression",
        wide_table(scores, ["model", "kind"], "skill_ar"),
    ]
    if len(results["ways"]):
        parts += [f"## skill_ar of {main}, study by study", wide_table(results["ways"], ["study"], "skill_ar")]
    parts += [
        f"## r2 of {main}, and of linear autoregression",
        wide_table(scores[scores["model"].isin((main, AR))], ["model", "kind"], "r2"),
        f"## Difference in skill_ar of {main} from the others, within subjects",
        wide_table(results["differences"], ["other"], "difference"),
        f"## skill_ar on {SURROGATE}",
        results["surrogate_check"],
        *([wide_table(noise, ["model", "kind"], "skill_ar")] if len(noise) else []),
        *_curve(results["curve"]),
        *_ceilings(results),
        *_rollouts(results["rollouts"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def short_table(results: Mapping[str, Any]) -> str:
    """The model, the best baseline, what each part adds, and the same on phase-randomized data."""
    scores, differences = results["scores"], results["differences"]
    main = main_model(scores)
    best = best_baselines(scores)
    gains = _at(differences.rename(columns={"other": "model", "model": "of"}), best, "difference")
    rows = {
        f"**{main}**": _of(scores, main, "skill_ar"),
        "best baseline": {h: f"{cell} {best[h]}" for h, cell in _at(scores, best, "skill_ar").items()},
        f"gain of {main} over it": gains,
    }
    noise, noise_differences = results["surrogate_scores"], results["surrogate_differences"]
    if len(noise):
        best_on_noise = best_baselines(noise)
        rows |= {
            f"gain over the best baseline on {SURROGATE}": _at(
                noise_differences.rename(columns={"other": "model", "model": "of"}), best_on_noise, "difference"
            ),
            f"gain over linear autoregression on {SURROGATE}": _of(noise, main, "skill_ar"),
        }
    controls = scores.loc[scores["kind"] == Kind.CONTROL, "model"].unique()
    for control in controls:
        part = differences[differences["other"] == control]
        rows[f"minus {control} ({row_of(control).label})"] = _cells(part, "difference", decimals=4)
    horizons = sorted(scores[LEAD_TIME_POINTS].unique())
    lines = [[name, *(cells.get(h, "-") for h in horizons)] for name, cells in rows.items()]
    return markdown_table(["skill_ar", *(f"h {h:g}" for h in horizons)], lines)


def main_model(scores: pd.DataFrame) -> str:
    """Name of the study's own model in a table of scores."""
    return str(scores.loc[scores["kind"] == Kind.MODEL, "model"].iloc[0])


def best_baselines(scores: pd.DataFrame) -> dict[int, str]:
    """Name of the baseline with the highest mean `skill_ar`, by lead time."""
    baselines = scores[scores["kind"] == Kind.BASELINE].reset_index(drop=True)
    rows = baselines.loc[baselines.groupby(LEAD_TIME_POINTS)["skill_ar"].idxmax()]
    return dict(zip(rows[LEAD_TIME_POINTS], rows["model"], strict=True))


def _of(table: pd.DataFrame, model: str, metric: str) -> dict[int, str]:
    return _cells(table[table["model"] == model], metric)


def _at(table: pd.DataFrame, models: Mapping[int, str], metric: str) -> dict[int, str]:
    """Cells of another row at each lead time."""
    is_asked = table["model"] == table[LEAD_TIME_POINTS].map(models)
    return _cells(table[is_asked], metric)


def _cells(rows: pd.DataFrame, metric: str, decimals: int = 3) -> dict[int, str]:
    return {row[LEAD_TIME_POINTS]: format_interval(row, metric, decimals) for _, row in rows.iterrows()}


def _size(results: Mapping[str, Any]) -> str:
    counts = results["scores"].iloc[0]
    return (
        f"{counts['n_subjects']} subjects, {counts['n_runs']} runs, {counts['n_seeds']} seeds; protocol "
        f"{results['protocol']}."
    )


def _curve(curve: pd.DataFrame) -> list[str]:
    if not len(curve):
        return []
    curve = curve.copy()
    curve["context"] = [
        "whole run" if whole else f"{time_points:g} time points ({seconds:g} s)"
        for whole, time_points, seconds in zip(
            curve["whole_run"], curve["context_time_points"], curve["context_s"], strict=True
        )
    ]
    title = "## Context length: skill_ar with the memory cut to the last time points (first seed)"
    return [title, wide_table(curve, ["context"], "skill_ar")]


def _ceilings(results: Mapping[str, Any]) -> list[str]:
    parts = [f"No {name} ceiling: {reason}" for name, reason in results["no_ceiling"].items()]
    if not len(results["ceilings"]):
        return parts
    title = "## Noise ceilings of forecasts that contain the stimulus alone"
    return [title, wide_table(results["ceilings"], ["ceiling"]), *parts]


def _rollouts(rollouts: pd.DataFrame) -> list[str]:
    if not len(rollouts):
        return []
    brief = rollouts[
        rollouts["kind"].isin((Kind.MODEL, Kind.CONTROL, Kind.COMPARISON_MODEL))
        | rollouts["model"].isin((AR, VAR, VAR_ONLINE))
    ]
    targets = brief.groupby("model", sort=False)["n_targets"].max()
    return [
        "## Rollouts: the model reads its own forecasts",
        "Models that can't forecast a batch are rolled out from every eighth origin; each row is compared with "
        "linear AR on its own targets: "
        f"{', '.join(f'{name} {count}' for name, count in targets.items())}.",
        "skill_ar:",
        wide_table(brief, ["model"]),
        "Variance of the rollout / variance of the targets; 1 is best:",
        wide_table(brief, ["model"], "variance_ratio"),
    ]


def wide_table(table: pd.DataFrame, labels: Sequence[str], metric: str = "skill_ar") -> str:
    """One line for each row, one column for each lead time: means and intervals, as Markdown."""
    horizons = sorted(table[LEAD_TIME_POINTS].unique())
    header = [*labels, *(f"h {horizon:g}" for horizon in horizons)]
    lines = []
    for key, part in table.groupby(list(labels), sort=False):
        by_horizon = _cells(part, metric)
        lines.append([*key, *(by_horizon.get(horizon, "-") for horizon in horizons)])
    return markdown_table(header, lines)
