"""The tables as files of a BIDS derivative, each with a sidecar that explains its columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from titan_neuro.evaluation.fold import EvaluationConfig
from titan_neuro.evaluation.scores import METRICS, Scores
from titan_neuro.evaluation.tables import scores_table, subjects_table, verdict
from titan_neuro.files import write_json, write_text

_MEANING = {
    "model": "Name of the forecaster; mean, persistence and ar are the baselines.",
    "subject": "Label of the subject.",
    "horizon_frames": "How many frames ahead.",
    "horizon_s": "How many seconds ahead.",
    "protocol": "What the test runs were held out by: subject, run, or strict (both).",
    "n_subjects": "Subjects that were tested.",
    "n_runs": "Runs that were tested.",
    "n_frames": "Frames that were scored, over all runs.",
    "skill_ar": "1 - MSE / MSE of linear autoregression per feature, errors summed over features.",
    "skill": "1 - MSE / MSE of persistence, errors summed over features.",
    "r2": "1 - MSE / MSE about the training mean, errors summed over features; may be negative.",
    "r": "Pearson correlation over time within runs, averaged over features on Fisher's scale.",
    "pattern_r": "Pearson correlation over features, averaged over frames on Fisher's scale.",
}
_BOUND = {"low": "Lower", "high": "Upper"}


@dataclass(frozen=True, kw_only=True)
class ScoreContext:
    """What a table does not know of itself.

    Attributes
    ----------
    task : str
        BIDS task label.
    protocol : str
        ``subject``, ``run`` or ``strict``.
    repetition_time_s : float
        Seconds between frames.
    space : str
        Space or parcellation of the features.
    normalisation : str
        How frames were scaled.
    caveats : sequence of str
        Sentences on the preparation of the data without which the table must not be read.
    """

    task: str
    protocol: str
    repetition_time_s: float
    space: str
    normalisation: str = "causal expanding z-score"
    caveats: Sequence[str] = ()


def write_scores(
    folder: Path, scores: Scores, context: ScoreContext, config: EvaluationConfig, seed: int
) -> pd.DataFrame:
    """Write ``task-<task>_desc-forecast_{scores,subjects}.tsv`` and their sidecars.

    Parameters
    ----------
    folder : Path
        The derivative's ``group`` folder.
    scores : Scores
        All folds, joined.
    context : ScoreContext
        What goes into the sidecars beside the numbers.
    config : EvaluationConfig
        Resamples of the intervals.
    seed : int
        Seed of the resamples.

    Returns
    -------
    pandas.DataFrame
        The table of scores, for `format_table` and `verdict`.

    Raises
    ------
    OutputError
        The folder can't be written.
    """
    table = scores_table(
        scores,
        protocol=context.protocol,
        repetition_time_s=context.repetition_time_s,
        n_resamples=config.n_resamples,
        seed=seed,
    )
    common = {
        "Protocol": context.protocol,
        "Folds": [asdict(fold) for fold in scores.folds],
        "Verdict": verdict(table),
        "Caveats": list(context.caveats),
        "HorizonsFrames": list(scores.horizons),
        "RepetitionTime": context.repetition_time_s,
        "Normalisation": context.normalisation,
        "Space": context.space,
        "Interval": "95 % expanded percentile bootstrap over subjects, each horizon for itself",
        "Resamples": config.n_resamples,
        "Seed": seed,
        "ConstantFeaturesLeftOut": scores.n_constant_features(),
    }
    for suffix, content in (("scores", table), ("subjects", subjects_table(scores))):
        stem = folder / f"task-{context.task}_desc-forecast_{suffix}"
        text = content.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g", lineterminator="\n")
        write_text(stem.with_suffix(".tsv"), text)
        write_json(stem.with_suffix(".json"), common | _describe(list(content.columns)))
    return table


def _describe(columns: list[str]) -> dict[str, Any]:
    described = {}
    for column in columns:
        name, _, bound = column.rpartition("_")
        if name in METRICS and bound in _BOUND:
            text = f"{_BOUND[bound]} end of the interval of {name}; n/a with fewer than three subjects."
        else:
            text = _MEANING[column]
        described[column] = {"Description": text}
    return described
