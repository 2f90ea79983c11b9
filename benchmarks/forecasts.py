"""The whole table of the forecast benchmark, on the synthetic dataset and on real recordings.

``python benchmarks/forecasts.py sitcom`` runs a whole study (simulate or find the recordings, prepare, train, evaluate,
probe; then the same on phase-randomized data) for the first fold and one seed, in minutes; ``--full`` makes the table
in ``results/``, with all folds and three seeds. ``all`` makes the tables of all real recordings, ``--jobs`` of them
side by side, and the page that sums them up. Finished stages stay in the working folder: the same command resumes where
it was stopped. Numbers are read from the tables that `titan-neuro evaluate` and `titan-neuro probe` write.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections import ChainMap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from common import ROOT, BenchmarkError, provenance
from forecast_datasets import EXAMPLES, Example, Way
from forecast_pages import dataset_page, main_model, summary_page

from titan_neuro import manifests
from titan_neuro.data.simulate import SimulateConfig, simulate
from titan_neuro.errors import LeakageError
from titan_neuro.evaluation.metrics_and_rows import LEAD_TIME_POINTS, METRICS, Kind
from titan_neuro.evaluation.tables import summarize
from titan_neuro.files import write_json, write_text
from titan_neuro.study import Study, parse_setting
from titan_neuro.study.selection import Selection

RECORDINGS = ROOT.parent / "shared/data"
PIPELINES = ROOT / "pipelines"
ALL = "all"
REAL = tuple(name for name, example in EXAMPLES.items() if example.recordings is not None)
_RESULTS = ROOT / "benchmarks/results"
_QUICK = (
    "seeds=[0]",
    "training.max_epochs=2",
    "training.steps_per_epoch=4",
    "evaluation.rollout_every_time_points=128",
)
_SUMMARY = "forecasts.md"


def open_study(example: Example, way: Way, work: Path, source: Path | None, settings: Sequence[str]) -> Study:
    """Open one study of a table; recordings of the synthetic dataset are simulated first."""
    output = work / way.name / "output"
    overrides = [*example.settings, *way.settings, *settings]
    if example.recordings is None:
        source = source or work / "bids"
        simulate(source, SimulateConfig(**ChainMap(*map(parse_setting, example.simulated))))
        return Study.open(source, output, overrides=overrides)
    return Study.open(
        source or RECORDINGS / example.recordings,
        output,
        config_file=PIPELINES / str(example.settings_file),
        selection=Selection(tasks=way.tasks or None),
        overrides=overrides,
    )


def run_study(study: Study, example: Example, *, folds: Sequence[int] | None) -> None:
    """Run every stage that is not finished yet; some folds, or all and the probe."""
    study.prepare()
    study.train(folds=folds)
    print(study.evaluate(folds=folds))
    if example.has_curve and folds is None:
        print(study.probe("context-length"))


def run_surrogate(study: Study) -> dict[str, Any]:
    """Train and test one fold on phase-randomized data, with the study's first seed, and read the tables.

    Returns
    -------
    dict
        ``surrogate_check`` in words, ``surrogate_scores``, ``surrogate_differences``.
    """
    try:
        _, check = study.null_control("phase", folds=[1], seeds=study.plan_group().seeds[:1])
    except LeakageError as error:
        # The table is there, and shows by how much.
        check = f"THE NULL CONTROL FAILED. {error}"
    subjects, sidecar = _read(study.output.path / "null-phase", "forecast_subjects", beside="forecast_scores")
    scores, differences = tables_of(subjects, sidecar)
    return {"surrogate_check": check, "surrogate_scores": scores, "surrogate_differences": differences}


def collect(outputs: Mapping[str, Path]) -> dict[str, Any]:
    """Read the tables and sidecars of the finished studies of one table, by the names of its ways.

    Returns
    -------
    dict
        JSON: ``protocol``, ``seeds``, sentences (``parts``, ``summary``, ``comparisons``, ``caveats``, ``no_ceiling``),
        and as data frames ``scores``, ``differences``, ``ways``, and, of a table that is one study, ``ceilings``,
        ``rollouts``, ``curve``; these are empty where there are none.
    """
    found = {name: _read(output, "forecast_subjects", beside="forecast_scores") for name, output in outputs.items()}
    sidecars = {name: sidecar for name, (_, sidecar) in found.items()}
    first = next(iter(sidecars.values()))
    # A person whom several studies have tested counts once.
    scores, differences = tables_of(pd.concat([subjects for subjects, _ in found.values()]), first)
    is_one = len(outputs) == 1
    [output, *_] = outputs.values()
    results: dict[str, Any] = {
        "protocol": first["Protocol"],
        "seeds": first["Seeds"],
        **{
            part: [f"{name}: {sidecar[key]}" if name else sidecar[key] for name, sidecar in sidecars.items()]
            for part, key in (("parts", "Ablations"), ("summary", "Summary"))
        },
        "comparisons": first["Comparisons"] if is_one else [],
        "caveats": list(dict.fromkeys(caveat for sidecar in sidecars.values() for caveat in sidecar["Caveats"])),
        "no_ceiling": first["MissingCeilings"] if is_one else {},
        "scores": scores,
        "differences": differences,
        "ways": pd.DataFrame() if is_one else _by_way(found),
    }
    for name, what in (("ceilings", "ceilings_scores"), ("rollouts", "rollout_scores"), ("curve", "*_curve")):
        is_there = is_one and list(output.glob(f"group/*_desc-{what}.tsv"))
        results[name] = _read(output, what)[0] if is_there else pd.DataFrame()
    return results


def _by_way(found: Mapping[str, tuple[pd.DataFrame, dict[str, Any]]]) -> pd.DataFrame:
    """Scores of the study's own model, study by study."""
    tables = {name: tables_of(subjects, sidecar)[0] for name, (subjects, sidecar) in found.items()}
    return pd.concat(
        [table[table["kind"] == Kind.MODEL].assign(study=name) for name, table in tables.items()], ignore_index=True
    )


