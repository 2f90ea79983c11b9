"""The whole table of the forecast benchmark, on the synthetic dataset and on real recordings.

``python benchmarks/forecasts.py sitcom`` runs a whole study (simulate or find the recordings, prepare, train, evaluate,
probe) with a small training, in minutes; ``--full`` makes the table in ``results/``, with three seeds.
Finished stages stay in the working folder: the same command resumes where it was stopped. Numbers are read from the
tables that `titan-neuro evaluate` and `titan-neuro probe` write.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from common import ROOT, provenance

from titan_neuro import manifests
from titan_neuro.data.simulate import SimulateConfig, simulate
from titan_neuro.evaluation.formatting import format_interval, markdown_table
from titan_neuro.evaluation.metrics_and_rows import AR, VAR, VAR_ONLINE, Kind
from titan_neuro.files import write_json, write_text
from titan_neuro.metrics import bootstrap_interval
from titan_neuro.study import Study, parse_setting

RECORDINGS = ROOT.parent / "shared/data"
PIPELINES = ROOT / "pipelines"
# Contexts of the synthetic dataset's curve, in time points, besides the probe's own: windows of the analogs, and 40.
_CONTEXTS = "probe.context_length.contexts_time_points=[20, 40, 80, 160]"
_QUICK = (
    "seeds=[0]",
    "training.max_epochs=2",
    "training.steps_per_epoch=4",
    "evaluation.rollout_every_time_points=128",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One of the tables.

    Attributes
    ----------
    title : str
        Heading.
    recordings : str or None
        Folder of real recordings; None simulates them.
    settings_file : str or None
        File in ``pipelines/`` that the settings below override.
    simulated : tuple of str
        Settings of the simulation, as ``--set`` takes them.
    settings : tuple of str
        Of the study, as ``--set`` takes them.
    caveat : str
        Earlier processing of the recordings that affects every number.
    """

    title: str
    recordings: str | None = None
    settings_file: str | None = None
    simulated: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    caveat: str = ""


EXAMPLES = {
    "synthetic": Example(
        title="Forecasts of the synthetic dataset, held-out subjects",
        # A stimulus, associations that are new in each subject, and responses delayed by two minutes.
        simulated=(
            *("n_subjects=9", "n_runs=2", "volume_scale=1", "stimulus_fraction=0.4"),
            *(
                "association_fraction=0.2",
                "cue_interval_s=5",
                "delayed_response_fraction=0.2",
                "delayed_response_lags_s=[120]",
            ),
        ),
        settings=("model.horizons=[1, 2, 3, 6, 10, 20]",),
    ),
    "sitcom": Example(
        title="Forecasts of the sitcom, held-out subjects, the same stimulus, 200 parcels",
        recordings="sitcom-parcels",
        settings_file="sitcom.yaml",
        caveat="These recordings were high-pass filtered over whole runs before we received them: there is almost no "
        "power below 0.009 Hz. Rows with a long history, var-online most of all, can predict such filtered signals; "
        "linear AR has 8 lags (docs/log.md).",
    ),
    "haxby": Example(
        title="Forecasts of haxby25mm, one subject, leave-one-run-out",
        recordings="haxby25mm",
        settings_file="haxby.yaml",
    ),
}


def run_study(example: Example, work: Path, source: Path | None, settings: Sequence[str]) -> Path:
    """Run every stage that is not finished yet.

    Returns
    -------
    Path
        The output folder.
    """
    output = work / "output"
    if example.recordings is None:
        source = source or work / "bids"
        simulate(source, SimulateConfig(**ChainMap(*map(parse_setting, example.simulated))))
        study = Study.open(source, output, overrides=[_CONTEXTS, *example.settings, *settings])
    else:
        source = source or RECORDINGS / example.recordings
        file = PIPELINES / str(example.settings_file)
        study = Study.open(source, output, config_file=file, overrides=[*example.settings, *settings])
    study.prepare()
    study.train()
    print(study.evaluate())
    print(study.probe("context-length"))
    return output


