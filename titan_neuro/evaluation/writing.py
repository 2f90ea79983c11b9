"""The tables as files of a BIDS derivative, each with a sidecar that explains its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from titan_neuro.evaluation.benchmark import Benchmark
from titan_neuro.evaluation.ceilings import ceilings_table
from titan_neuro.evaluation.fold import EvaluationConfig
from titan_neuro.evaluation.rollout_scores import RESIDUAL_METRICS, ROLLOUT_METRICS
from titan_neuro.evaluation.rollouts import LJUNG_BOX_ALPHA, LJUNG_BOX_FEATURES, LJUNG_BOX_LAGS, SLOW_STRIDE
from titan_neuro.evaluation.scores import METRICS
from titan_neuro.evaluation.summary import comparisons, format_table, summary
from titan_neuro.evaluation.tables import residuals_table, rollouts_table, scores_table, subjects_table
from titan_neuro.files import write_json, write_text
from titan_neuro.metrics import Ceiling
from titan_neuro.typing import HIGH_MOTION_MM

_MEANING = {
    "model": "Name of the forecaster.",
    "kind": "model: the study's own; control: the same, robbed of its memory; comparison model: another network, trained the same "
    "way; baseline; reference: knows the moment of the stimulus, and is no forecast.",
    "subject": "Label of the subject.",
    "lead_time_points": "How many time points ahead.",
    "lead_time_s": "How many seconds ahead.",
    "protocol": "What the test runs were held out by: subject, run, or strict (both).",
    "n_subjects": "Subjects that were tested.",
    "n_runs": "Runs that were tested.",
    "n_time_points": "Time points that were scored, over all runs, in the seed with the fewest.",
    "n_seeds": "Seeds; each trained its own models and drew its own offsets.",
    "n_targets": "Scored time points that a rollout reached, over all runs, in the seed with the fewest.",
    "skill_ar": "1 - MSE / MSE of linear autoregression per feature, errors summed over features.",
    "skill": "1 - MSE / MSE of persistence, errors summed over features.",
    "r2": "1 - MSE / MSE about the training mean, errors summed over features; may be negative.",
    "r": "Pearson correlation over time within runs, averaged over features on Fisher's scale.",
    "pattern_r": "Pearson correlation over features, averaged over time points on Fisher's scale.",
    "skill_ar_seed_sd": "Standard deviation over seeds of the mean skill_ar over subjects; n/a with one seed.",
    "variance_ratio": "Variance of the rollout over that of its targets, in runs, summed over features; 1 is right.",
    "bias": "Mean of rollout less target, over targets and features; in standard deviations of the time points.",
    "autocorrelated_fraction": "Share of features whose errors one time point ahead are not white: Ljung-Box, "
    f"{LJUNG_BOX_LAGS} lags, p < {LJUNG_BOX_ALPHA}; white errors give {LJUNG_BOX_ALPHA}.",
    "ceiling": "stimulus-locked: from leave-one-out inter-subject correlation; test-retest: from segments shown twice.",
    "ljung_box": f"Median over features of the Ljung-Box statistic; white errors give about {LJUNG_BOX_LAGS}.",
}
_BOUND = {"low": "Lower", "high": "Upper"}
_ROLLOUTS = (
    "The model reads its own forecasts one time point ahead instead of time points, from origins in the run up to the "
    "longest horizon. skill_ar and r2 are against the direct forecasts of linear AR, and the training mean, of the "
    f"same targets. Networks are rolled from every origin, the others from every {SLOW_STRIDE}th."
)
_RESIDUALS = (
    f"Errors one time point ahead of the scored time points of a run in their order, of at most {LJUNG_BOX_FEATURES} features "
    "spread evenly; each run for itself, then averaged over runs and subjects."
)

_CEILINGS = (
    "What a forecast could reach that knows the stimulus and nothing of this brain's own history, mean over features; "
    "a forecaster may exceed it. r2 is the ceiling, skill_ar what it means where linear AR does as well as it did here."
)


@dataclass(frozen=True, kw_only=True)
class ScoreContext:
    """What a table does not know of itself.

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

    They are named ``task-<task>_desc-<what>_<suffix>``: ``forecast_scores`` (also as Markdown) and
    ``forecast_subjects``; ``forecastmoving_scores`` where the head moved at scored time points; ``rollout_scores`` and
    ``residuals_scores`` where there are rollouts; ``ceilings_scores`` where there are ceilings.

    Parameters
    ----------
    folder : Path
        The derivative's ``group`` folder.
    benchmark : Benchmark
        All folds, joined.
    context : ScoreContext
        What goes into the sidecars beside the numbers.
    config : EvaluationConfig
        Resamples of the intervals.
    seed : int
        Seed of the resamples.
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
    options: dict[str, Any] = {"n_resamples": config.n_resamples, "seed": seed}
    timed = options | {"repetition_time_s": context.repetition_time_s}
    table = scores_table(benchmark, **timed)
    said, compared = summary(table), comparisons(benchmark, table, **options)
    ceilings = ceilings or {}
    common = _metadata(benchmark, context, config, seed) | {
        "Summary": said,
        "Comparisons": compared,
        "NoCeiling": {name: ceiling.reason for name, ceiling in ceilings.items() if not ceiling.values},
    }
    stem = folder / f"task-{context.task}_desc"
    _write(Path(f"{stem}-forecast_scores"), table, common)
    listed = ["\n".join(f"- {sentence}" for sentence in compared)] if compared else []
    text = "\n\n".join([format_table(table), said, *listed, *context.caveats])
    write_text(Path(f"{stem}-forecast_scores.md"), text + "\n")
    _write(Path(f"{stem}-forecast_subjects"), subjects_table(benchmark), common)
    high_motion = benchmark.high_motion_scores()
    if high_motion is not None:
        which = {
            "Description": f"Time points at which the head moved by more than {HIGH_MOTION_MM} mm; none is in the main table"
        }
        _write(
            Path(f"{stem}-forecastmoving_scores"), scores_table(benchmark, **timed, scores=high_motion), common | which
        )
    if benchmark.rollouts:
        every = {"Description": _ROLLOUTS, "OriginsEveryFrames": config.rollout_every_time_points}
        _write(Path(f"{stem}-rollout_scores"), rollouts_table(benchmark, **timed), common | every)
        _write(
            Path(f"{stem}-residuals_scores"),
            residuals_table(benchmark, **options),
            common | {"Description": _RESIDUALS},
        )
    bounds = ceilings_table(benchmark, ceilings, **options)
    if len(bounds):
        _write(Path(f"{stem}-ceilings_scores"), bounds, common | {"Description": _CEILINGS})
    return table


