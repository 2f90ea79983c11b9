"""How the forecasts were scored, and what the stages of a study ran with, as pairs of a term and its text."""

from __future__ import annotations

from typing import Any, TypedDict

import pandas as pd

from titan_neuro.errors import list_names
from titan_neuro.evaluation.formatting import NOT_AVAILABLE
from titan_neuro.evaluation.metrics_and_rows import (
    LEAD_TIME_POINTS,
    LEAD_TIME_S,
    METRICS_BY_NAME,
    PROTOCOLS,
    Kind,
    count_in_words,
    row_of,
)
from titan_neuro.report.numbers import count_range, duration, formula, number
from titan_neuro.report.records import ForecastMetadata, Results
from titan_neuro.report.results import lead_times_of

_PROVENANCE_TERMS = {
    "Input dataset": "input_dataset_id",
    "Commit": "commit",
    "Versions": "versions",
    "System": "system",
    "Machine": "machine",
}


class StageRow(TypedDict):
    """A stage of the provenance record."""

    stage: str
    started: str
    command: str
    seed: str
    device: str
    wall_time: str
    peak_memory: str


def scoring_terms(scores: pd.DataFrame, metadata: ForecastMetadata) -> list[tuple[str, str]]:
    """Describe how the forecasts were scored.

    Parameters
    ----------
    scores : pandas.DataFrame
        The forecast table.
    metadata : ForecastMetadata
        The JSON beside it.

    Returns
    -------
    list of (str, str)
        From the protocol to the intervals.
    """
    seconds = dict(zip(scores[LEAD_TIME_POINTS], scores[LEAD_TIME_S], strict=True))
    lead_times = ", ".join(f"{points} ({seconds[points]:g} s)" for points in lead_times_of(scores))
    protocols = [f"{name}: {PROTOCOLS.get(name, 'no description')}" for name in scores["protocol"].unique()]
    n_folds = str(len(metadata.folds))
    if len(metadata.folds) == 1:
        n_folds += f", which tests {list_names(metadata.tested)}"
    elif "subject" in set(scores["protocol"]) and len(metadata.folds) == scores["n_subjects"].max():
        n_folds += " (leave-one-subject-out)"
    return [
        ("Protocol", "; ".join(protocols)),
        ("Folds", n_folds),
        ("Subjects", count_range(scores["n_subjects"])),
        ("Seeds", _seeds(scores)),
        ("Runs", count_range(scores["n_runs"])),
        (
            "Scored time points",
            f"{count_range(scores['n_time_points'])}, all during the stimulus or task. The models also read the other "
            "time points, which are not scored.",
        ),
        ("Lead times", f"{lead_times}; in time points (seconds)"),
        ("Start of a run", "drawn at random for each run and seed, and the same for all rows of the table"),
        ("Repetition time (TR)", f"{metadata.repetition_time_s:g} s"),
        ("Normalization", f"{metadata.normalization}, for each voxel or parcel separately"),
        ("Space", metadata.space),
        ("Intervals", "95 %, bootstrap over subjects; not given for fewer than 3 subjects"),
    ]


def _seeds(scores: pd.DataFrame) -> str:
    """The number of seeds, and the largest standard deviation between them of the model's `skill_ar`."""
    n_seeds = count_range(scores["n_seeds"])
    deviations = scores.loc[scores["kind"] == Kind.MODEL, "skill_ar_seed_sd"].dropna()
    if deviations.empty:
        return n_seeds
    return f"{n_seeds}; the standard deviation of skill_ar over seeds is at most {number(float(deviations.max()))}"


