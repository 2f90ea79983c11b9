"""The cost of a study in hours, GPUs and bytes, computed from the results of training.py, for docs/scale.md.

    python benchmarks/scale.py

The text of the page is written by hand. The tables between its marks are written here: every number with its formula.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import workstation_scale
from common import BUDAPEST, ROOT, BenchmarkError
from training_runs import SHAPES, budapest

from titan_neuro.data.splits import SplitConfig, make_folds
from titan_neuro.errors import TitanNeuroError
from titan_neuro.evaluation.formatting import markdown_table
from titan_neuro.files import write_text
from titan_neuro.forecaster.recall.config import RecallConfig
from titan_neuro.linear.autoregression import ORDERS
from titan_neuro.linear.lagged_statistics import StatisticsLayout
from titan_neuro.study import StudyConfig, load_study
from titan_neuro.training import TrainingConfig
from titan_neuro.training.streams import StreamWindows

RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "scale.md"
# A process with a smaller share of a core had to share it with other programs.
_A_CORE = 0.9
_NEEDED = ("training", "autoregression")
# A short, a longer, and a full-size study: rates come from the first two, and are held against the third.
WORKSTATION = ("workstation_short", "workstation_middle", "workstation")
# Rows that were measured separately replace those of the whole run: two processes on a quiet machine, and a GPU.
_SEPARATE = ("training_scaling.json", "training_gpu.json")

# ds003017 as published (docs/ds003017.md; its sidecars): volumes of the five runs, subjects, voxels of a volume, bytes
# of all BOLD images, and of all files that `fetch --with transforms` gets.
RUN_VOLUMES, N_SUBJECTS = (598, 498, 535, 618, 803), 25
RAW_VOXELS, BOLD_BYTES, FETCHED_BYTES = 96 * 96 * 48, 27.6e9, 30.0e9

# Assumptions about the large study, and about the machines.
LARGE_SUBJECTS, LARGE_VOLUMES, LARGE_RAW_VOXELS, LARGE_EPOCHS = 40_000, 500, 88 * 88 * 64, 3
SPEED_UPS = (10, 30, 100)
LINK_BYTES_PER_S = 125e6
WEEK_H = 168
N_CORES = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """Volumes of one study's trainings, counted in the windows of `training.StreamWindows`.

    Attributes
    ----------
    train, validation : tuple of int
        Volumes of one epoch, for each fold.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]

    def volumes(self, *, epochs: int, trainings: int) -> int:
        """Return the volumes of all trainings of all folds, including the validation before the first epoch."""
        folds = zip(self.train, self.validation, strict=True)
        return trainings * sum(epochs * (train + validation) + validation for train, validation in folds)


def count_work(runs: Sequence[Any], split: SplitConfig, training: TrainingConfig, n_folds: int | None = None) -> Work:
    """Divide runs into folds, cut them into windows, and count their volumes, for the first `n_folds` folds."""
    by_key = {run.key: run for run in runs}
    parts: dict[str, list[int]] = {"train": [], "validation": []}
    for fold in make_folds(runs, split)[1][:n_folds]:
        for part, counted in parts.items():
            windows = StreamWindows(
                [by_key[key] for key in getattr(fold, part)],
                window_time_points=training.window_time_points,
                n_streams=training.n_streams,
                horizons=(1,),
                min_steps=training.steps_per_epoch if part == "train" else 1,
                seed=0 if part == "train" else None,
            )
            counted.append(len(windows) * windows.n_streams * training.window_time_points)
    return Work(train=tuple(parts["train"]), validation=tuple(parts["validation"]))


def _runs(n_subjects: int, volumes: Sequence[int]) -> list[Any]:
    """Runs without time points."""
    return [
        SimpleNamespace(
            key=f"sub-{subject:05}_run-{number}",
            subject=f"{subject:05}",
            stimulus=f"run-{number}",
            n_time_points=length,
            scored=np.ones(length, dtype=bool),
            n_features=1,
        )
        for subject in range(n_subjects)
        for number, length in enumerate(volumes, start=1)
    ]


def workstation_study() -> StudyConfig:
    """Return the settings of the study of ds003017 as they are by default."""
    return load_study(default_preset="gpu-base", config_file=BUDAPEST)


@functools.cache
def budapest_work() -> Work:
    """Return the volumes of ds003017 that gradient training reads."""
    study = budapest()
    return count_work(_runs(N_SUBJECTS, RUN_VOLUMES), study.split, study.training)


