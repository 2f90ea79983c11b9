"""Time of fitting the linear autoregression of a whole brain, the reference of every forecaster.

    python benchmarks/autoregression.py              # 70,000 voxels x 3,000 time points, two cores
    python benchmarks/autoregression.py --quick      # a few voxels, to see that it runs

Ours fits all voxels and lead times at once, with order and penalty chosen by cross-validation over runs. The peer is
scikit-learn's `RidgeCV` for each voxel, lead time and order, timed on a sample of voxels and scaled up. `RidgeCV` gets
all penalties and held-out rows from one decomposition, and its task is easier: single rows are held out, not whole
runs. Before anything is timed, weights of both are compared at a given order and penalty.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from common import (
    BenchmarkError,
    Result,
    cpu_seconds,
    run_benchmark,
)
from sklearn.linear_model import Ridge, RidgeCV

from titan_neuro.linear.autoregression import ORDERS, PENALTIES, fit_autoregression

HORIZONS = (1, 2, 3, 6, 10, 20)


@dataclasses.dataclass
class NoiseRun:
    """A run of AR(1) noise in float16, like a run of a store."""

    key: str
    series: torch.Tensor
    subject: str = "01"
    stimulus: str = "noise"
    stimulus_start: int = 0

    def __post_init__(self) -> None:
        self.n_time_points, self.n_features = self.series.shape
        self.scored = np.ones(self.n_time_points, dtype=bool)
        self.high_motion = np.zeros(self.n_time_points, dtype=bool)

    def read(self, start: int, stop: int) -> torch.Tensor:
        return self.series[start:stop].float()


def make_runs(n_voxels: int, n_time_points: int, n_runs: int = 5) -> list[NoiseRun]:
    """Make `n_runs` runs of one subject, float16 ``(time, voxels)``."""
    generator = torch.Generator().manual_seed(0)
    runs = []
    for number in range(n_runs):
        series = torch.empty(n_time_points // n_runs, n_voxels, dtype=torch.float16)
        state = torch.randn(n_voxels, generator=generator)
        for t in range(len(series)):
            state = 0.7 * state + 0.7 * torch.randn(n_voxels, generator=generator)
            series[t] = state
        runs.append(NoiseRun(f"run-{number + 1}", series))
    return runs


def rows_of(runs: Sequence[NoiseRun], voxel: int, horizon: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Design matrix ``(rows, order)`` and targets ``(rows,)`` of one voxel."""
    design, target = [], []
    for run in runs:
        series = run.series[:, voxel].double().numpy()
        last = len(series) - horizon
        design.append(np.stack([series[max(ORDERS) - 1 - lag : last - lag] for lag in range(order)], axis=1))
        target.append(series[max(ORDERS) - 1 + horizon :])
    return np.concatenate(design), np.concatenate(target)


def fit_sample(runs: Sequence[NoiseRun], n_sample: int) -> None:
    """Fit some voxels with scikit-learn, all horizons and orders."""
    for voxel in range(n_sample):
        for horizon in HORIZONS:
            for order in ORDERS:
                design, target = rows_of(runs, voxel, horizon, order)
                RidgeCV(alphas=[penalty * len(target) for penalty in PENALTIES]).fit(design, target)


def check_weights(runs: Sequence[NoiseRun]) -> float:
    """Compare our weights, at a given order and penalty, with those of scikit-learn; return the largest difference.

    Raises
    ------
    BenchmarkError
        They differ by more than 1e-5.
    """
    small = [NoiseRun(run.key, run.series[:, :3].clone()) for run in runs]
    fitted = fit_autoregression(small, HORIZONS, orders=(8,), penalties=(0.01,))
    worst = 0.0
    for index, horizon in enumerate(HORIZONS):
        for voxel in range(3):
            design, target = rows_of(small, voxel, horizon, 8)
            expected = Ridge(alpha=0.01 * len(target)).fit(design, target).coef_
            worst = max(worst, float(np.abs(fitted.coefficients[index, :, voxel].numpy() - expected).max()))
    if not worst < 1e-5:
        raise BenchmarkError(f"weights differ from scikit-learn's by {worst:.1e}, allowed are 1e-5. Nothing is timed.")
    return worst


def measure(n_voxels: int, n_time_points: int, n_sample: int, n_threads: int) -> Iterator[Result]:
    """Time both sides."""
    torch.set_num_threads(n_threads)
    runs = make_runs(n_voxels, n_time_points)
    error = check_weights(runs)
    shape = f"{n_voxels:,} voxels x {n_time_points:,} time points, {len(HORIZONS)} horizons"
    begin = time.monotonic()
    cpu_s = cpu_seconds(lambda: fit_autoregression(runs, HORIZONS))
    wall_s = time.monotonic() - begin
    peer_s = cpu_seconds(lambda: fit_sample(runs, n_sample)) * n_voxels / n_sample
    details = {"wall_s": wall_s, "cpu_s": cpu_s, "peer_cpu_s": peer_s, "n_sample": n_sample, "gate": error}
    note = f"{cpu_s:.0f} s of processor time"
    yield Result(
        row="seconds",
        case=f"{shape}, {n_threads} threads: seconds of wall-clock time",
        found=wall_s,
        reach=60,
        is_lower_better=True,
        note=note,
        details=details,
    )
    yield Result(
        row="peer",
        case=f"{shape}: processor time of RidgeCV over ours",
        found=peer_s / cpu_s,
        note=f"RidgeCV {peer_s / 60:,.0f} minutes, from {n_sample} voxels",
        details=details,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    parser = argparse.ArgumentParser(description="Time of fitting the linear autoregression of a whole brain.")
    parser.add_argument("--quick", action="store_true", help="50 voxels x 500 time points")
    parser.add_argument("--threads", type=int, default=2, help="threads of our side (default: %(default)s)")
    default = Path(__file__).parent / "results" / "autoregression.json"
    parser.add_argument("--output", type=Path, default=default, metavar="FILE", help="JSON; Markdown goes beside it")
    arguments = parser.parse_args(argv)
    sizes = (50, 500, 1) if arguments.quick else (70_000, 3_000, 20)

    def run() -> tuple[list[Result], dict[str, str]]:
        how = "one subject in 5 runs, float16 in memory; orders 1, 2, 4, 8 and 6 penalties; one pass each"
        return list(measure(*sizes, arguments.threads)), {"how": how}

    return run_benchmark("Linear autoregression of a whole brain", arguments.output, run, argv, ("scikit-learn",))


if __name__ == "__main__":
    sys.exit(main())
