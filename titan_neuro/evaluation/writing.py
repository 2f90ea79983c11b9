"""The tables as files of a BIDS derivative, each with a sidecar that explains its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from titan_neuro.evaluation.ablations import ablations, ablations_table, format_ablations
from titan_neuro.evaluation.benchmark import Benchmark
from titan_neuro.evaluation.ceilings import ceilings_table
from titan_neuro.evaluation.comparisons import comparisons_table
from titan_neuro.evaluation.config import EvaluationConfig
from titan_neuro.evaluation.formatting import format_table
from titan_neuro.evaluation.metrics_and_rows import WHITENESS_FEATURES, describe_column, row_of
from titan_neuro.evaluation.rollouts import SLOW_STRIDE
from titan_neuro.evaluation.summary import comparisons, summary
from titan_neuro.evaluation.tables import residuals_table, rollouts_table, scores_table, subjects_table
from titan_neuro.files import write_json, write_text
from titan_neuro.metrics import Ceiling
from titan_neuro.tables import write_tsv
from titan_neuro.typing import HIGH_MOTION_MM

_COMPARISONS = (
    "Difference of skill_ar between two rows, taken within each subject; mean and 95 % interval over subjects. A row "
    "beats the other where the whole interval lies above 0."
)
_ABLATIONS = (
    "What each part of the study's model adds: skill_ar of the model minus that of the model without the part, taken "
    "within each subject and averaged over lead times; mean and 95 % interval over subjects."
)
_HIGH_MOTION = f"Time points with a framewise displacement (FD) above {HIGH_MOTION_MM} mm; the main table has none."
_ROLLOUTS = (
    "A rollout reads its own forecasts one time point ahead instead of the recording, from origins in the run up to "
    "the longest lead time. skill_ar and r2 compare it with the direct forecasts of linear autoregression and with "
    "the training mean, on the same targets. Networks start a rollout at every origin, the other rows at every "
    f"{SLOW_STRIDE}th."
)
_RESIDUALS = (
    "Errors of the forecasts one time point ahead, at the scored time points of a run, of at most "
    f"{WHITENESS_FEATURES} evenly spread features. Each run is tested by itself; values are averaged over runs, then "
    "over subjects."
)
_CEILINGS = (
    "Noise ceiling: the score of a forecast that contains the stimulus-locked signal and nothing of this brain's "
    "own past, mean over features. A forecaster may exceed it. r2 is the ceiling itself; skill_ar is the ceiling given "
    "the r2 of linear autoregression."
)


@dataclass(frozen=True, kw_only=True)
class ScoreContext:
    """What the sidecars say of the data beside the numbers.

    Attributes
    ----------
    task : str
        BIDS task label.
    repetition_time_s : float
        Seconds between time points.
    space : str
        Space or parcellation of the features.
    normalization : str
        How time points were scaled.
    caveats : sequence of str
        Sentences on the preparation of the data without which the table must not be read.
    """

    task: str
    repetition_time_s: float
    space: str
    normalization: str = "causal expanding z-score"
    caveats: Sequence[str] = ()


def write_scores(
    folder: Path,
    benchmark: Benchmark,
    context: ScoreContext,
    config: EvaluationConfig,
    seed: int,
    ceilings: Mapping[str, Ceiling] | None = None,
) -> pd.DataFrame:
    """Write the tables of a benchmark, each as TSV with a JSON sidecar.

    They are named ``task-<task>_desc-<what>_<suffix>``: ``forecast_scores`` (also as Markdown), ``forecast_subjects``,
    ``forecastcomparisons_scores`` and ``forecastablations_scores``; ``forecasthighmotion_scores`` where scored time
    points have high motion; ``rollout_scores`` and ``residuals_scores`` where there are rollouts; ``ceilings_scores``
    where there are ceilings.

    Parameters
    ----------
    folder : Path
        The derivative's ``group`` folder.
    benchmark : Benchmark
        All folds, joined.
    context : ScoreContext
        What goes into the sidecars beside the numbers.
    config : EvaluationConfig
        Number of resamples of the intervals; `seed` is their seed.
    ceilings : mapping of str to Ceiling, optional
        See `ceilings_table`.

    Returns
    -------
    pandas.DataFrame
        The table of scores, for `format_table` and `summary`.

    Raises
    ------
    OutputError
        The folder can't be written.
    """
    ceilings = ceilings or {}
    options: dict[str, Any] = {"n_resamples": config.n_resamples, "seed": seed}
    timed = options | {"repetition_time_s": context.repetition_time_s}
    table = scores_table(benchmark, **timed)
    compared, ablated = comparisons_table(benchmark, **timed), ablations_table(benchmark, **options)
    metadata = _metadata(benchmark, context, config, seed, ceilings)
    metadata |= {"Ablations": ablations(ablated), "Summary": summary(table), "Comparisons": comparisons(compared)}
    stem = folder / f"task-{context.task}_desc"
    write_text(Path(f"{stem}-forecast_scores.md"), format_scores(table, compared, ablated, context.caveats) + "\n")

    tables = _further_tables(benchmark, config, options, context.repetition_time_s)
    definitions = {name: row_of(name).definition for name in ablated.get("compared_with", ())}
    tables |= {
        "forecast_scores": (table, {}),
        "forecastablations_scores": (ablated, {"Description": _ABLATIONS, "Definitions": definitions}),
        "forecastcomparisons_scores": (compared, {"Description": _COMPARISONS}),
        "ceilings_scores": (ceilings_table(benchmark, ceilings, **options), {"Description": _CEILINGS}),
    }
    for name, (content, description) in tables.items():
        if content is not None and len(content):
            _write(Path(f"{stem}-{name}"), content, metadata | description)
    return table


def format_scores(table: pd.DataFrame, compared: pd.DataFrame, ablated: pd.DataFrame, caveats: Sequence[str]) -> str:
    """Lay out the scores for a terminal and as Markdown: tables, sentences, and last what the parts of the model add.

    Parameters
    ----------
    table, compared, ablated : pandas.DataFrame
        What `scores_table`, `comparisons_table` and `ablations_table` return; the last two may be empty.
    caveats : sequence of str
        What must be said beside the scores.
    """
    sentences = comparisons(compared)
    blocks = [
        format_table(table),
        "" if ablated.empty else format_ablations(ablated, compared),
        summary(table),
        "\n".join(f"- {sentence}" for sentence in sentences),
        *caveats,
        ablations(ablated),
    ]
    return "\n\n".join(block for block in blocks if block)


def _further_tables(
    benchmark: Benchmark, config: EvaluationConfig, options: dict[str, Any], repetition_time_s: float
) -> dict[str, tuple[pd.DataFrame | None, dict[str, Any]]]:
    """By the names of their files: the tables that no summary is made from, and what their sidecars add."""
    timed = options | {"repetition_time_s": repetition_time_s}
    high_motion = benchmark.high_motion_scores()
    moved = None if high_motion is None else scores_table(benchmark, **timed, scores=high_motion)
    rolled = rollouts_table(benchmark, **timed) if benchmark.rollouts else None
    residuals = residuals_table(benchmark, **options) if benchmark.rollouts else None
    origins = {"OriginSpacingTimePoints": config.rollout_every_time_points}
    return {
        "forecast_subjects": (subjects_table(benchmark), {}),
        "forecasthighmotion_scores": (moved, {"Description": _HIGH_MOTION}),
        "rollout_scores": (rolled, {"Description": _ROLLOUTS, **origins}),
        "residuals_scores": (residuals, {"Description": _RESIDUALS}),
    }


def _metadata(
    benchmark: Benchmark,
    context: ScoreContext,
    config: EvaluationConfig,
    seed: int,
    ceilings: Mapping[str, Ceiling],
) -> dict[str, Any]:
    return {
        "Protocol": benchmark.protocol,
        "Folds": [asdict(fold) for fold in benchmark.folds],
        "Caveats": list(context.caveats),
        "LeadTimePoints": list(benchmark.scores.first.horizons),
        "RepetitionTime": context.repetition_time_s,
        "Normalization": context.normalization,
        "Space": context.space,
        "ScoredTimePoints": "Those that the data mark as scored, with a framewise displacement (FD) of at most "
        f"{HIGH_MOTION_MM} mm",
        "Interval": "95 % expanded percentile bootstrap over subjects, for each lead time separately",
        "Resamples": config.n_resamples,
        "Seed": seed,
        "Seeds": list(benchmark.offsets),
        "Offsets": "Each test run begins at a time point that is drawn for run and seed and is the same for all rows; "
        "earlier time points are neither read nor scored",
        "OffsetTimePoints": {str(seed): dict(offsets) for seed, offsets in benchmark.offsets.items()},
        "ExcludedConstantFeatures": benchmark.scores.n_constant_features(),
        "MissingCeilings": {name: ceiling.reason for name, ceiling in ceilings.items() if not ceiling.values},
    }


def _write(stem: Path, table: pd.DataFrame, metadata: Mapping[str, Any]) -> None:
    # Not Path.with_suffix: a task or model may have a dot in its name.
    write_tsv(stem.with_name(f"{stem.name}.tsv"), table, float_format="%.6g")
    columns = {str(column): describe_column(str(column)) for column in table.columns}
    write_json(stem.with_name(f"{stem.name}.json"), {**metadata, **columns})