@functools.cache
def large_work() -> Work:
    """Return the volumes of one fold of the large study, split by subject."""
    study = budapest()
    split = SplitConfig(by="subject", n_folds=5, validation_fraction=study.split.validation_fraction)
    return count_work(_runs(LARGE_SUBJECTS, (LARGE_VOLUMES,)), split, study.training, n_folds=1)


class Measured:
    """Results of the benchmarks.

    Parameters
    ----------
    training, autoregression : mapping
        Contents of ``results/training.json`` and ``results/autoregression.json``.

    Raises
    ------
    BenchmarkError
        A required row is missing.
    """

    def __init__(self, training: Mapping[str, Any], autoregression: Mapping[str, Any]) -> None:
        self._rows = training["results"]
        self.date, self.commit, self.cpu = training["date"][:10], training["commit"], training["machine"]["cpu"]
        together = self._find("scaling", shape="small", processes=2)
        self.ratio = float(together["found"])
        # Cores that each process had; missing in older results.
        self.cores = float(together["details"].get("cores", 0))
        self.preparing = self._find("prepare")["details"]
        self.open_bytes = 1e6 * self._find("open")["found"]
        self.open_s = self._find("open")["details"]["seconds"]
        self.index = self._find("index")["details"]
        on_gpu = [row for row in self._rows if row["row"] == "speed" and row["details"].get("on_gpu")]
        self.gpu_rates = {row["details"]["shape"]: row["found"] for row in on_gpu}
        [seconds] = (row for row in autoregression["results"] if row["row"] == "seconds")
        self.autoregression_s = float(seconds["found"])

    def _find(self, row: str, **details: Any) -> dict[str, Any]:
        for line in self._rows:
            recorded = line["details"]
            if line["row"] == row and not recorded.get("on_gpu") and details.items() <= recorded.items():
                return dict(line)
        raise BenchmarkError(
            f"results/training.json: no row {row!r} {details}.", "Run benchmarks/training.py, all rows."
        )

    def details(self, shape: str) -> dict[str, Any]:
        """Return the details that were recorded with the volumes/s of a shape."""
        return dict(self._find("speed", shape=shape)["details"])

    def one_process(self, shape: str) -> float:
        """Return the volumes/s of one training thread."""
        return float(self._find("speed", shape=shape)["found"])

    def two_cores(self, shape: str) -> float:
        """Return the volumes/s of two processes: those of one, times the speed-up measured at 24 voxels a side."""
        return self.one_process(shape) * self.ratio


@functools.cache
def n_features(shape: str) -> int:
    """Return the number of voxels or parcels."""
    return SHAPES[shape].space().n_features


def format_number(number: float) -> str:
    """Format with three significant digits, and commas between thousands."""
    if number == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(number)))
    return f"{round(number, digits):,.{max(0, digits)}f}"