def _read(output: Path, what: str, *, beside: str | None = None) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read one table, and the sidecar of it or of the one that is named."""
    [path] = output.glob(f"group/*_desc-{what}.tsv")
    [other] = [path] if beside is None else output.glob(f"group/*_desc-{beside}.tsv")
    table = pd.read_csv(path, sep="\t", na_values="n/a", dtype={"subject": str})
    return table, json.loads(other.with_suffix(".json").read_text(encoding="utf-8"))


def _commits_of_models(output: Path) -> set[str]:
    return {manifests.read(output, name)["made"]["commit"] or "unknown" for name in manifests.names(output, "train")}


def tables_of(subjects: pd.DataFrame, sidecar: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Average the values of subjects, with intervals over them.

    Parameters
    ----------
    subjects : pandas.DataFrame
        Rows of `forecast_subjects`; those of one subject, model and lead time are averaged first.
    sidecar : mapping
        Of the scores: number of resamples, and their seed.

    Returns
    -------
    scores : pandas.DataFrame
        Like the table of scores.
    differences : pandas.DataFrame
        Difference in `skill_ar` of the main model from each other forecaster, within subjects.
    """
    options = {"n_resamples": sidecar["Resamples"], "seed": sidecar["Seed"]}
    keys = ["model", "kind", LEAD_TIME_POINTS]
    scores = []
    for key, rows in subjects.groupby(keys, sort=False):
        people = rows.groupby("subject")[list(METRICS)].mean()
        counts = {"n_subjects": len(people), "n_runs": int(rows["n_runs"].sum()), "n_seeds": int(rows["n_seeds"].min())}
        intervals = [_interval(people[metric], metric, options) for metric in METRICS]
        scores.append(dict(zip(keys, key, strict=True)) | counts | dict(ChainMap(*intervals)))
    table = pd.DataFrame(scores)
    main = main_model(table)
    wide = subjects.groupby(["model", LEAD_TIME_POINTS, "subject"])["skill_ar"].mean()
    kinds = table.drop_duplicates("model").set_index("model")["kind"]
    differences = [
        {"model": main, "other": other, LEAD_TIME_POINTS: int(horizon)}
        | _interval(wide[main, horizon] - wide[other, horizon], "skill_ar", options, "difference")
        for other in kinds[(kinds != Kind.ORACLE_REFERENCE) & (kinds.index != main)].index
        for horizon in sorted(table[LEAD_TIME_POINTS].unique())
    ]
    return table, pd.DataFrame(differences)


def _interval(values: pd.Series, metric: str, options: Mapping[str, Any], name: str | None = None) -> dict[str, float]:
    name = name or metric
    return dict(
        zip((name, f"{name}_low", f"{name}_high"), summarize(values.to_numpy(), metric, **options), strict=True)
    )