def _metadata(benchmark: Benchmark, context: ScoreContext, config: EvaluationConfig, seed: int) -> dict[str, Any]:
    return {
        "Protocol": benchmark.protocol,
        "Folds": [asdict(fold) for fold in benchmark.folds],
        "Caveats": list(context.caveats),
        "HorizonsFrames": list(benchmark.scores.first.horizons),
        "RepetitionTime": context.repetition_time_s,
        "Normalization": context.normalization,
        "Space": context.space,
        "ScoredFrames": f"Those marked in the data at which the head moved by {HIGH_MOTION_MM} mm at most",
        "Interval": "95 % expanded percentile bootstrap over subjects, each horizon for itself",
        "Resamples": config.n_resamples,
        "Seed": seed,
        "Seeds": list(benchmark.offsets),
        "Offsets": "Each test run begins at a time point drawn for run and seed, the same for all rows: what lies before is "
        "neither fed nor scored",
        "OffsetsFrames": {str(seed): dict(offsets) for seed, offsets in benchmark.offsets.items()},
        "ConstantFeaturesLeftOut": benchmark.scores.n_constant_features(),
    }


def _write(stem: Path, table: pd.DataFrame, metadata: Mapping[str, Any]) -> None:
    text = table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g", lineterminator="\n")
    # Not Path.with_suffix: a task or model may have a dot in its name.
    write_text(stem.with_name(f"{stem.name}.tsv"), text)
    write_json(stem.with_name(f"{stem.name}.json"), {**metadata, **_describe(list(table.columns))})


def _describe(columns: list[str]) -> dict[str, Any]:
    described = {}
    for column in columns:
        name, _, bound = column.rpartition("_")
        if name in {*METRICS, *ROLLOUT_METRICS, *RESIDUAL_METRICS} and bound in _BOUND:
            text = f"{_BOUND[bound]} end of the interval of {name}; n/a with fewer than three subjects."
        else:
            text = _MEANING[column]
        described[column] = {"Description": text}
    return described