def format_bytes(number: float) -> str:
    """Format bytes with a suitable unit."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{format_number(number / size)} {unit}"
    return f"{format_number(number / 1e3)} kB"


def measured_table(measured: Measured) -> str:
    """Return the table of the measurements, from which all others are computed."""
    preparing, index = measured.preparing, measured.index
    rows = [
        [f"`r1`, {SHAPES[shape].label}", f"{format_number(measured.one_process(shape))} volumes/s", "row `speed`"]
        for shape in ("small", "large", "budapest", "parcels")
    ]
    rows += [
        ["`s`, two processes over one", format_number(measured.ratio), "row `scaling`, 24 voxels a side"],
        ["`p`, preparing a volume at 2 mm, one core", f"{format_number(preparing['volume_s'])} s", "row `prepare`"],
        ["`q`, preparing, in addition for each run", f"{format_number(preparing['run_s'])} s", "row `prepare`"],
        [
            "`m`, a model of budapest.yaml on disk",
            format_bytes(measured.details("budapest")["model_bytes"]),
            "row `speed`",
        ],
        ["`k`, a checkpoint of it", format_bytes(measured.details("budapest")["checkpoint_bytes"]), "row `speed`"],
        [
            "`o`, an open run, at 2 mm",
            f"{format_bytes(measured.open_bytes)}, {format_number(1e3 * measured.open_s)} ms",
            "row `open`",
        ],
        [
            "`i(n)`, names of `n` subjects",
            f"{format_number(1e3 * index['linear_s'])} ms x n + {format_number(1e6 * index['square_s'])} us x n^2",
            "row `index`",
        ],
        [
            "`a`, linear skip, 70,000 voxels x 3,000 time points, two cores",
            f"{format_number(measured.autoregression_s)} s",
            "autoregression.md",
        ],
    ]
    return markdown_table(["quantity", "measured", "source"], rows)


def budapest_tables(measured: Measured) -> dict[str, str]:
    """Return the tables of ds003017."""
    study = budapest()
    work = budapest_work()
    n_folds, n_models, epochs = len(work.train), 1 + 2 * study.comparison_models, study.training.max_epochs
    trainings, n_volumes = len(study.seeds) * n_models, N_SUBJECTS * sum(RUN_VOLUMES)
    total, n_jobs = work.volumes(epochs=epochs, trainings=trainings), n_folds * len(study.seeds)
    voxels, details, preparing = n_features("budapest"), measured.details("budapest"), measured.preparing
    rate = measured.two_cores("budapest")
    hours = total / rate / 3600
    prepare_h = (n_volumes * preparing["volume_s"] + N_SUBJECTS * len(RUN_VOLUMES) * preparing["run_s"]) / 3600
    linear_h = n_folds * measured.autoregression_s * voxels * n_volumes / (70_000 * 3_000) / 3600
    rows = [
        ["volumes", f"{N_SUBJECTS} x ({' + '.join(map(str, RUN_VOLUMES))})", f"{n_volumes:,}"],
        ["fetched, with transforms", "`docs/ds003017.md`", format_bytes(FETCHED_BYTES)],
        ["store", f"2 bytes x {voxels:,} voxels x volumes", format_bytes(2 * voxels * n_volumes)],
        [
            "models",
            f"{len(study.seeds)} seeds x {n_folds} folds x {n_models} models x m",
            format_bytes(trainings * n_folds * details["model_bytes"]),
        ],
        [
            "checkpoints, of each running training",
            "2 k + m, removed at its end",
            format_bytes(2 * details["checkpoint_bytes"] + details["model_bytes"]),
        ],
        ["prepare, one core", "volumes x p + 125 runs x q", f"{format_number(prepare_h)} h"],
        [
            "linear skips, two cores, at most",
            f"{n_folds} folds x a x (voxels x volumes) / (70,000 x 3,000)",
            f"{format_number(linear_h)} h",
        ],
        [
            "`E`, volumes of an epoch, all folds",
            "windows of 64 time points, `make_folds`, `StreamWindows`",
            f"{sum(work.train):,}",
        ],
        ["`W`, volumes validated, all folds", "the same", f"{sum(work.validation):,}"],
        ["`N`, volumes of all trainings, at most", f"{trainings} x ({epochs} x (E + W) + W)", f"{total:,}"],
        [
            "train, two cores, at most",
            "N / (r1 x s)",
            f"{format_number(hours)} h = {format_number(hours / 24 / 365)} years",
        ],
    ]
    return {
        "budapest": markdown_table(["quantity", "formula", "value"], rows),
        "budapest-gpus": _gpus(measured, hours, n_jobs),
    }


def _gpus(measured: Measured, hours: float, n_jobs: int) -> str:
    rows = [
        [
            f"g = {speed_up}, assumed",
            f"{format_number(hours / speed_up)} h",
            f"{format_number(hours / speed_up / n_jobs)} h",
            f"{math.ceil(hours / speed_up / WEEK_H):,}",
        ]
        for speed_up in SPEED_UPS
    ]
    if "budapest" in measured.gpu_rates:
        speed_up = measured.gpu_rates["budapest"] / measured.two_cores("budapest")
        rows.append(
            [
                f"g = {format_number(speed_up)}, measured",
                f"{format_number(hours / speed_up)} h",
                f"{format_number(hours / speed_up / n_jobs)} h",
                f"{math.ceil(hours / speed_up / WEEK_H):,}",
            ]
        )
    header = [
        "volumes/s relative to two cores",
        "one GPU: hours / g",
        f"{n_jobs} GPUs, one for each fold and seed",
        "GPUs for a week",
    ]
    return markdown_table(header, rows)


def large_tables(measured: Measured) -> dict[str, str]:
    """Return the tables of a study of `LARGE_SUBJECTS`."""
    work, smaller = large_work(), budapest_work()
    n_volumes = LARGE_SUBJECTS * LARGE_VOLUMES
    total, preparing = work.volumes(epochs=LARGE_EPOCHS, trainings=1), measured.preparing
    a_voxel = BOLD_BYTES / (RAW_VOXELS * N_SUBJECTS * sum(RUN_VOLUMES))
    raw = a_voxel * LARGE_RAW_VOXELS * n_volumes
    prepare_h = (n_volumes * preparing["volume_s"] + LARGE_SUBJECTS * preparing["run_s"]) / 3600
    rows = [
        ["volumes", f"{LARGE_SUBJECTS:,} x {LARGE_VOLUMES}", f"{n_volumes:,}"],
        ["raw BOLD", f"bytes of a voxel of ds003017 ({a_voxel:.2f}) x {LARGE_RAW_VOXELS:,} voxels x volumes",
         format_bytes(raw)],
        ["fetch", f"bytes / {LINK_BYTES_PER_S / 1e6:.0f} MB/s", f"{format_number(raw / LINK_BYTES_PER_S / 3600)} h"],
        [f"prepare at 2 mm, {N_CORES} cores", f"(volumes x p + runs x q) / {N_CORES}",
         f"{format_number(prepare_h / N_CORES)} h"],
        ["`N`, volumes trained and validated", f"{LARGE_EPOCHS} x ({work.train[0]:,} + {work.validation[0]:,}) + "
         f"{work.validation[0]:,}", f"{total:,}"],
    ]  # fmt: skip
    ratio = work.train[0] * len(smaller.train) / sum(smaller.train)
    rows.append(["an epoch, relative to one of a fold of ds003017", "ratio of training volumes", format_number(ratio)])
    by_shape = []
    for shape in ("budapest", "large", "parcels"):
        features, rate = n_features(shape), measured.two_cores(shape)
        hours = total / rate / 3600
        linear_h = measured.autoregression_s * features * n_volumes / (70_000 * 3_000) / 3600
        by_shape.append(
            [
                SHAPES[shape].label,
                format_bytes(2 * features * n_volumes),
                f"{format_number(linear_h)} h",
                f"{format_number(hours)} h",
            ]
            + [
                f"{format_number(hours / speed_up)} h; {math.ceil(hours / speed_up / WEEK_H):,}"
                for speed_up in SPEED_UPS
            ]
        )
    header = ["model", "store: 2 x features x volumes", "linear skip, two cores: a x ...", "two cores: N / (r1 x s)"]
    header += [f"g = {speed_up}: hours; GPUs for a week" for speed_up in SPEED_UPS]
    return {
        "large": markdown_table(["quantity", "formula", "value"], rows),
        "large-training": markdown_table(header, by_shape),
    }


def limits_table(measured: Measured) -> str:
    """Return the table of what grows with the number of subjects: bytes in the memory of one process, and time."""
    study = budapest()
    recall = study.model.recall or RecallConfig()
    s, t = round(0.8 * LARGE_SUBJECTS), LARGE_VOLUMES
    width, components, n_horizons = recall.width, recall.n_components, len(study.model.horizons)
    series = 4 * s * t
    n_rows = StatisticsLayout(study.model.horizons, max(ORDERS)).n_rows
    # As `fit_autoregression` divides the features: five folds and their sum, 1 GiB.
    passes = math.ceil(n_features("budapest") / max(1, 2**30 // (8 * n_rows * 6)))
    index = measured.index["linear_s"] * LARGE_SUBJECTS + measured.index["square_s"] * LARGE_SUBJECTS**2
    rows = [
        ["`StimulusMemory.keys_without`, `values_without`: in every process, on the GPU too, and in a file",
         "4 S T (width + components)", format_bytes(series * (width + components))],
        ["`align_subjects`: responses of each subject", "2 x 4 S T width", format_bytes(2 * series * width)],
        ["`project_runs`: every run in components, its errors at K lead times, its forecasts", "4 S T width (1 + 2 K)",
         format_bytes(series * width * (1 + 2 * n_horizons))],
        ["`fit_linear_maps`: two forecasts of every run at K lead times", "2 x 4 S T K width",
         format_bytes(2 * series * n_horizons * width)],
        ["`RunView`, `RunStore`: open runs, in every process", "n x o",
         format_bytes(LARGE_SUBJECTS * measured.open_bytes)],
        ["the same: time before any subcommand starts", "n x time of o",
         f"{format_number(LARGE_SUBJECTS * measured.open_s / 60)} min"],
        ["`fit_autoregression`: passes over the store, with sufficient statistics of 1 GiB in memory",
         "features x rows x 8 bytes x (folds + 1) / 1 GiB; store",
         f"{passes:,} x {format_bytes(2 * n_features('budapest') * s * t)}"],
        ["`find_recordings`: names of the dataset, without derivatives, in every call of `prepare`", "i(n)",
         f"{format_number(index / 3600)} h"],
        ["`provenance.json`: rewritten by each `prepare` of one subject", "n^2 / 2",
         f"{LARGE_SUBJECTS**2 // 2:,} records"],
    ]  # fmt: skip
    symbols = f"S = {s:,} subjects (four fifths), n = {LARGE_SUBJECTS:,}, T = {t}, K = {n_horizons}, width = {width}, "
    symbols += f"components = {components}, all as in budapest.yaml."
    return symbols + "\n\n" + markdown_table(["function", "formula", "value"], rows)


def workstation_tables(measured: Measured, studies: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the tables of ds003017 on a workstation, and of the study that was measured."""
    short, middle, full = (workstation_scale.Study.measured(studies[name]["results"]) for name in WORKSTATION)
    by_part = workstation_scale.costs(short, middle)
    runs = _runs(N_SUBJECTS, RUN_VOLUMES)
    lengths = {run.key: run.n_time_points for run in runs}
    folds = make_folds(runs, workstation_study().split)[1]
    sizes = ([sum(lengths[key] for key in getattr(fold, part)) for fold in folds] for part in workstation_scale.ROLES)
    study = workstation_scale.Study.of_folds(*sizes, n_runs=sum(lengths.values()))
    preparing = measured.preparing
    prepare_s = sum(lengths.values()) * preparing["volume_s"] + len(runs) * preparing["run_s"]
    when = {f"on {studies[name]['date'][:10]} at commit {studies[name]['commit'][:7]}" for name in WORKSTATION}
    cpu = studies[WORKSTATION[-1]]["machine"]["cpu"]
    source = f"Measured {' and '.join(sorted(when))}: {cpu}, one thread, beside other programs."
    return {
        "workstation": f"{source}\n\n{workstation_scale.formula_table(study, by_part, prepare_s)}",
        "workstation-check": workstation_scale.check_table(full, by_part),
        "workstation-stages": workstation_scale.stages_table(full),
    }


