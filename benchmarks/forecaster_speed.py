"""How fast the forecaster is, and what memory it takes: against a 4D window model, and over T.

    python benchmarks/forecaster_speed.py              # volumes of 24 and 48 voxels a side, in about twenty minutes
    python benchmarks/forecaster_speed.py --full       # and the peer at every length it can do
    python benchmarks/forecaster_speed.py --quick      # tiny, in seconds: does it run?

README.md beside this file says what each row is, forecaster_sides.py what is compared.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from common import (
    Result,
    alternate,
    cpu_seconds,
    in_fresh_process,
    peak_growth_bytes,
    resident_bytes_at_peak,
    run_benchmark,
    unpool_heap,
    use_one_thread,
    warm_heap,
)
from forecaster_sides import check_sides, n_streams_of, ours, peer
from torch import Tensor, nn

WINDOW = 20
"""Time points that SwiFT sees."""
# After so many the heap's gaps grow no more.
_WORN_TIME_POINTS = 2_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured.

    Attributes
    ----------
    sizes : tuple of str
        Of `forecaster_sides.SIDES`, for the rows at T = 20; the first is also streamed.
    lengths : tuple of int
        T of the streams, ascending.
    seconds : float
        Time for each comparison, beyond three rounds.
    limit_bytes, limit_s : float
        Memory and processor time that the peer may be expected to take in one pass; beyond, it is not run.
    """

    sizes: tuple[str, ...] = ("small", "large")
    lengths: tuple[int, ...] = (100, 1_000, 10_000)
    seconds: float = 8.0
    limit_bytes: float = 4e9
    limit_s: float = 30.0


DEFAULT = Sizes()
FULL = Sizes(seconds=20.0, limit_bytes=8e9, limit_s=1_000.0)
QUICK = Sizes(sizes=("tiny",), lengths=(40, 400, 800), seconds=0.0)


def train_step(model: nn.Module, series: Tensor, state: Any = None) -> Any:
    """Forward, loss over all forecasts, backward; returns the state."""
    model.zero_grad(set_to_none=True)
    forecasts, state = model(series) if state is None else model(series, state)
    forecasts.square().mean().backward()
    return state


@torch.inference_mode()
def forecast(model: nn.Module, series: Tensor) -> None:
    """Forecast from every time point of a window in one pass."""
    model(series)


def at_twenty(sizes: Sizes) -> Iterator[Result]:
    """Rows `train` and `infer`: the peer's time over ours at T = 20."""
    for size in sizes.sizes:
        torch.manual_seed(0)
        mine, theirs, fair = ours(size), peer(size), peer(size, is_stock=False)
        cases: list[tuple[str, Callable[..., Any], int, nn.Module, str, float | None]] = [
            ("train", train_step, n_streams_of(size), theirs, "", 1.0),
            ("train", train_step, n_streams_of(size), fair, ", our tokenizer on both sides", None),
            ("train", train_step, 1, theirs, "", None),
            ("infer", forecast, 1, theirs, "", 1.0),
            ("infer", forecast, 1, fair, ", our tokenizer on both sides", None),
        ]
        for row, call, streams, other, remark, reach in cases:
            series = torch.randn(streams, WINDOW, mine.n_features)
            calls = {name: functools.partial(call, model, series) for name, model in (("ours", mine), ("peer", other))}
            found = alternate(calls, seconds=sizes.seconds)
            rates = {name: streams * WINDOW / times["min_s"] for name, times in found.items()}
            yield Result(
                row=row,
                case=f"{size}, T {WINDOW}, {streams} stream{'s' if streams > 1 else ''}{remark}",
                found=rates["ours"] / rates["peer"],
                reach=reach,
                note=f"{rates['ours']:,.1f} volumes/s, peer {rates['peer']:,.1f}",
                details=found | {f"{name}_volumes_per_s": rate for name, rate in rates.items()},
            )
        yield from _frame_by_time_point(size, mine, theirs, sizes.seconds)


def _frame_by_time_point(size: str, mine: nn.Module, theirs: nn.Module, seconds: float) -> Iterator[Result]:
    """Row `time_point`: a forecast from each new time point; the peer reads its last 20, or keeps the tokens of 19."""
    series = torch.randn(1, WINDOW, mine.n_features)
    with torch.inference_mode():
        tokens, (_, state) = theirs.tokenizer(series), mine(series)

    @torch.inference_mode()
    def next_of_ours() -> None:
        nonlocal state
        state = mine(series[:, -1:], state)[1]

    @torch.inference_mode()
    def window_of_peer() -> None:
        theirs.forecast_last(series)

    @torch.inference_mode()
    def tokens_of_peer() -> None:
        kept = torch.cat([tokens[:, 1:], theirs.tokenizer(series[:, -1:])], dim=1)
        theirs.forecast_last(series, kept)

    ways = ((window_of_peer, f"the peer is given the last {WINDOW}", 1.0), (tokens_of_peer, "it keeps tokens", None))
    for next_of_peer, way, reach in ways:
        found = alternate({"ours": next_of_ours, "peer": next_of_peer}, seconds=seconds)
        medians = {name: 1 / times["median_s"] for name, times in found.items()}
        yield Result(
            row="time_point",
            case=f"{size}, one time point a call; {way}",
            found=medians["ours"] / medians["peer"],
            reach=reach,
            note=f"medians; {medians['ours']:,.1f} volumes/s, peer {medians['peer']:,.1f}",
            details=found,
        )


