"""`evaluate` and all probes of a study of parcels, beside those of an older commit: processor time and peak memory.

    git worktree add ../before 9562d9f
    OMP_NUM_THREADS=1 python benchmarks/evaluate_and_probe.py --before ../before          # three folds: an hour or two
    OMP_NUM_THREADS=1 python benchmarks/evaluate_and_probe.py --before ../before --rounds 2

Each side prepares and trains the sitcom once, by its own package and command; that is not compared. Then `evaluate` and
every probe that both sides have run in turns, one process each, with one thread, on a copy of the trained study. The
older package runs in this environment, from its folder: compile its memory there (`python setup.py build_ext
--inplace`), and name a folder that holds brainiak, which its surprise needs, by ``--before-packages``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import ROOT, BenchmarkError, Result, in_fresh_process, run_benchmark
from forecast_datasets import BRIEF

RECORDINGS = ROOT.parent / "shared/data/sitcom-parcels"
PROBES = ("context-length", "history-swap", "surprise", "time-segment-matching", "decoding")
# What `time-segment-matching` was called then.
_OLD_NAMES = {"time-segment-matching": "moment-matching"}
# The closed form alone, with one seed; the older commit takes one epoch of one step at least.
SETTINGS = {
    "now": BRIEF,
    "before": (
        *("seeds=[0]", "training.max_epochs=1", "training.steps_per_epoch=1", "rivals=false"),
        "evaluation.rollout_every_frames=0",
    ),
}
_TITLE = "evaluate and all probes of the sitcom, beside commit 9562d9f"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One version of the project.

    Attributes
    ----------
    name : {"now", "before"}
    package : Path
        Folder that holds ``titan_neuro`` and ``pipelines``.
    more_packages : Path or None
        Folder of packages that this environment does not have.
    folder : Path
        Where its studies are.
    """

    name: str
    package: Path
    more_packages: Path | None = None
    folder: Path

    def stage(self, name: str) -> list[str]:
        """Words of the command for a stage: ``evaluate`` or the name of a probe."""
        if name == "evaluate":
            return [name]
        return ["probe", _OLD_NAMES.get(name, name) if self.name == "before" else name]

    def run(self, *arguments: str) -> dict[str, float]:
        """Run the side's command in a process of its own.

        Returns
        -------
        dict
            ``cpu_s``, user and system, and ``peak_bytes`` of resident memory.

        Raises
        ------
        BenchmarkError
            It failed; its last lines are quoted.
        """
        path = os.pathsep.join(str(one) for one in (self.package, self.more_packages) if one is not None)
        log = self.folder / "log.txt"
        code, used = in_fresh_process(run_command, arguments=list(arguments), python_path=path, log=str(log))
        if code:
            told = log.read_text(encoding="utf-8", errors="replace")[-1000:]
            raise BenchmarkError(f"{self.name}: {' '.join(arguments[:2])} failed with code {code}: {told}")
        return used

    def train(self, recordings: Path) -> None:
        """Prepare and train its study, unless that was done before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        trained = str(self.folder / "trained")
        settings = [word for setting in SETTINGS[self.name] for word in ("--set", setting)]
        config = ["--config-file", str(self.package / "pipelines" / "sitcom.yaml"), *settings]
        self.run("prepare", str(recordings), trained, *config)
        self.run("train", trained)


def run_command(arguments: list[str], python_path: str, log: str) -> tuple[int, dict[str, float]]:
    """Run a command of the package on a path, beside its log; to be called in a process that has used little memory.

    The peak of a process begins with that of the process that started it.

    Returns
    -------
    code : int
        Of the command's exit.
    used : dict
        See :meth:`Side.run`.
    """
    environment = os.environ | {"PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "titan_neuro", *arguments]
    with Path(log).open("w", encoding="utf-8") as file:
        done = subprocess.run(command, env=environment, stdout=file, stderr=file, cwd=Path(log).parent, check=False)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.returncode, {"cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": 1024.0 * used.ru_maxrss}


def measure_rounds(sides: Sequence[Side], stages: Sequence[str], n_rounds: int) -> dict[str, dict[str, Any]]:
    """Run each stage by each side in turns.

    Returns
    -------
    dict
        By stage, then by side: the least ``cpu_s`` and ``peak_bytes`` over the rounds; noise only ever adds.
    """
    found: dict[str, dict[str, Any]] = {stage: {} for stage in stages}
    for _ in range(n_rounds):
        for side in sides:
            # Results that are there would not be made again.
            shutil.rmtree(side.folder / "round", ignore_errors=True)
            shutil.copytree(side.folder / "trained", side.folder / "round")
        for stage in stages:
            for side in sides:
                used = side.run(*side.stage(stage), str(side.folder / "round"))
                best = found[stage].setdefault(side.name, used)
                found[stage][side.name] = {name: min(value, used[name]) for name, value in best.items()}
    return found


def results_of(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Result]:
    """Lay out the rows: each stage, all of them, and peak memory, the older side relative to this one."""
    sums = {side: sum(of_stage[side]["cpu_s"] for of_stage in found.values()) for side in ("before", "now")}
    rows = [
        Result(
            row="stage",
            case=stage,
            found=of_stage["before"]["cpu_s"] / of_stage["now"]["cpu_s"],
            note=f"{of_stage['before']['cpu_s']:.1f} and {of_stage['now']['cpu_s']:.1f} CPU s",
            details=dict(of_stage),
        )
        for stage, of_stage in found.items()
    ]
    peaks = {side: max(of_stage[side]["peak_bytes"] for of_stage in found.values()) for side in ("before", "now")}
    return [
        Result(
            row="all",
            case="processor time before, relative to now",
            found=sums["before"] / sums["now"],
            reach=3.0,
            aim=5.0,
            note=f"{sums['before']:.1f} and {sums['now']:.1f} CPU s",
            details=sums,
        ),
        Result(
            row="memory",
            case="peak resident memory of any stage, now relative to before",
            found=peaks["now"] / peaks["before"],
            reach=1.33,
            is_lower_better=True,
            note=f"{peaks['before'] / 1e6:,.0f} and {peaks['now'] / 1e6:,.0f} MB",
            details=peaks,
        ),
        *rows,
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--before", type=Path, required=True, help="folder of the older commit, with its memory compiled"
    )
    parser.add_argument("--before-packages", type=Path, help="folder of packages that only the older commit needs")
    parser.add_argument("--source", type=Path, default=RECORDINGS, help="BIDS folder")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--stages", nargs="+", choices=("evaluate", *PROBES), default=["evaluate", *PROBES])
    parser.add_argument("--work-dir", type=Path, default=ROOT / "benchmarks/.work/evaluate-and-probe")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/evaluate_and_probe.json")
    options = parser.parse_args(argv)

    def measure() -> tuple[list[Result], dict[str, Any]]:
        work = options.work_dir.absolute()
        packages = {"now": (ROOT, None), "before": (options.before.absolute(), options.before_packages)}
        sides = [
            Side(name=name, package=package, more_packages=more and more.absolute(), folder=work / name)
            for name, (package, more) in packages.items()
        ]
        for side in sides:
            side.train(options.source.absolute())
        return results_of(measure_rounds(sides, options.stages, options.rounds)), {
            "how": "one thread; a process for each stage, the sides in turns; least processor time of the rounds",
            "rounds": options.rounds,
            "settings": {name: list(settings) for name, settings in SETTINGS.items()},
        }

    return run_benchmark(_TITLE, options.output, measure, argv)


if __name__ == "__main__":
    sys.exit(main())