def tables(measured: Measured, studies: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, str]:
    """Return all tables of the page, by the names of their marks.

    Parameters
    ----------
    measured : Measured
    studies : mapping of str to mapping, optional
        Contents of the results that `WORKSTATION` names; by default they are read.
    """
    if studies is None:
        studies = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in WORKSTATION}
    source = f"Measured on {measured.date} at commit {measured.commit[:7]}: {measured.cpu}, two cores."
    if measured.cores < _A_CORE:
        source += (
            " **Other programs used them, too**: wall-clock times are too long, and `s` is not meaningful, since a"
            " single process had more of a core than each of two."
        )
    return {
        "measured": f"{source}\n\n{measured_table(measured)}",
        **workstation_tables(measured, studies),
        **budapest_tables(measured),
        **large_tables(measured),
        "limits": limits_table(measured),
    }


def fill(page: str, made: Mapping[str, str]) -> str:
    """Replace the tables between their marks.

    Raises
    ------
    BenchmarkError
        A mark is missing.
    """
    for name, content in made.items():
        marks = re.compile(rf"(<!-- {name}: written by benchmarks/scale.py -->\n).*?(<!-- end of {name} -->)", re.S)
        page, n_found = marks.subn(lambda match, content=content: f"{match[1]}\n{content}\n\n{match[2]}", page)
        if n_found != 1:
            raise BenchmarkError(f"docs/scale.md: expected one place for {name!r}, found {n_found}.")
    return page


def read_results(folder: Path = RESULTS) -> Measured:
    """Read the results; rows that were measured separately replace others."""
    training, autoregression = (json.loads((folder / f"{name}.json").read_text()) for name in _NEEDED)
    for path in (folder / name for name in _SEPARATE):
        if path.is_file():
            training["results"] = json.loads(path.read_text())["results"] + training["results"]
    return Measured(training, autoregression)


def main() -> int:
    """Write the page and return the exit code."""
    try:
        write_text(PAGE, fill(PAGE.read_text(encoding="utf-8"), tables(read_results())))
    except (TitanNeuroError, OSError) as error:
        print(f"scale: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
