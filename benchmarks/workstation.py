"""What a study of voxels costs on a workstation: a synthetic dataset of ds003017, from `simulate` to the report.

    python benchmarks/workstation.py --folder DISK                       # 3 people, 5 runs of full length, 2 mm: hours
    python benchmarks/workstation.py --folder DISK --runs 3 --volume-scale 0.1 --output results/workstation_rates.json

The settings are those of `pipelines/budapest.yaml`, without confounds and resampling: the images are in the template's
space already (resampling is the row `prepare` of training.py). Each stage is a process of its own, with one thread. Its
processor time is recorded at each step that it reports, so that what grows with the runs that are fitted on, and what
with the runs that are tested, are known apart: scale.py computes the hours of ds003017 from both.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from common import BUDAPEST, Result, in_fresh_process, run_benchmark, use_one_thread

from titan_neuro.files import read_json, write_json
from titan_neuro.progress import Progress

PROBES = ("context-length", "history-swap", "surprise", "time-segment-matching", "decoding")
# Fits of a fold, which are steps of a training that it does not report.
FITS = {"fitted_linear_skip": "linear skip", "fitted_closed_form": "closed form"}
_PAGE = "A study of voxels on a workstation"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A synthetic dataset, and what differs in it from the settings of the study."""

    subjects: int
    runs: int
    volume_scale: float
    voxel_size_mm: float
    settings: tuple[str, ...] = ()

    def flags(self) -> list[str]:
        """Flags of `titan-neuro simulate`."""
        sizes = {"subjects": self.subjects, "runs": self.runs}
        sizes |= {"volume-scale": self.volume_scale, "voxel-size-mm": self.voxel_size_mm}
        return [word for name, value in sizes.items() for word in (f"--{name}", str(value))]

    def overrides(self) -> list[str]:
        """Single settings, for every stage."""
        given = ("prepare.confounds=none", "prepare.resolution_mm=null", *self.settings)
        return [word for setting in given for word in ("--set", setting)]


def commands(dataset: Dataset, folder: Path) -> dict[str, list[str]]:
    """Arguments of ``titan-neuro`` for every stage, in order, by its name."""
    bids, output = str(folder / "bids"), str(folder / "output")
    study = ["--config-file", str(BUDAPEST), *dataset.overrides()]
    return {
        "simulate": ["simulate", bids, *dataset.flags()],
        "prepare": ["prepare", bids, output, *study],
        "train": ["train", output, *study],
        "evaluate": ["evaluate", output, *study],
        **{f"probe {name}": ["probe", name, output, *study] for name in PROBES},
        "report": ["report", output],
    }


@contextlib.contextmanager
def recorded_steps(steps: list[tuple[str, float]]) -> Iterator[None]:
    """Append the processor time at the end of each step of the work inside, with what the step says of itself."""
    from titan_neuro.training import fit

    def timed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            steps.append((f"before {name}", time.process_time()))
            result = function(*arguments, **settings)
            steps.append((name, time.process_time()))
            return result

        return call

    def step(progress: Progress, done: str) -> None:
        steps.append((f"{progress._work}: {done}", time.process_time()))
        told(progress, done)

    told = Progress.step
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(Progress, "step", step))
        for attribute, name in FITS.items():
            stack.enter_context(mock.patch.object(fit, attribute, timed(getattr(fit, attribute), name)))
        yield


def run_stage(arguments: list[str], log: str) -> dict[str, Any]:
    """Run one stage in this process, and write what was found beside its log, as JSON.

    Returns
    -------
    dict
        ``cpu_s`` and ``wall_s``, ``peak_bytes`` of resident memory, and ``steps``: pairs of what was done, and the
        processor time of the process by then.
    """
    use_one_thread()
    from titan_neuro.cli import main as titan_neuro

    steps: list[tuple[str, float]] = []
    start = time.monotonic()
    with (
        Path(log).open("w") as file,
        contextlib.redirect_stderr(file),
        contextlib.redirect_stdout(file),
        recorded_steps(steps),
    ):
        code = titan_neuro(arguments)
    if code:
        sys.exit(Path(log).read_text()[-2000:])
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    found = {
        "cpu_s": sum(one.ru_utime + one.ru_stime for one in used),
        "wall_s": time.monotonic() - start,
        "peak_bytes": 1024 * max(one.ru_maxrss for one in used),
        "steps": steps,
    }
    write_json(Path(log).with_suffix(".json"), found)
    return found


def describe_folds(output: str, settings: list[str]) -> dict[str, Any]:
    """Volumes that each fold trains on, validates and tests, of all runs, and the number of voxels."""
    from titan_neuro.study import Study, load_study
    from titan_neuro.study.models import study_folds

    config = load_study(default_preset="gpu-base", config_file=BUDAPEST, overrides=settings)
    folds = study_folds(Study.open(Path(output).with_name("bids"), output).runs(), config)
    parts = {
        name: [sum(data.runs[key].n_time_points for key in getattr(data.fold, name)) for data in folds]
        for name in ("train", "validation", "test")
    }
    every = sum(run.n_time_points for run in folds[0].runs.values())
    return {**parts, "runs": every, "n_voxels": folds[0].space.n_features}


def measure(dataset: Dataset, folder: Path, stages: Sequence[str]) -> list[Result]:
    """Run the stages one after another; what was found is kept in the folder, for stages that are run later."""
    results = []
    for name, arguments in commands(dataset, folder).items():
        log = folder / f"{name}.log"
        if name in stages:
            in_fresh_process(run_stage, arguments=arguments, log=str(log))
        if not log.with_suffix(".json").is_file():
            continue
        found = read_json(log.with_suffix(".json"))
        note = f"wall {found['wall_s']:,.0f} s, peak {found['peak_bytes'] / 1e9:.1f} GB"
        print(f"{name}: {found['cpu_s']:,.0f} s of CPU, {note}", flush=True)
        results.append(Result(row=name, case="CPU, s", found=found["cpu_s"], note=note, details=found))
    overrides = dataset.overrides()[1::2]
    folds = in_fresh_process(describe_folds, output=str(folder / "output"), settings=overrides)
    volumes = sum(folds["test"])
    results.append(Result(row="volumes", case="tested, all folds", found=volumes, details=folds))
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    arguments = _parse(argv)
    dataset = Dataset(
        subjects=arguments.subjects,
        runs=arguments.runs,
        volume_scale=arguments.volume_scale,
        voxel_size_mm=arguments.voxel_size_mm,
        settings=tuple(arguments.overrides),
    )
    how = {
        "how": "each stage in a process of its own with one thread; CPU of the process and of those that it starts; "
        f"{dataset}",
    }
    return run_benchmark(
        _PAGE, arguments.output, lambda: (measure(dataset, arguments.folder, arguments.stages), how), argv
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="CPU, wall-clock time and memory of each stage of a study of voxels.")
    parser.add_argument(
        "--folder", type=Path, required=True, help="for dataset and study; stages go on where it has some"
    )
    parser.add_argument("--subjects", type=int, default=3)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--volume-scale", type=float, default=1.0, help="length of the runs; 1 is real")
    parser.add_argument("--voxel-size-mm", type=float, default=2.0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    rows = list(commands(Dataset(subjects=3, runs=5, volume_scale=1, voxel_size_mm=2), Path()))
    parser.add_argument("--stages", nargs="+", choices=rows, default=rows, help="only these")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent / "results" / "workstation.json",
        metavar="FILE.json",
        help="JSON file to write, with a Markdown page beside it (default: results/workstation.json)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
