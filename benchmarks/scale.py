"""What a study costs in hours, GPUs and bytes: computed from what training.py has measured, into docs/scale.md.

    python benchmarks/scale.py

The page's words are written by hand; what stands between its marks, every number of a table, is written here, each
with the formula that it comes from.
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
from common import ROOT, BenchmarkError
from training_runs import SHAPES, budapest

from titan_neuro.data.splits import SplitConfig, make_folds
from titan_neuro.errors import TitanNeuroError
from titan_neuro.evaluation.formatting import markdown_table
from titan_neuro.files import write_text
from titan_neuro.forecaster.recall.recall import RecallConfig
from titan_neuro.forecaster.recall.stimulus_memory import LEADS
from titan_neuro.linear.autoregression import ORDERS
from titan_neuro.linear.lagged_statistics import StatisticsLayout
from titan_neuro.training import TrainingConfig
from titan_neuro.training.streams import StreamWindows

RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "scale.md"
# A process that has had less of a core shared it.
_A_CORE = 0.9
_NEEDED = ("training", "autoregression")
# Rows measured by themselves, which stand before those of the whole run: two processes on a quiet machine, and a GPU.
_APART = ("training_scaling.json", "training_gpu.json")

# ds003017 as published (README.md; its sidecars): volumes of the five runs, subjects, a recording's grid, bytes of its
# BOLD, and of all that `fetch --with transforms` brings.
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
    """Volumes of one study's trainings, counted window by window, as `training.StreamWindows` cuts them.

    Attributes
    ----------
    train, validation : tuple of int
        Of one epoch, for each fold.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]

    def volumes(self, *, epochs: int, trainings: int) -> int:
        """Volumes of so many trainings of each fold, the validation before the first epoch among them."""
        folds = zip(self.train, self.validation, strict=True)
        return trainings * sum(epochs * (train + validation) + validation for train, validation in folds)


def count_work(runs: Sequence[Any], split: SplitConfig, training: TrainingConfig, n_folds: int | None = None) -> Work:
    """Divide runs into folds, cut them into windows, and count their volumes; of the first so many folds."""
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


@functools.cache
def budapest_work() -> Work:
    """Of ds003017."""
    study = budapest()
    return count_work(_runs(N_SUBJECTS, RUN_VOLUMES), study.split, study.training)


@functools.cache
def large_work() -> Work:
    """Of one fold of the large study, held-out subjects."""
    study = budapest()
    split = SplitConfig(by="subject", n_folds=5, validation_fraction=study.split.validation_fraction)
    return count_work(_runs(LARGE_SUBJECTS, (LARGE_VOLUMES,)), split, study.training, n_folds=1)


class Measured:
    """What the benchmarks have found.

    Parameters
    ----------
    training, autoregression : mapping
        Contents of ``results/training.json`` and ``results/autoregression.json``.

    Raises
    ------
    BenchmarkError
        A row that is needed is not there.
    """

    def __init__(self, training: Mapping[str, Any], autoregression: Mapping[str, Any]) -> None:
        self._rows = training["results"]
        self.date, self.commit, self.cpu = training["date"][:10], training["commit"], training["machine"]["cpu"]
        together = self._find("scaling", shape="small", processes=2)
        self.ratio = float(together["found"])
        # Of each process; not known of what was measured before it was noted.
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
            noted = line["details"]
            if line["row"] == row and not noted.get("on_gpu") and details.items() <= noted.items():
                return dict(line)
        raise BenchmarkError(
            f"results/training.json: no row {row!r} {details}.", "Run benchmarks/training.py, all rows."
        )

    def details(self, shape: str) -> dict[str, Any]:
        """What was noted beside the volumes/s of a shape."""
        return dict(self._find("speed", shape=shape)["details"])

    def one_process(self, shape: str) -> float:
        """Volumes/s of one thread that learns."""
        return float(self._find("speed", shape=shape)["found"])

    def two_cores(self, shape: str) -> float:
        """Volumes/s of two processes: of one, times what a second one has brought at 24 voxels a side."""
        return self.one_process(shape) * self.ratio