def collect(output: Path) -> dict[str, Any]:
    """Read the tables and sidecars of a finished study.

    Returns
    -------
    dict
        JSON: ``parts``, ``summary``, ``comparisons``, ``caveats``, and as records ``scores``, ``differences``,
        ``ceilings``, ``rollouts``, ``curve``.
    """
    scores, sidecar = _read(output, "forecast_scores")
    subjects, _ = _read(output, "forecast_subjects")
    results = {
        "protocol": sidecar["Protocol"],
        "seeds": sidecar["Seeds"],
        "parts": sidecar["Ablations"],
        "summary": sidecar["Summary"],
        "comparisons": sidecar["Comparisons"],
        "caveats": sidecar["Caveats"],
        "no_ceiling": sidecar["MissingCeilings"],
        "scores": scores,
        "differences": differences(scores, subjects, n_resamples=sidecar["Resamples"], seed=sidecar["Seed"]),
    }
    for name, what in (("ceilings", "ceilings_scores"), ("rollouts", "rollout_scores")):
        results[name] = _read(output, what)[0] if list(output.glob(f"group/*_desc-{what}.tsv")) else pd.DataFrame()
    results["curve"] = _read(output, "contextlength_curve")[0]
    return results


def _read(output: Path, what: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    [path] = output.glob(f"group/*_desc-{what}.tsv")
    table = pd.read_csv(path, sep="\t", na_values="n/a", dtype={"subject": str})
    return table, json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def _commits_of_models(output: Path) -> set[str]:
    return {manifests.read(output, name)["made"]["commit"] or "unknown" for name in manifests.names(output, "train")}


def differences(scores: pd.DataFrame, subjects: pd.DataFrame, *, n_resamples: int, seed: int) -> pd.DataFrame:
    """Difference in `skill_ar` of the main model from each other forecaster, within subjects; intervals over them."""
    main = scores.loc[scores["kind"] == Kind.MODEL, "model"].iloc[0]
    wide = subjects.pivot_table("skill_ar", ["subject", "lead_time_points"], "model")
    rows = []
    kinds = scores.drop_duplicates("model").set_index("model")["kind"]
    for other in kinds[(kinds != Kind.ORACLE_REFERENCE) & (kinds.index != main)].index:
        for horizon in sorted(scores["lead_time_points"].unique()):
            at = wide.xs(horizon, level="lead_time_points")
            values = (at[main] - at[other]).to_numpy()
            low, high = bootstrap_interval(values, n_resamples=n_resamples, seed=seed)
            interval = {"difference": float(values.mean()), "difference_low": low, "difference_high": high}
            rows.append({"model": main, "other": other, "lead_time_points": int(horizon)} | interval)
    return pd.DataFrame(rows)


def page(title: str, results: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """All tables as one Markdown page."""
    scores: pd.DataFrame = results["scores"]
    main = scores.loc[scores["kind"] == Kind.MODEL, "model"].iloc[0]
    ours = scores[scores["model"] == main]
    counts = scores.iloc[0]
    curve = results["curve"].copy()
    curve["context"] = [
        "whole run" if whole else f"{time_points:g} time points ({seconds:g} s)"
        for whole, time_points, seconds in zip(
            curve["whole_run"], curve["context_time_points"], curve["context_s"], strict=True
        )
    ]
    parts = [
        f"# {title}",
        "\n".join(f"- {name}: {value}" for name, value in metadata.items()),
        f"{counts['n_subjects']} subjects, {counts['n_runs']} runs, {counts['n_seeds']} seeds; protocol "
        f"{results['protocol']}. h: lead time in time points. Intervals are 95 %, bootstrap over subjects.",
        results["parts"],
        results["summary"],
        "\n".join(f"- {sentence}" for sentence in results["comparisons"]),
        *results["caveats"],
        "## skill_ar: 1 - MSE / MSE of linear autoregression",
        wide_table(scores, ["model", "kind"], "skill_ar"),
        f"## r2 of {main}, and of linear autoregression",
        wide_table(pd.concat([ours, scores[scores["model"] == "ar"]]), ["model", "kind"], "r2"),
        f"## Difference in skill_ar of {main} from the others, within subjects",
        wide_table(results["differences"], ["other"], "difference"),
        "## Context length: skill_ar with the memory cut to the last time points (first seed)",
        wide_table(curve, ["context"], "skill_ar"),
    ]
    if len(results["ceilings"]):
        parts += [
            "## Noise ceilings of forecasts that contain the stimulus alone",
            wide_table(results["ceilings"], ["ceiling"]),
        ]
    parts += [f"No {name} ceiling: {reason}" for name, reason in results["no_ceiling"].items()]
    rollouts = results["rollouts"]
    if len(rollouts):
        brief = rollouts[
            rollouts["kind"].isin((Kind.MODEL, Kind.CONTROL, Kind.COMPARISON_MODEL))
            | rollouts["model"].isin((AR, VAR, VAR_ONLINE))
        ]
        targets = brief.groupby("model", sort=False)["n_targets"].max()
        parts += [
            "## Rollouts: the model reads its own forecasts",
            "Models that can't forecast a batch are rolled out from every eighth origin; each row is compared with "
            "linear AR on its own targets: "
            f"{', '.join(f'{name} {count}' for name, count in targets.items())}.",
        ]
        parts += ["skill_ar:", wide_table(brief, ["model"])]
        parts += [
            "Variance of the rollout / variance of the targets; 1 is best:",
            wide_table(brief, ["model"], "variance_ratio"),
        ]
    return "\n\n".join(parts) + "\n"


def wide_table(table: pd.DataFrame, labels: Sequence[str], metric: str = "skill_ar") -> str:
    """One line for each row, one column for each lead time: means and intervals, as Markdown."""
    horizons = sorted(table["lead_time_points"].unique())
    header = [*labels, *(f"h {horizon:g}" for horizon in horizons)]
    lines = []
    for key, part in table.groupby(list(labels), sort=False):
        by_horizon = {row["lead_time_points"]: format_interval(row, metric) for _, row in part.iterrows()}
        lines.append([*key, *(by_horizon.get(horizon, "-") for horizon in horizons)])
    return markdown_table(header, lines)


def main(arguments: list[str]) -> None:
    """Run the study, print the page, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=EXAMPLES)
    parser.add_argument("--full", action="store_true", help="the preset's training with three seeds (hours)")
    parser.add_argument(
        "--source", type=Path, help="BIDS folder (default: shared/data beside the project, or a synthetic dataset)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--work-dir", type=Path, help="default: benchmarks/.work/NAME, or NAME-quick without --full")
    parser.add_argument(
        "--output", type=Path, help="default: benchmarks/results/forecasts_NAME.json; without --full in the work folder"
    )
    options = parser.parse_args(arguments)
    example = EXAMPLES[options.name]
    work = options.work_dir or ROOT / "benchmarks/.work" / (options.name if options.full else f"{options.name}-quick")
    folder = ROOT / "benchmarks/results" if options.full else work
    target = options.output or folder / f"forecasts_{options.name}.json"
    settings = [*(() if options.full else _QUICK), *options.settings]
    metadata = provenance(arguments)
    output = run_study(example, work, options.source, settings)
    metadata |= {"simulated": list(example.simulated), "settings_file": example.settings_file}
    metadata["settings"] = [*example.settings, *settings]
    metadata["models_of_commits"] = sorted(_commits_of_models(output))
    results = collect(output)
    results["caveats"] += [example.caveat] * bool(example.caveat)
    text = page(example.title, results, metadata)
    tables = {name: value.to_dict("records") for name, value in results.items() if isinstance(value, pd.DataFrame)}
    # There is no NaN in JSON.
    clean = {name: [_without_nan(row) for row in rows] for name, rows in tables.items()}
    write_json(target, {"title": example.title, **metadata, **results, **clean})
    write_text(target.with_suffix(".md"), text)
    print(text)


def _without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if pd.isna(value) else value for name, value in row.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
