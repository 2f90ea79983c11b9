"""How fast a prepared run is read: the store against .nii.gz, plain and indexed, a file a time point, and a memmap.

    python benchmarks/store.py              # 200 time points at 2 mm, in about two minutes
    python benchmarks/store.py --full       # 800 time points

README.md beside this file says what each row is, store_sides.py what is compared. Before anything is timed, all sides
give back the same time points, or the run stops.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    BenchmarkError,
    Result,
    cpu_seconds,
    disk_bytes,
    forget_files,
    run_benchmark,
    summary,
    use_one_thread,
    warm_heap,
)
from store_sides import STEP, Side, brain, make_sides, noise

WINDOW = 20
PLAIN = "plain .nii.gz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured.

    Attributes
    ----------
    voxel_mm : float
        Resolution of the brain mask, in mm.
    n_time_points : int
        Length of the run.
    n_windows : int
        Random windows of 20 time points.
    n_plain : int
        So many of them for plain ``.nii.gz`` too, which reads from the start of the file.
    n_passes : int
        Times that the run is read from its first to its last time point.
    """

    voxel_mm: int = 2
    n_time_points: int = 200
    n_windows: int = 16
    n_plain: int = 4
    n_passes: int = 3


SMALL = Sizes()
FULL = Sizes(n_time_points=800, n_windows=40, n_plain=5)


def gate(sides: Mapping[str, Side], chunk_volumes: np.ndarray) -> dict[str, float]:
    """Read a window from all sides in both ways and compare it with what was written.

    Returns
    -------
    dict
        The greatest difference by name, in standard deviations.

    Raises
    ------
    BenchmarkError
        It is more than half a step of the integers in ``.nii.gz``, or than nothing for what holds float16.
    """
    start = len(chunk_volumes) // 3
    stop = start + WINDOW
    expected = torch.from_numpy(chunk_volumes[start:stop].astype(np.float32))
    grid = sides["store"].grid(start, stop)
    errors = {}
    for name, side in sides.items():
        differences = [side.window(start, stop)[:, side.order] - expected, side.grid(start, stop) - grid]
        errors[name] = max(float(difference.abs().max()) for difference in differences)
        allowed = STEP / 2 if ".nii.gz" in name else 0.0
        if not errors[name] <= allowed:
            raise BenchmarkError(f"{name}: differs by {errors[name]:.1e}, allowed are {allowed:.1e}. Nothing is timed.")
    return errors


def drop(side: Side) -> None:
    """Take a side's files out of the system's cache, so that the next read comes from the disk."""
    side.forget()
    forget_files(side.paths)