def stream(side: str, size: str, n_time_points: int) -> None:
    """Take in `n_time_points`, made block by block, and forecast: ours from each, the peer from the last.

    ``window`` gives the peer all time points in one call, as SwiFT is given its window; ``tokens`` makes tokens block
    by block, keeps them alone, and mixes them at the end.
    """
    blocks = (
        torch.randn(1, min(WINDOW, n_time_points - start), _features(size)) for start in range(0, n_time_points, WINDOW)
    )
    model = _model(side, size)
    with torch.inference_mode():
        if side == "ours":
            state = model.init_state()
            for block in blocks:
                _, state = model(block, state)
            return
        if side == "window":
            model.forecast_last(torch.cat(list(blocks), dim=1))
            return
        tokens = []
        for block in blocks:
            tokens.append(model.tokenizer(block))
        model.forecast_last(block, torch.cat(tokens, dim=1))


@functools.cache
def _model(side: str, size: str) -> Any:
    torch.manual_seed(0)
    return ours(size).eval() if side == "ours" else peer(size, is_stock=side == "window").eval()


def _features(size: str) -> int:
    return _model("ours", size).n_features


def streams_of(
    side: str, size: str, lengths: Sequence[int], limit_bytes: float, limit_s: float
) -> dict[str, dict[str, Any]]:
    """Processor time and peak memory of passes over more and more time points; for a process of its own.

    Returns
    -------
    dict
        By length: ``seconds`` and ``bytes``; or ``why``, where the pass before tells that this one would pass a limit.
        What it took is taken to grow as T does, which is the least.
    """
    use_one_thread()
    warm_heap()
    stream(side, size, 2 * WINDOW)
    before = resident_bytes_at_peak()
    found: dict[str, dict[str, Any]] = {}
    for n_time_points in lengths:
        n_times = max(1, min(5, 3_000 // n_time_points))
        if why := _too_much(found, n_time_points, resident_bytes_at_peak() - before, limit_bytes, limit_s):
            found[str(n_time_points)] = {"why": why}
            continue
        seconds = min(cpu_seconds(lambda n=n_time_points: stream(side, size, n)) for _ in range(n_times))
        found[str(n_time_points)] = {"seconds": seconds}
    unpool_heap()
    for length, line in found.items():
        if "seconds" in line:
            line["bytes"] = peak_growth_bytes(lambda n=int(length): _stream_again(side, size, n, max(lengths)))
    return found


def _stream_again(side: str, size: str, n_time_points: int, n_most: int) -> None:
    """Take in short streams several times: a heap that is used longer has more gaps, however long a stream is.

    So a short stream is measured on a heap that has been used about as long as by a long one. The peer, whose passes
    take all memory at once, has no such gaps.
    """
    for _ in range(max(1, min(n_most, _WORN_TIME_POINTS) // n_time_points) if side == "ours" else 1):
        stream(side, size, n_time_points)


def _too_much(
    found: dict[str, dict[str, Any]], n_time_points: int, grown_bytes: int, limit_bytes: float, limit_s: float
) -> str:
    """Say why a pass is not run, from the last that was: its time, and how far it made the process grow."""
    if not found:
        return ""
    before, line = list(found.items())[-1]
    if "why" in line:
        return "not run: too much at fewer time points already"
    seconds = line["seconds"] * n_time_points / int(before)
    if seconds > limit_s:
        return f"not run: would take more than {seconds:,.0f} s"
    n_bytes = grown_bytes * n_time_points / int(before)
    return f"not run: would take more than {n_bytes / 1e9:,.0f} GB" if n_bytes > limit_bytes else ""


def over_time(sizes: Sizes) -> Iterator[Result]:
    """Rows `memory` and `time`: a pass over T time points, against one over the fewest."""
    size = sizes.sizes[0]
    shape = {"size": size, "lengths": sizes.lengths, "limit_bytes": sizes.limit_bytes, "limit_s": sizes.limit_s}
    mine: dict[str, dict[str, Any]] = {}
    for side in SIDE_NAMES:
        own = {"limit_bytes": 1e12, "limit_s": 1e6} if side == "ours" else {}
        found = in_fresh_process(streams_of, side=side, **(shape | own))
        for n_time_points in sizes.lengths:
            yield from _lines_of(side, size, sizes.lengths[0], n_time_points, found, mine)
        mine = mine or found


SIDE_NAMES = {"ours": "ours", "window": "peer, all time points in one call", "tokens": "peer, tokens kept"}


def _lines_of(
    side: str,
    size: str,
    fewest: int,
    n_time_points: int,
    found: dict[str, dict[str, Any]],
    mine: dict[str, dict[str, Any]],
) -> Iterator[Result]:
    """Two lines for each side and length; ours are judged: memory, and time a volume, as at the fewest time points."""
    line, first = found[str(n_time_points)], found[str(fewest)]
    for row, unit in (("memory", "bytes"), ("time", "seconds")):
        case = f"{size}, {SIDE_NAMES[side]}, T {n_time_points:,} over T {fewest:,}"
        if unit not in line:
            yield Result(row=row, case=case, found=None, note=line["why"])
            continue
        value, ratio = line[unit], line[unit] / first[unit]
        told = f"{value / 1e6:,.0f} MB" if row == "memory" else f"{n_time_points / value:,.0f} volumes/s"
        if mine:
            told += f", {value / mine[str(n_time_points)][unit]:.2f} of ours"
        yield Result(
            row=row,
            case=case,
            found=ratio if row == "memory" else ratio * fewest / n_time_points,
            reach=1.05 if side == "ours" and n_time_points > fewest else None,
            is_lower_better=True,
            note=told,
            details={unit: value, "first": first[unit]},
        )


def training_bytes(side: str, size: str, lengths: Sequence[int]) -> dict[str, int]:
    """Peak memory of learning from so many time points, ours window by window; for a process of its own."""
    use_one_thread()
    unpool_heap()
    torch.manual_seed(0)
    model: Any = ours(size) if side == "ours" else peer(size)

    def learn(n_time_points: int) -> None:
        state = None
        for window in torch.randn(1, n_time_points, model.n_features).split(
            WINDOW if side == "ours" else n_time_points, dim=1
        ):
            state = train_step(model, window, state and state.detach())

    learn(WINDOW)
    return {str(length): peak_growth_bytes(functools.partial(learn, length)) for length in lengths}


def training_memory(sizes: Sizes) -> Iterator[Result]:
    """Row `train memory`: peak memory of learning from T time points, the peer's over ours."""
    size, lengths = sizes.sizes[0], (WINDOW, 5 * WINDOW)
    shape = {"size": size, "lengths": lengths}
    found = {side: in_fresh_process(training_bytes, side=side, **shape) for side in ("ours", "peer")}
    for length in map(str, lengths):
        mine, theirs = found["ours"][length], found["peer"][length]
        yield Result(
            row="train memory",
            case=f"{size}, T {length}, 1 stream: peer over ours",
            found=theirs / mine,
            note=f"{mine / 1e6:,.0f} MB, peer {theirs / 1e6:,.0f} MB",
            details={"ours_bytes": mine, "peer_bytes": theirs},
        )


ROWS: dict[str, Callable[[Sizes], Iterator[Result]]] = {
    "twenty": at_twenty,
    "training": training_memory,
    "streams": over_time,
}


def measure(sizes: Sizes, rows: Sequence[str]) -> tuple[list[Result], dict[str, dict[str, float]]]:
    """Pass the gate, then measure."""
    use_one_thread()
    gate = {size: check_sides(size) for size in sizes.sizes}
    warm_heap()
    results = []
    for row in rows:
        for result in ROWS[row](sizes):
            print(" | ".join(result.cells()), file=sys.stderr, flush=True)
            results.append(result)
    return results, gate


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    arguments = _parse(argv)
    sizes = QUICK if arguments.quick else FULL if arguments.full else DEFAULT

    def run() -> tuple[list[Result], dict[str, Any]]:
        results, gate = measure(sizes, arguments.rows)
        return results, {
            "how": "one thread, processor time, float32; at T 20 the sides take turns in one process (minima), streams "
            "and peak memory are measured in fresh processes; ratios of train, infer, time point are above 1 in our "
            "favor",
            "limits": f"the peer is not run beyond {sizes.limit_bytes / 1e9:.0f} GB or {sizes.limit_s:.0f} s a pass",
            "gate": gate,
        }

    return run_benchmark("Speed and memory of the forecaster", arguments.output, run, argv)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and memory of the forecaster, against a 4D window model.")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--full", action="store_true", help="longer, and the peer as far as 8 GB")
    amount.add_argument("--quick", action="store_true", help="tiny volumes and short streams, in seconds")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="what to measure")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent / "results" / "forecaster_speed.json",
        metavar="FILE",
        help="JSON file to write, with a Markdown page beside it (default: results/forecaster_speed.json)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