@functools.cache
def n_features(shape: str) -> int:
    """Voxels or parcels."""
    return SHAPES[shape].space().n_features


def told(number: float) -> str:
    """Three digits, with commas."""
    if number == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(number)))
    return f"{round(number, digits):,.{max(0, digits)}f}"


def n_bytes(number: float) -> str:
    """Bytes in the unit that suits them."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{told(number / size)} {unit}"
    return f"{told(number / 1e3)} kB"


def measured_table(found: Measured) -> str:
    """What all others follow from."""
    preparing, index = found.preparing, found.index
    rows = [
        [f"`r1`, {SHAPES[shape].told}", f"{told(found.one_process(shape))} volumes/s", "row `speed`"]
        for shape in ("small", "large", "budapest", "parcels")
    ]
    rows += [
        ["`s`, two processes over one", told(found.ratio), "row `scaling`, 24 voxels a side"],
        ["`p`, preparing a volume at 2 mm, one core", f"{told(preparing['volume_s'])} s", "row `prepare`"],
        ["`q`, preparing, for each run beside", f"{told(preparing['run_s'])} s", "row `prepare`"],
        ["`m`, a model of budapest.yaml on disk", n_bytes(found.details("budapest")["model_bytes"]), "row `speed`"],
        ["`k`, a checkpoint of it", n_bytes(found.details("budapest")["checkpoint_bytes"]), "row `speed`"],
        [
            "`o`, a run that is open, at 2 mm",
            f"{n_bytes(found.open_bytes)}, {told(1e3 * found.open_s)} ms",
            "row `open`",
        ],
        [
            "`i(n)`, names of `n` subjects",
            f"{told(1e3 * index['linear_s'])} ms x n + {told(1e6 * index['square_s'])} us x n^2",
            "row `index`",
        ],
        [
            "`a`, linear skip, 70,000 voxels x 3,000 time points, two cores",
            f"{told(found.autoregression_s)} s",
            "autoregression.md",
        ],
    ]
    return markdown_table(["what", "measured", "where"], rows)


def budapest_tables(found: Measured) -> dict[str, str]:
    """Tables of ds003017."""
    study = budapest()
    work = budapest_work()
    n_folds, n_models, epochs = len(work.train), 1 + 2 * study.comparison_models, study.training.max_epochs
    trainings, n_volumes = len(study.seeds) * n_models, N_SUBJECTS * sum(RUN_VOLUMES)
    total, n_jobs = work.volumes(epochs=epochs, trainings=trainings), n_folds * len(study.seeds)
    voxels, details, preparing = n_features("budapest"), found.details("budapest"), found.preparing
    rate = found.two_cores("budapest")
    hours = total / rate / 3600
    prepare_h = (n_volumes * preparing["volume_s"] + N_SUBJECTS * len(RUN_VOLUMES) * preparing["run_s"]) / 3600
    linear_h = n_folds * found.autoregression_s * voxels * n_volumes / (70_000 * 3_000) / 3600
    rows = [
        ["volumes", f"{N_SUBJECTS} x ({' + '.join(map(str, RUN_VOLUMES))})", f"{n_volumes:,}"],
        ["fetched, with transforms", "README.md", n_bytes(FETCHED_BYTES)],
        ["store", f"2 bytes x {voxels:,} voxels x volumes", n_bytes(2 * voxels * n_volumes)],
        [
            "models",
            f"{len(study.seeds)} seeds x {n_folds} folds x {n_models} models x m",
            n_bytes(trainings * n_folds * details["model_bytes"]),
        ],
        [
            "checkpoints, of each training that runs",
            "2 k + m, removed at its end",
            n_bytes(2 * details["checkpoint_bytes"] + details["model_bytes"]),
        ],
        ["prepare, one core", "volumes x p + 125 runs x q", f"{told(prepare_h)} h"],
        [
            "linear skips, two cores, at most",
            f"{n_folds} folds x a x (voxels x volumes) / (70,000 x 3,000)",
            f"{told(linear_h)} h",
        ],
        [
            "`E`, volumes of an epoch, all folds",
            "windows of 64 time points, `make_folds`, `StreamWindows`",
            f"{sum(work.train):,}",
        ],
        ["`W`, volumes validated, all folds", "the same", f"{sum(work.validation):,}"],
        ["`N`, volumes of all trainings, at most", f"{trainings} x ({epochs} x (E + W) + W)", f"{total:,}"],
        ["train, two cores, at most", "N / (r1 x s)", f"{told(hours)} h = {told(hours / 24 / 365)} years"],
    ]
    return {
        "budapest": markdown_table(["what", "formula", "result"], rows),
        "budapest-gpus": _gpus(found, hours, n_jobs),
    }


def _gpus(found: Measured, hours: float, n_jobs: int) -> str:
    rows = [
        [
            f"g = {speed_up}, assumed",
            f"{told(hours / speed_up)} h",
            f"{told(hours / speed_up / n_jobs)} h",
            f"{math.ceil(hours / speed_up / WEEK_H):,}",
        ]
        for speed_up in SPEED_UPS
    ]
    if "budapest" in found.gpu_rates:
        speed_up = found.gpu_rates["budapest"] / found.two_cores("budapest")
        rows.append(
            [
                f"g = {told(speed_up)}, measured",
                f"{told(hours / speed_up)} h",
                f"{told(hours / speed_up / n_jobs)} h",
                f"{math.ceil(hours / speed_up / WEEK_H):,}",
            ]
        )
    header = [
        "volumes/s over two cores",
        "one GPU: hours / g",
        f"{n_jobs} GPUs, one a fold and seed",
        "GPUs for a week",
    ]
    return markdown_table(header, rows)


def large_tables(found: Measured) -> dict[str, str]:
    """Tables of a study of `LARGE_SUBJECTS`."""
    work, smaller = large_work(), budapest_work()
    n_volumes = LARGE_SUBJECTS * LARGE_VOLUMES
    total, preparing = work.volumes(epochs=LARGE_EPOCHS, trainings=1), found.preparing
    a_voxel = BOLD_BYTES / (RAW_VOXELS * N_SUBJECTS * sum(RUN_VOLUMES))
    raw = a_voxel * LARGE_RAW_VOXELS * n_volumes
    prepare_h = (n_volumes * preparing["volume_s"] + LARGE_SUBJECTS * preparing["run_s"]) / 3600
    rows = [
        ["volumes", f"{LARGE_SUBJECTS:,} x {LARGE_VOLUMES}", f"{n_volumes:,}"],
        ["raw BOLD", f"bytes of a voxel of ds003017 ({a_voxel:.2f}) x {LARGE_RAW_VOXELS:,} voxels x volumes",
         n_bytes(raw)],
        ["fetch", f"bytes / {LINK_BYTES_PER_S / 1e6:.0f} MB/s", f"{told(raw / LINK_BYTES_PER_S / 3600)} h"],
        [f"prepare at 2 mm, {N_CORES} cores", f"(volumes x p + runs x q) / {N_CORES}",
         f"{told(prepare_h / N_CORES)} h"],
        ["`N`, volumes trained and validated", f"{LARGE_EPOCHS} x ({work.train[0]:,} + {work.validation[0]:,}) + "
         f"{work.validation[0]:,}", f"{total:,}"],
    ]  # fmt: skip
    ratio = work.train[0] * len(smaller.train) / sum(smaller.train)
    rows.append(["an epoch, over one of a fold of ds003017", "of volumes trained", told(ratio)])
    by_shape = []
    for shape in ("budapest", "large", "parcels"):
        features, rate = n_features(shape), found.two_cores(shape)
        hours = total / rate / 3600
        linear_h = found.autoregression_s * features * n_volumes / (70_000 * 3_000) / 3600
        by_shape.append(
            [SHAPES[shape].told, n_bytes(2 * features * n_volumes), f"{told(linear_h)} h", f"{told(hours)} h"]
            + [f"{told(hours / speed_up)} h; {math.ceil(hours / speed_up / WEEK_H):,}" for speed_up in SPEED_UPS]
        )
    header = ["model", "store: 2 x features x volumes", "linear skip, two cores: a x ...", "two cores: N / (r1 x s)"]
    header += [f"g = {speed_up}: hours; GPUs for a week" for speed_up in SPEED_UPS]
    return {
        "large": markdown_table(["what", "formula", "result"], rows),
        "large-training": markdown_table(header, by_shape),
    }


def limits_table(found: Measured) -> str:
    """What grows with the number of subjects: bytes in the memory of one process, and seconds."""
    study = budapest()
    recall = study.model.recall or RecallConfig()
    s, t = round(0.8 * LARGE_SUBJECTS), LARGE_VOLUMES
    width, own, n_horizons = recall.width, recall.n_components, len(study.model.horizons)
    stimulus, past = len(LEADS) * own, 2 * width + (recall.own_lags - 1) * own
    series = 4 * s * t
    n_rows = StatisticsLayout(study.model.horizons, max(ORDERS)).n_rows
    # As `fit_autoregression` divides the features: five folds and their sum, 1 GiB.
    passes = math.ceil(n_features("budapest") / max(1, 2**30 // (8 * n_rows * 6)))
    index = found.index["linear_s"] * LARGE_SUBJECTS + found.index["square_s"] * LARGE_SUBJECTS**2
    rows = [
        ["`StimulusMemory.keys_without`, `values_without`: in every process, on the GPU too, and in a file",
         "4 S T (width + own)", n_bytes(series * (width + own))],
        ["`collect_stimuli`: what each subject showed", "2 x 4 S T width", n_bytes(2 * series * width)],
        ["`project_run`: every run in components, its errors at K horizons, its forecasts", "4 S T width (1 + 2 K)",
         n_bytes(series * width * (1 + 2 * n_horizons))],
        ["`fit_linear`: what the stimulus shows about each time point", "4 S T K leads own",
         n_bytes(series * n_horizons * stimulus)],
        ["`fit_linear`: own past; the table of one horizon", "4 S T (past + leads own + past + width)",
         n_bytes(series * (2 * past + stimulus + width))],
        ["`RunView`, `RunStore`: open runs, in every process", "n x o", n_bytes(LARGE_SUBJECTS * found.open_bytes)],
        ["the same, time before any subcommand begins", "n x time of o", f"{told(LARGE_SUBJECTS * found.open_s / 60)} min"],
        ["`fit_autoregression`: passes over the store, as the moments find room in 1 GiB",
         "features x rows x 8 bytes x (folds + 1) / 1 GiB; store",
         f"{passes:,} x {n_bytes(2 * n_features('budapest') * s * t)}"],
        ["`find_recordings`: names of the dataset, without derivatives, in every call of `prepare`", "i(n)",
         f"{told(index / 3600)} h"],
        ["`provenance.json`: written anew by each `prepare` of one subject", "n^2 / 2",
         f"{LARGE_SUBJECTS**2 // 2:,} records"],
    ]  # fmt: skip
    given = (
        f"S = {s:,} subjects (four fifths), n = {LARGE_SUBJECTS:,}, T = {t}, K = {n_horizons}, width = {width}, own = "
    )
    given += f"{own}, leads = {len(LEADS)}, past = {past}, all as in budapest.yaml."
    return given + "\n\n" + markdown_table(["where", "formula", "result"], rows)


def tables(found: Measured) -> dict[str, str]:
    """All that is written into the page, by the names of its marks."""
    source = f"Measured on {found.date} at commit {found.commit[:7]}: {found.cpu}, two cores."
    if found.cores < _A_CORE:
        source += (
            " **Others used them, too**: times on the wall are too long, and `s` says nothing, since one process alone"
            " had more of a core than each of two."
        )
    return {
        "measured": f"{source}\n\n{measured_table(found)}",
        **budapest_tables(found),
        **large_tables(found),
        "limits": limits_table(found),
    }


def fill(page: str, made: Mapping[str, str]) -> str:
    """Put each table between its marks.

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
    """Read what was measured, rows that were measured by themselves before others."""
    training, autoregression = (json.loads((folder / f"{name}.json").read_text()) for name in _NEEDED)
    for path in (folder / name for name in _APART):
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