def make_table(name: str, options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Run the studies of one dataset, print its page, and write it with its numbers."""
    example = EXAMPLES[name]
    work = options.work_dir / (name if options.full else f"{name}-quick")
    settings = [*(() if options.full else _QUICK), *options.settings]
    metadata = provenance(arguments)
    outputs: dict[str, Path] = {}
    surrogate: dict[str, Any] = {}
    if example.no_surrogate:
        surrogate = dict.fromkeys(("surrogate_scores", "surrogate_differences"), pd.DataFrame())
        surrogate["surrogate_check"] = example.no_surrogate
    commits: set[str] = set()
    for way in example.ways:
        study = open_study(example, way, work, options.source, settings)
        run_study(study, example, folds=None if options.full else [1])
        outputs[way.name] = study.output.path
        surrogate = surrogate or run_surrogate(study)
        commits |= _commits_of_models(study.output.path)
    metadata |= {"simulated": list(example.simulated), "settings_file": example.settings_file}
    metadata |= {"settings": [*example.settings, *settings], "models_of_commits": sorted(commits)}
    results = collect(outputs) | surrogate
    results["caveats"] += example.caveats
    text = dataset_page(example.title, results, metadata)
    target = options.output_dir / f"forecasts_{name}.json"
    write_json(target, {"title": example.title, **metadata, **{key: _plain(value) for key, value in results.items()}})
    write_text(target.with_suffix(".md"), text)
    print(text)


def _plain(value: Any) -> Any:
    """Return a table as records; there is no NaN in JSON."""
    if not isinstance(value, pd.DataFrame):
        return value
    return [{name: None if pd.isna(cell) else cell for name, cell in row.items()} for row in value.to_dict("records")]


def write_summary(folder: Path) -> None:
    """Write the page that sums up the tables of real recordings that lie in a folder."""
    paths = {name: folder / f"forecasts_{name}.json" for name in REAL}
    pages = {name: _read_page(path) for name, path in paths.items() if path.is_file()}
    write_text(folder / _SUMMARY, summary_page(pages, [name for name in REAL if name not in pages]))


def _read_page(path: Path) -> dict[str, Any]:
    page = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: pd.DataFrame([{key: math.nan if cell is None else cell for key, cell in row.items()} for row in value])
        if isinstance(value, list) and value and isinstance(value[0], dict)
        else value
        for name, value in page.items()
    }


def make_all(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Make the tables of all real recordings, each in a process of its own with one thread.

    Raises
    ------
    BenchmarkError
        Some could not be made; the others are.
    """
    options.work_dir.mkdir(parents=True, exist_ok=True)

    def make(name: str) -> int:
        log = options.work_dir / f"{name}.log"
        print(f"{name}: see {log.name} in the working folder", flush=True)
        command = [sys.executable, __file__, name, *(argument for argument in arguments if argument != ALL)]
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run(
                command, stdout=file, stderr=file, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )
        print(f"{name}: {'done' if done.returncode == 0 else f'failed with code {done.returncode}'}", flush=True)
        return done.returncode

    with ThreadPoolExecutor(options.jobs) as pool:
        codes = dict(zip(REAL, pool.map(make, REAL), strict=True))
    failed = [name for name, code in codes.items() if code]
    if failed:
        raise BenchmarkError(
            f"These tables could not be made: {', '.join(failed)}.",
            f"{options.work_dir}/NAME.log says why; the same command resumes.",
        )


def main(arguments: list[str]) -> None:
    """Make one table or all, and the page that sums them up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*EXAMPLES, ALL])
    parser.add_argument("--full", action="store_true", help="all folds, and the seeds and training of the table")
    parser.add_argument("--jobs", type=int, default=1, help="datasets side by side, with `all`")
    parser.add_argument(
        "--source", type=Path, help="BIDS folder (default: shared/data beside the project, or a synthetic dataset)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument(
        "--work-dir", type=Path, default=ROOT / "benchmarks/.work", help="holds NAME, or NAME-quick without --full"
    )
    parser.add_argument("--output-dir", type=Path, help="default: benchmarks/results; without --full the work folder")
    options = parser.parse_args(arguments)
    options.output_dir = options.output_dir or (_RESULTS if options.full else options.work_dir)
    try:
        if options.name == ALL:
            make_all(options, arguments)
        else:
            make_table(options.name, options, arguments)
    finally:
        # Of what is there: some tables may have been made where others failed.
        write_summary(options.output_dir)


if __name__ == "__main__":
    main(sys.argv[1:])