def wall_seconds(call: Callable[[], object]) -> float:
    """Time by the clock on the wall: a disk is waited for without work."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@dataclasses.dataclass
class Times:
    """One side's times of the same calls, in the same order as the other sides'."""

    warm: list[float] = dataclasses.field(default_factory=list)
    cold: list[float] = dataclasses.field(default_factory=list)
    disk: list[int] = dataclasses.field(default_factory=list)

    def measure(self, side: Side, call: Callable[[], object], *, is_cold: bool = True) -> None:
        """Call once to fill the caches, once for processor time, and once from the disk for time on the wall."""
        call()
        self.warm.append(cpu_seconds(call))
        if is_cold:
            drop(side)
            before = disk_bytes()
            self.cold.append(wall_seconds(call))
            self.disk.append(disk_bytes() - before)


def windows(sides: Mapping[str, Side], sizes: Sizes, *, grid: bool = False) -> dict[str, Times]:
    """Time random windows, the same for all sides, which take turns."""
    starts = np.random.default_rng(1).integers(0, sizes.n_time_points - WINDOW + 1, sizes.n_windows).tolist()
    times = {name: Times() for name in sides}
    for i, start in enumerate(starts):
        for name, side in sides.items():
            if name != PLAIN or i < sizes.n_plain:
                read = side.grid if grid else side.window
                times[name].measure(side, functools.partial(read, start, start + WINDOW), is_cold=not grid)
    return times


def passes(sides: Mapping[str, Side], sizes: Sizes) -> dict[str, Times]:
    """Time whole runs in windows of 20 time points, one behind the other."""

    def whole(side: Side) -> None:
        for start in range(0, sizes.n_time_points, WINDOW):
            side.window(start, min(start + WINDOW, sizes.n_time_points))

    times = {name: Times() for name in sides}
    for i in range(sizes.n_passes):
        for name, side in sides.items():
            if name != PLAIN or i == 0:
                times[name].measure(side, functools.partial(whole, side))
    return times


def check_cold(times: Mapping[str, Times], files: Mapping[str, int]) -> None:
    """Make sure that what is called cold came from the disk: all of a run's bytes in a pass over it.

    Raises
    ------
    BenchmarkError
        Less than nine tenths did.
    """
    for name, side in times.items():
        if not min(side.disk) >= 0.9 * files[name]:
            raise BenchmarkError(
                f"{name}: expected {files[name]:,} bytes from the disk in a cold pass, found {min(side.disk):,}.",
                "The folder may lie in memory (tmpfs): choose one on a disk with --folder.",
            )


# Peer, whether ours is over the peer's (less is better), and what has to be found for windows and passes.
_DEMANDS: dict[str, tuple[bool, dict[str, float]]] = {
    "indexed .nii.gz": (False, {"window, warm": 5, "sequential, warm": 4}),
    PLAIN: (False, {}),
    "a file a time point": (False, {}),
    "memmap": (True, {"window, cold": 2.5, "sequential, warm": 2.5, "sequential, cold": 2.5}),
}


def compare(row: str, series: Mapping[str, Sequence[float]], n_time_points: int) -> Iterator[Result]:
    """Put the store beside each peer: ratios of medians over the calls that both made."""
    for peer, (is_inverse, demands) in _DEMANDS.items():
        n = min(len(series[peer]), len(series["store"]))
        ours, theirs = (statistics.median(series[name][:n]) for name in ("store", peer))
        yield Result(
            row=row,
            case=f"store over {peer}" if is_inverse else f"{peer} over store",
            found=ours / theirs if is_inverse else theirs / ours,
            reach=demands.get(row),
            is_lower_better=is_inverse,
            note=f"{_rate(n_time_points / ours)} against {_rate(n_time_points / theirs)} volumes/s",
            details={"store": summary(series["store"][:n]), "peer": summary(series[peer][:n])},
        )


def _rate(volumes_per_s: float) -> str:
    return f"{volumes_per_s:,.0f}"


def sizes_on_disk(files: Mapping[str, int]) -> Iterator[Result]:
    """Row `bytes`: the store's over each peer's."""
    for peer in _DEMANDS:
        yield Result(
            row="bytes",
            case=f"store over {peer}",
            found=files["store"] / files[peer],
            reach=0.5 if peer == "memmap" else None,
            is_lower_better=True,
            note=f"{files['store'] / 1e6:,.0f} against {files[peer] / 1e6:,.0f} MB",
        )


def measure(sizes: Sizes, folder: Path) -> tuple[list[Result], dict[str, Any]]:
    """Write all sides into `folder`, pass the gate, then measure; return the results and what else was found."""
    use_one_thread()
    space = brain(sizes.voxel_mm)
    chunk_volumes = noise(space, sizes.n_time_points, sizes.voxel_mm)
    sides = make_sides(folder, space, chunk_volumes)
    errors = gate(sides, chunk_volumes)
    warm_heap()
    files = {name: sum(path.stat().st_size for path in side.paths) for name, side in sides.items()}
    found = {"window": windows(sides, sizes), "sequential": passes(sides, sizes)}
    check_cold(found["sequential"], files)
    results = list(sizes_on_disk(files))
    for what, times in found.items():
        n_time_points = WINDOW if what == "window" else sizes.n_time_points
        for state in ("warm", "cold"):
            series = {name: getattr(side, state) for name, side in times.items()}
            results += compare(f"{what}, {state}", series, n_time_points)
    grids = {name: side.warm for name, side in windows(sides, sizes, grid=True).items()}
    results += compare("grid, warm", grids, WINDOW)
    metadata = {
        "run": f"{sizes.n_time_points} volumes, {space.n_features} voxels of {' x '.join(map(str, space.mask.shape))}",
        "gate": errors,
        "from_disk_in_a_cold_window_mb": {
            name: round(statistics.median(side.disk) / 1e6, 1) for name, side in found["window"].items()
        },
    }
    return results, metadata


def main(argv: Sequence[str] | None = None, sizes: Sizes | None = None) -> int:
    """Run the benchmark and return its exit code; `sizes` overrides what the arguments say of them."""
    arguments = _parse(argv)
    how = {
        "how": f"windows of {WINDOW} time points, float32 inside the mask; one thread, sides in turns, medians; warm: "
        "processor time, files in the system's cache; cold: time on the wall, files dropped from it before each call"
    }

    def run() -> tuple[list[Result], dict[str, Any]]:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            results, sizes_on_disk = measure(sizes or (FULL if arguments.full else SMALL), Path(folder))
        return results, how | sizes_on_disk

    return run_benchmark("Reading a prepared run", arguments.output, run, argv, ("indexed-gzip",))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and size of prepared runs, against other ways to keep them.")
    parser.add_argument("--full", action="store_true", help="a run of 800 time points; by default of 200")
    parser.add_argument("--folder", type=Path, help="where to write the runs, on a disk (default: the system's own)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent / "results" / "store.json",
        metavar="FILE.json",
        help="JSON file to write, with a Markdown page beside it (default: results/store.json)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
