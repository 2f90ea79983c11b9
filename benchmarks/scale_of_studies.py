"""How the time and memory of every stage grow with the number of subjects: many short runs of few parcels.

    python benchmarks/scale_of_studies.py                                   # 20, 60 and 200 subjects, in an hour or two
    python benchmarks/scale_of_studies.py --subjects 4 8 --stages prepare   # to see that it runs

Each stage is a process of its own, as a user starts it. With tiny runs nothing is measured but what a study costs for
being large: names, folders, stores, records, processes and tables. README.md beside this file says what the rows are.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import BenchmarkError, Result, run_benchmark

from titan_neuro.files import write_json, write_text
from titan_neuro.probing import PROBES

N_RUNS, N_TIME_POINTS, N_PARCELS = 5, 160, 6
SUBJECTS = (20, 60, 200)
# Growth that a stage is allowed, in units of that of the runs.
REACH, REACH_MEMORY = 1.2, 1.3
_PAGE = "Stages of studies with many short runs"
_MODEL = {
    "backbone": {"dim": 16, "n_layers": 1, "n_heads": 2, "memory": {"n_heads": 2}},
    "recall": {"width": 16, "n_components": 8, "autoregressive_lags": 2, "longest_lag": 32},
    "lookahead": {"n_lags": 4, "n_components": 4, "key_width": 32},
    "horizons": [1, 2],
}
SETTINGS: tuple[dict[str, Any], ...] = (
    {"seeds": [0]},
    {"comparison_models": False},
    {"model": _MODEL},
    {"split": {"n_folds": 2}},
    {"training": {"max_epochs": 1, "steps_per_epoch": 2, "window_time_points": 32}},
    {"prepare": {"calibration_s": 40, "warmup_s": 5}},
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a process took, with the processes that it started.

    Attributes
    ----------
    cpu_s, wall_s : float
        Processor time, and time by the clock on the wall, which other programs lengthen.
    peak_bytes : int
        Greatest resident memory.
    """

    cpu_s: float
    wall_s: float
    peak_bytes: int

    def __str__(self) -> str:
        return f"wall {self.wall_s:.1f} s, peak {self.peak_bytes / 1e6:,.0f} MB"


def make_dataset(folder: Path, n_subjects: int) -> None:
    """Write a BIDS derivative of parcel time series: what all subjects share, and noise of each."""
    rng = np.random.default_rng(0)
    write_json(folder / "dataset_description.json", {"Name": "Short runs", "BIDSVersion": "1.8.0"})
    names = "\t".join(f"p{number}" for number in range(N_PARCELS))
    for run in range(1, N_RUNS + 1):
        walk = np.cumsum(rng.standard_normal((N_TIME_POINTS, N_PARCELS)), axis=0)
        shared = walk - np.linspace(0, 1, N_TIME_POINTS)[:, None] * walk[-1]
        for number in range(1, n_subjects + 1):
            series = shared + 2 * rng.standard_normal(shared.shape)
            stem = folder / f"sub-{number:03d}" / "func" / f"sub-{number:03d}_task-film_run-{run}"
            rows = ("\t".join(f"{value:.5g}" for value in row) for row in series)
            write_text(stem.with_name(f"{stem.name}_seg-toy_stat-mean_timeseries.tsv"), "\n".join([names, *rows, ""]))
            write_json(stem.with_name(f"{stem.name}_seg-toy_stat-mean_timeseries.json"), {"RepetitionTime": 1.0})
            events = f"onset\tduration\ttrial_type\n0\t{N_TIME_POINTS}\tmovie\n"
            write_text(stem.with_name(f"{stem.name}_events.tsv"), events)


def commands(dataset: Path, output: Path) -> dict[str, list[str]]:
    """Return the arguments of ``titan-neuro`` for every stage, in order, by the name of the row."""
    study = [f"--config-file={output.with_suffix('.yaml')}"]
    both = [str(dataset), str(output)]
    return {
        "help": ["prepare", "--help"],
        "prepare": ["prepare", *both, *study],
        "train": ["train", str(output), *study],
        "evaluate": ["evaluate", str(output), *study],
        **{f"probe {name}": ["probe", name, str(output), *study] for name in PROBES},
        "predict": ["predict", str(output), *study],
        "report": ["report", str(output)],
        "status": ["status", str(output)],
        "run participant again": ["run", *both, "participant", *study],
        "run participant, dry run": ["run", *both, "participant", "--dry-run", *study],
        "run group, dry run": ["run", *both, "group", "--dry-run", *study],
        "evaluate again": ["evaluate", str(output), *study],
        "report again": ["report", str(output)],
    }


