"""Cost of training: memory against the length of runs, waiting for data, volumes/s of one and of two processes.

    python benchmarks/training.py              # in about twenty minutes
    python benchmarks/training.py --full       # longer runs, the presets' own streams
    python benchmarks/training.py --quick      # tiny sizes, in a minute, to see that it runs

README.md in this folder describes each row, training_runs.py the trainings. `scale.py` computes the cost of a study
from the results (`docs/scale.md`).
"""

from __future__ import annotations

import argparse
import dataclasses
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from common import (
    UNPOOLED_HEAP,
    Result,
    cpu_seconds,
    in_fresh_process,
    peak_growth_bytes,
    run_benchmark,
    use_one_thread,
)
from training_runs import (
    SHAPES,
    measure_training,
    open_repeatedly,
    read_data,
    torchrun_variables,
    train,
    write_index,
    write_stores,
)

from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.training.closed_form import fitted_closed_form


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the measurements. Shapes are keys of `training_runs.SHAPES`.

    Attributes
    ----------
    memory : tuple of str
        Shapes whose peak memory is measured.
    lengths : tuple of int
        Time points of a run, ascending.
    n_streams : int or None
        Streams of the row `memory`; None for the preset's.
    settled_steps : int
        Steps of a training on short runs: after so many, fragmentation of the heap no longer grows.
    closed_form : tuple of (str, tuple of int)
        Shapes, and the length of each of four runs, in time points, for closed-form fits.
    loading, speed, scaling : mapping of str to int
        Shapes, and the number of windows of each stream.
    short_windows : mapping of str to int
        Time points of a window, for shapes whose own windows would take minutes.
    gpu : mapping of str to int
        Shapes that are trained on a GPU, and the number of windows of each stream.
    opened : str
        Shape whose run is opened repeatedly.
    n_opened : int
        Number of times.
    indexed : (int, int)
        Subjects of two datasets whose file names are indexed.
    prepared : (float, float) or None
        Lengths of two simulated runs that are prepared, as fractions of ds003017's first run; None prepares none.
    """

    memory: tuple[str, ...] = ("small", "parcels")
    lengths: tuple[int, ...] = (100, 1_000, 10_000)
    n_streams: int | None = 1
    settled_steps: int = 40
    closed_form: tuple[tuple[str, tuple[int, ...]], ...] = (
        ("small", (300, 1_000, 3_000)),
        ("parcels", (300, 1_000, 3_000)),
    )
    loading: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"small": 16, "parcels": 80})
    speed: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"large": 2, "budapest": 2})
    short_windows: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"budapest": 16})
    scaling: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"small": 10, "parcels": 40})
    gpu: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"budapest": 20, "small": 60, "parcels": 200})
    opened: str = "budapest"
    n_opened: int = 40
    indexed: tuple[int, int] = (400, 1_600)
    prepared: tuple[float, float] | None = (0.05, 0.15)


DEFAULT = Sizes()
FULL = Sizes(
    n_streams=None,
    settled_steps=80,
    closed_form=(("small", (300, 1_000, 3_000, 10_000)), ("parcels", (300, 1_000, 3_000, 10_000))),
    loading={"small": 100, "parcels": 600},
    speed={"large": 6, "budapest": 10},
    scaling={"small": 60, "parcels": 300},
    indexed=(1_000, 4_000),
    prepared=(0.1, 0.5),
)
QUICK = Sizes(
    memory=("tiny",),
    lengths=(100, 400),
    settled_steps=2,
    closed_form=(("tiny", (150, 300)),),
    loading={"tiny": 4},
    speed={},
    scaling={"tiny": 4},
    gpu={"tiny": 4},
    opened="tiny",
    n_opened=3,
    indexed=(3, 6),
    prepared=None,
)


def peak_of_training(folder: str, warm: str, shape: str, training: Mapping[str, Any]) -> dict[str, float]:
    """Measure the peak memory of training on the stores of `folder`, in a process of its own.

    A first training, on the stores of `warm`, is not measured.

    Returns
    -------
    dict
        ``bytes`` in addition to the memory in use before; ``steps``.
    """
    use_one_thread()
    train(Path(warm), shape, "warm", {**training, "steps_per_epoch": 1})
    found: dict[str, float] = {}
    grown = peak_growth_bytes(lambda: found.update(train(Path(folder), shape, "measured", training)))
    return {"bytes": grown, "steps": found["steps"]}


def memory(sizes: Sizes, folder: Path) -> Iterator[Result]:
    """Row `memory`: peak memory of training on runs of T time points, relative to the shortest runs."""
    for shape in sizes.memory:
        config = SHAPES[shape].study().training
        window, n_streams = config.window_time_points, sizes.n_streams or config.n_streams
        write_stores(folder / shape / "warm", shape, n_streams, 2 * window)
        least, streams = None, f"{n_streams} stream{'s' if n_streams > 1 else ''}"
        for n_time_points in sizes.lengths:
            place = folder / shape / str(n_time_points)
            write_stores(place, shape, n_streams, n_time_points)
            # A training that needs more steps than one pass over the runs has makes at least two passes.
            steps = 1 if n_time_points > sizes.settled_steps * window else sizes.settled_steps
            # So often that short trainings, too, save a checkpoint within a stream.
            training = {"n_streams": n_streams, "steps_per_epoch": steps, "checkpoint_every_s": 2.0}
            where = {"folder": str(place), "warm": str(folder / shape / "warm")}
            found = in_fresh_process(
                peak_of_training, environment=UNPOOLED_HEAP, **where, shape=shape, training=training
            )
            least = least or found["bytes"]
            yield Result(
                row="memory",
                case=f"{SHAPES[shape].label}, {streams}, T {n_time_points:,} over T {sizes.lengths[0]:,}",
                found=found["bytes"] / least,
                reach=1.05 if n_time_points > sizes.lengths[0] else None,
                is_lower_better=True,
                note=f"{found['bytes'] / 1e6:,.0f} MB, {found['steps']:,.0f} steps",
                details=found,
            )


def peak_of_closed_form(folder: str, shape: str) -> dict[str, float]:
    """Measure peak memory and processor time of the closed-form fits, in a process of its own."""
    use_one_thread()
    data, study = read_data(Path(folder)), SHAPES[shape].study()
    found: dict[str, float] = {}

    def fit() -> None:
        work = Path(folder) / "work"
        found["seconds"] = cpu_seconds(lambda: fitted_closed_form(data, study.model, work_dir=work))

    return {"bytes": peak_growth_bytes(fit), **found}


def closed_form(sizes: Sizes, folder: Path) -> Iterator[Result]:
    """Row `closed form`: peak memory of the fits, which read whole runs, relative to the shortest runs."""
    n_runs = 4
    for shape, lengths in sizes.closed_form:
        least = None
        for n_time_points in lengths:
            place = folder / shape / str(n_time_points)
            write_stores(place, shape, n_runs, n_time_points)
            found = in_fresh_process(peak_of_closed_form, environment=UNPOOLED_HEAP, folder=str(place), shape=shape)
            least = least or found["bytes"]
            yield Result(
                row="closed form",
                case=f"{SHAPES[shape].label}, {n_runs} runs of one stimulus, T {n_time_points:,} over T {lengths[0]:,}",
                found=found["bytes"] / least,
                is_lower_better=True,
                note=f"{found['bytes'] / 1e6:,.0f} MB, {found['seconds']:,.0f} s",
                details={**found, "shape": shape, "n_runs": n_runs, "n_time_points": n_time_points},
            )


def _write_windows(place: Path, shape: str, n_windows: int, sizes: Sizes) -> dict[str, Any]:
    """Write as many runs as the preset has streams, of `n_windows` each; return the settings of one pass over them."""
    config = SHAPES[shape].study().training
    window = sizes.short_windows.get(shape, config.window_time_points)
    write_stores(place, shape, config.n_streams, n_windows * window)
    return {"n_streams": config.n_streams, "window_time_points": window, "steps_per_epoch": 1}


def loading(sizes: Sizes, folder: Path) -> Iterator[Result]:
    """Rows `loading` and `speed`: fraction of the time in which the training thread waits for windows."""
    for shape, n_windows in sizes.loading.items():
        training = _write_windows(folder / shape, shape, n_windows, sizes)
        for prefetch in (True, False):
            where = {"folder": str(folder / shape), "name": "prefetch" if prefetch else "no-prefetch"}
            found = in_fresh_process(measure_training, **where, shape=shape, training=training, prefetch=prefetch)
            ms_per_step = 1e3 / found["steps"]
            yield Result(
                row="loading",
                case=f"{SHAPES[shape].label}, read {'during the step before' if prefetch else 'when needed'}",
                found=found["waited_s"] / found["seconds"],
                reach=0.05 if prefetch else None,
                is_lower_better=True,
                note=f"{ms_per_step * found['waited_s']:,.1f} of {ms_per_step * found['seconds']:,.0f} "
                f"ms a step; {found['disk_bytes'] / 1e6:,.0f} MB from the disk",
                details={**found, "shape": shape},
            )
            if prefetch:
                yield _speed(shape, training, found)


def speed(sizes: Sizes, folder: Path) -> Iterator[Result]:
    """Row `speed`: volumes/s of shapes that are too slow for the other rows."""
    for shape, n_windows in sizes.speed.items():
        training = _write_windows(folder / shape, shape, n_windows, sizes)
        found = in_fresh_process(
            measure_training, folder=str(folder / shape), shape=shape, name="speed", training=training
        )
        yield _speed(shape, training, found)


def _speed(shape: str, training: Mapping[str, Any], found: Mapping[str, float], where: str = "one process") -> Result:
    return Result(
        row="speed",
        case=f"{SHAPES[shape].label}, {training['n_streams']} streams, "
        f"windows of {training['window_time_points']} time points: volumes/s of {where}",
        found=found["volumes_per_s"],
        note=f"{found['steps']:,.0f} steps in {found['seconds']:,.0f} s, {found['cores']:.2f} cores; "
        f"model {found['model_bytes'] / 1e6:,.0f} MB, checkpoint {found['checkpoint_bytes'] / 1e6:,.0f} MB",
        details={**found, "shape": shape},
    )


def train_together(n: int, **arguments: Any) -> dict[str, float]:
    """Train one model with `n` processes of one thread, as torchrun starts them; return the result of the first."""
    if n == 1:
        return dict(in_fresh_process(measure_training, **arguments))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ThreadPoolExecutor(n) as pool:
        jobs = [
            pool.submit(in_fresh_process, measure_training, environment=variables, **arguments)
            for variables in torchrun_variables(n, port)
        ]
    first, *_ = [job.result() for job in jobs]
    return dict(first)


def scaling(sizes: Sizes, folder: Path) -> Iterator[Result]:
    """Row `scaling`: volumes/s of one and of two processes that share the same streams."""
    for shape, n_windows in sizes.scaling.items():
        training = _write_windows(folder / shape, shape, n_windows, sizes)
        single_rate = None
        for n in (1, 2):
            where = {"folder": str(folder / shape), "name": f"by-{n}"}
            found = train_together(n, **where, shape=shape, training=training)
            rate = found["volumes_per_s"]
            single_rate = single_rate or rate
            yield Result(
                row="scaling",
                case=f"{SHAPES[shape].label}, {training['n_streams']} streams, {n} process{'es' if n > 1 else ''}: "
                "volumes/s over those of one",
                found=rate / single_rate,
                note=f"{rate:,.1f} volumes/s; {'each had' if n > 1 else 'it had'} {found['cores']:.2f} cores",
                details={**found, "shape": shape, "processes": n},
            )


def gpu(sizes: Sizes, folder: Path) -> Iterator[Result]:
    """Rows `gpu` and `speed` on a GPU: fraction of the time in which it is in use."""
    if not torch.cuda.is_available():
        yield Result(row="gpu", case="fraction of the time in which the GPU is in use", found=None, note="no GPU here")
        return
    for shape, n_windows in sizes.gpu.items():
        training = _write_windows(folder / shape, shape, n_windows, dataclasses.replace(sizes, short_windows={}))
        where = {"folder": str(folder / shape), "name": "gpu"}
        found = in_fresh_process(measure_training, **where, shape=shape, training=training, device="cuda")
        yield Result(
            row="gpu",
            case=f"{SHAPES[shape].label}, fraction of the time in which the GPU is in use",
            found=found["busy"],
            note=f"waits for windows {found['waited_s'] / found['seconds']:.2f} of the time",
            details={**found, "shape": shape},
        )
        yield _speed(shape, training, {**found, "on_gpu": True}, where=f"one {torch.cuda.get_device_name()}")


def opening_of(folder: str, n_times: int) -> dict[str, float]:
    """Measure memory and processor time of opening one run, in a process of its own; no time points are read."""
    use_one_thread()
    place, views = Path(folder), []
    views += open_repeatedly(place, 1)
    seconds = 0.0

    def open_all() -> None:
        nonlocal seconds
        seconds = cpu_seconds(lambda: views.extend(open_repeatedly(place, n_times)))

    return {"bytes": peak_growth_bytes(open_all) / n_times, "seconds": seconds / n_times}


def indexing_of(folder: str, warm: str) -> float:
    """Measure the processor time of indexing a dataset, after another one, in a process of its own."""
    find_recordings(Path(warm))
    return cpu_seconds(lambda: find_recordings(Path(folder)))


def opening(sizes: Sizes, folder: Path) -> Iterator[Result]:
    """Rows `open` and `index`: cost of each further run before a subcommand starts its work."""
    write_stores(folder / "opened", sizes.opened, 0, 4)
    found = in_fresh_process(
        opening_of, environment=UNPOOLED_HEAP, folder=str(folder / "opened"), n_times=sizes.n_opened
    )
    yield Result(
        row="open",
        case=f"{SHAPES[sizes.opened].label}: MB of an open run",
        found=found["bytes"] / 1e6,
        note=f"{found['seconds'] * 1e3:,.0f} ms to open",
        details=found,
    )
    write_index(folder / "index", 1)
    times = {}
    for n_subjects in sizes.indexed:
        place = folder / f"index-{n_subjects}"
        write_index(place, n_subjects)
        times[n_subjects] = in_fresh_process(indexing_of, folder=str(place), warm=str(folder / "index"))
    (few, short), (many, long) = times.items()
    # a n + b n^2 through both: each run is compared with the events files of all runs.
    square = (long / many - short / few) / (many - few)
    yield Result(
        row="index",
        case=f"names of {many:,} subjects with events: seconds",
        found=long,
        note=f"{few:,} subjects {short:.1f} s",
        details={"linear_s": short / few - square * few, "square_s": square, "seconds": times},
    )


def preparing_of(folder: str, fraction: float) -> dict[str, float]:
    """Measure the processor time of preparing a simulated run with transforms, in a process of its own."""
    from titan_neuro.data.simulate import SimulateConfig, simulate
    from titan_neuro.study import Study

    use_one_thread()
    synthetic, output = Path(folder) / "synthetic", Path(folder) / "output"
    config = SimulateConfig(n_subjects=1, n_runs=1, volume_scale=fraction, voxel_size_mm=2.5, transforms=True)
    simulate(synthetic, config)
    settings = {"resolution_mm": 2, "confounds": "motion24", "high_pass_hz": 0.008}
    study = Study.open(synthetic, output, prepare=settings)
    seconds = cpu_seconds(study.prepare)
    [run] = study.runs()
    return {"seconds": seconds, "n_time_points": run.n_time_points, "n_voxels": run.space.n_features}


def preparing(sizes: Sizes, folder: Path) -> Iterator[Result]:
    """Row `prepare`: volumes/s of one core, and seconds for each run in addition."""
    if sizes.prepared is None:
        return
    short, long = (
        in_fresh_process(preparing_of, folder=str(folder / str(fraction)), fraction=fraction)
        for fraction in sizes.prepared
    )
    volume_s = (long["seconds"] - short["seconds"]) / (long["n_time_points"] - short["n_time_points"])
    run_s = short["seconds"] - volume_s * short["n_time_points"]
    yield Result(
        row="prepare",
        case=f"raw images and transforms to {long['n_voxels']:,.0f} voxels at 2 mm: volumes/s",
        found=1 / volume_s,
        note=f"and {run_s:.0f} s for each run; runs of {short['n_time_points']} and {long['n_time_points']} volumes",
        details={"volume_s": volume_s, "run_s": run_s, "n_voxels": long["n_voxels"]},
    )


ROWS: dict[str, Callable[[Sizes, Path], Iterator[Result]]] = {
    "memory": memory,
    "closed-form": closed_form,
    "loading": loading,
    "speed": speed,
    "scaling": scaling,
    "gpu": gpu,
    "opening": opening,
    "preparing": preparing,
}


def measure(sizes: Sizes, rows: Sequence[str], folder: Path | None) -> list[Result]:
    """Measure row by row, each with its stores in a temporary folder of its own."""
    results = []
    for row in rows:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            for result in ROWS[row](sizes, Path(place)):
                print(" | ".join(result.cells()), file=sys.stderr, flush=True)
                results.append(result)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    arguments = _parse(argv)
    sizes = QUICK if arguments.quick else FULL if arguments.full else DEFAULT
    how = {
        "how": "training code of the package, one training and one reading thread, float32, wall-clock time; stores "
        "are read from the disk, not from the system's cache; each line is measured in a process of its own; "
        "closed-form fits are given, and have a row of their own",
    }
    return run_benchmark(
        "Training", arguments.output, lambda: (measure(sizes, arguments.rows, arguments.folder), how), argv
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Memory, waiting for data, and speed of training.")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--full", action="store_true", help="longer, with the presets' own streams")
    amount.add_argument("--quick", action="store_true", help="tiny volumes and short runs, in a minute")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="what to measure")
    parser.add_argument("--folder", type=Path, help="where to write the stores, on a disk (default: the system's own)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent / "results" / "training.json",
        metavar="FILE.json",
        help="JSON file to write, with a Markdown page beside it (default: results/training.json)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