def methods_paragraphs(results: Results) -> list[str]:
    """Describe the study as the methods section of a paper does; every number is that of the tables.

    Parameters
    ----------
    results : Results

    Returns
    -------
    list of str
        Data, model, evaluation, probes and software; empty where nothing was scored.
    """
    if results.scores is None or results.metadata is None:
        return []
    scores, metadata = results.scores, results.metadata
    people = count_in_words(int(scores["n_subjects"].max()), "subject")
    runs = count_in_words(int(scores["n_runs"].max()), "test run")
    protocol = str(scores["protocol"].iloc[0])
    lead_times = ", ".join(f"{seconds:g}" for seconds in sorted(set(scores[LEAD_TIME_S])))
    gradients = "trained by gradient descent" if results.has_epochs else "fitted in closed form, without gradient steps"
    model = f"{results.main_model} ({row_of(results.main_model).label})" if results.main_model else "no study model"
    baselines = scores[scores["kind"] == Kind.BASELINE]["model"]
    skill = formula(METRICS_BY_NAME["skill_ar"].formula)
    # Names have commas of their own.
    compared = "; ".join(row_of(name).label for name in dict.fromkeys(baselines))
    paragraphs = [
        f"Recordings of the task {results.task} ({people}, {runs}; repetition time {metadata.repetition_time_s:g} s; "
        f"space: {metadata.space}) were prepared and scaled for each voxel or parcel ("
        f"{metadata.normalization}).",
        f"The forecaster {model} adds to a linear autoregression of each feature what training subjects have in common "
        "at the inferred position in the stimulus, and what a memory learns about the subject at test time (Behrouz et "
        f"al., 2024). It was {gradients}.",
        f"Forecasts {lead_times} s ahead were scored on {PROTOCOLS.get(protocol, protocol)} "
        f"({count_in_words(len(metadata.folds), 'fold')}, {count_in_words(int(scores['n_seeds'].max()), 'seed')}). "
        f"Skill is {skill}, where y is the recording, f the forecast and f_AR that of linear autoregression; errors "
        "are summed over features and runs of a subject. Intervals are 95 % bootstrap intervals over subjects. The "
        "noise ceiling is that of the leave-one-subject-out intersubject correlation (Nastase et al., 2019). The model "
        f"is compared with: {compared}.",
    ]
    probes = [
        _as_sentence(f"{probe.name} ({probe.question}). {probe.metadata['Test']}")
        for probe in results.probes
        if "Test" in probe.metadata
    ]
    if probes:
        paragraphs.append(
            "The memory was probed on held-out runs. In p = (b + 1) / (n + 1), b of n permutations, shifts or "
            "surrogates reach the value that was found."
        )
        paragraphs += probes
    versions: dict[str, Any] = next(
        (record["versions"] for record in reversed(results.stages.values()) if "versions" in record), {}
    )
    if versions:
        commit = next((record["commit"] for record in reversed(results.stages.values()) if record.get("commit")), "")
        at = f" (commit {str(commit)[:12]})" if commit else ""
        paragraphs.append(f"Software: {_as_text(versions)}{at}.")
    return paragraphs


CITATIONS = (
    "Baldassano et al. (2017). Discovering event structure in continuous narrative perception and memory. Neuron 95.",
    "Behrouz, Zhong and Mirrokni (2024). Titans: learning to memorize at test time. arXiv 2501.00663.",
    "Benjamini and Hochberg (1995). Controlling the false discovery rate. J. R. Stat. Soc. B 57.",
    "Hasson et al. (2008). A hierarchy of temporal receptive windows in human cortex. J. Neurosci. 28.",
    "Nastase et al. (2019). Measuring shared responses across subjects using intersubject correlation. SCAN 14.",
    "Watanabe, Rees and Masuda (2019). Atypical intrinsic neural timescale in autism. eLife 8.",
)
"""Works that the methods text and the sections of the page refer to."""


def _as_sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def stage_rows(stages: dict[str, dict[str, Any]]) -> list[StageRow]:
    """Make a row for each stage of the provenance record.

    Parameters
    ----------
    stages : dict of str to dict
        ``stages`` of ``provenance.json``.
    """
    rows = []
    for stage, record in stages.items():
        memory, seconds = record.get("peak_memory_bytes"), record.get("wall_time_s")
        rows.append(
            StageRow(
                stage=stage,
                started=str(record.get("started", NOT_AVAILABLE)).replace("T", " ").removesuffix("+00:00"),
                command=" ".join(["titan-neuro", *map(str, record.get("arguments", []))]),
                seed=str(record.get("seed", NOT_AVAILABLE)),
                device=str(record.get("device", NOT_AVAILABLE)),
                wall_time=duration(seconds) if isinstance(seconds, int | float) else NOT_AVAILABLE,
                peak_memory=f"{memory / 2**20:,.0f} MiB" if isinstance(memory, int | float) else NOT_AVAILABLE,
            )
        )
    return rows


def provenance_terms(stages: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """Describe the data, code and machine of the stages; where stages differ, a term names those it holds for.

    Parameters
    ----------
    stages : dict of str to dict
        ``stages`` of ``provenance.json``.

    Returns
    -------
    list of (str, str)
        Input files and dataset, commit, versions, machine.
    """
    keys = {file: key for record in stages.values() for file, key in record.get("input_keys", {}).items()}
    n_keys = sum(key is not None for key in keys.values())
    known = "all" if n_keys == len(keys) else f"{n_keys} of them"
    terms = [("Input files", f"{len(keys)}, {known} with a git-annex key (in provenance.json)")] if keys else []
    for term, key in _PROVENANCE_TERMS.items():
        stages_of: dict[str, list[str]] = {}
        for stage, record in stages.items():
            if key in record:
                stages_of.setdefault(_as_text(record[key]), []).append(stage)
        if len(stages_of) == 1:
            terms.append((term, next(iter(stages_of))))
        else:
            terms += [(f"{term} ({', '.join(names)})", text) for text, names in stages_of.items()]
    return terms


def _as_text(value: Any) -> str:
    if value is None:
        return "not known"
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{key} {item}" for key, item in value.items())