def measure_command(arguments: Sequence[str], log: Path) -> Cost:
    """Run ``titan-neuro`` with these arguments in a process of its own, with one thread.

    Raises
    ------
    BenchmarkError
        Its exit code is not 0.
    """
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "titan_neuro", *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        # Not `wait`: this also returns what the process and its own have used.
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = "\n".join(log.read_text().splitlines()[-5:])
        raise BenchmarkError(f"titan-neuro {arguments[0]} ended with code {process.returncode}.\n{tail}")
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return Cost(
        cpu_s=usage.ru_utime + usage.ru_stime,
        wall_s=time.perf_counter() - start,
        peak_bytes=usage.ru_maxrss * kilobyte,
    )


def measure(folder: Path, subjects: Sequence[int], stages: Sequence[str] | None) -> dict[str, dict[int, Cost]]:
    """Run the stages on a study of each size; the costs by row and number of subjects."""
    costs: dict[str, dict[int, Cost]] = {}
    for n_subjects in subjects:
        dataset, output = folder / f"data-{n_subjects}", folder / f"study-{n_subjects}"
        if not dataset.is_dir():
            make_dataset(dataset, n_subjects)
        # Nested settings are JSON, and JSON is YAML.
        settings = {"preset": "parcels"} | {name: value for part in SETTINGS for name, value in part.items()}
        output.with_suffix(".yaml").write_text(json.dumps(settings))
        for row, arguments in commands(dataset, output).items():
            if stages is None or row in stages:
                cost = measure_command(arguments, folder / "log.txt")
                print(f"{row}, {n_subjects} subjects: {cost.cpu_s:.1f} s of CPU, {cost}", flush=True)
                costs.setdefault(row, {})[n_subjects] = cost
    return costs


def results_of(costs: Mapping[str, Mapping[int, Cost]]) -> list[Result]:
    """Lines of the table: the processor time of every row and size, then how time and memory grow."""
    lines = []
    for row, by_size in costs.items():
        for n_subjects, cost in by_size.items():
            case = f"{n_subjects} subjects x {N_RUNS} runs: CPU, s"
            lines.append(Result(row=row, case=case, found=cost.cpu_s, note=str(cost), details=dataclasses.asdict(cost)))
        least, most = min(by_size), max(by_size)
        if most > least:
            case = f"{most} over {least} subjects"
            cpu = by_size[most].cpu_s / by_size[least].cpu_s
            peak = by_size[most].peak_bytes / by_size[least].peak_bytes
            reach = REACH * most / least
            lines.append(Result(row=row, case=f"{case}: CPU", found=cpu, reach=reach, is_lower_better=True))
            lines.append(
                Result(row=row, case=f"{case}: peak memory", found=peak, reach=REACH_MEMORY, is_lower_better=True)
            )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    arguments = _parse(argv)
    how = {
        "how": f"{N_RUNS} runs a subject, {N_TIME_POINTS} time points, {N_PARCELS} parcels, 2 folds, one seed; each "
        "stage in a process of its own with one thread; with the CPU and memory of the processes that it starts"
    }

    def run() -> tuple[list[Result], dict[str, Any]]:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            costs = measure(Path(folder), arguments.subjects, arguments.stages)
        return results_of(costs), how

    return run_benchmark(_PAGE, arguments.output, run, argv)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time and memory of every stage, by the number of subjects.")
    parser.add_argument("--subjects", type=int, nargs="+", default=list(SUBJECTS), metavar="N", help="sizes of studies")
    rows = list(commands(Path(), Path("study")))
    parser.add_argument("--stages", nargs="+", choices=rows, metavar="STAGE", help=f"only these: {', '.join(rows)}")
    parser.add_argument("--folder", type=Path, help="where to write the studies (default: the system's own)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent / "results" / "scale_of_studies.json",
        metavar="FILE.json",
        help="JSON file to write, with a Markdown page beside it (default: results/scale_of_studies.json)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
