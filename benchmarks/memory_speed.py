"""How fast the memory is: against titans-pytorch, on a long stream against a short one, and on a GPU.

    python benchmarks/memory_speed.py              # a small part, in about a minute
    python benchmarks/memory_speed.py --full       # everything
    python benchmarks/memory_speed.py --rows exact,peak

README.md beside this file says what each row is, memory_sides.py what is compared. Before anything is timed, both sides
compute the same in float64, or the run stops.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from common import (
    UNPOOLED_HEAP,
    BenchmarkError,
    Result,
    alternate,
    cpu_seconds,
    cuda_seconds,
    in_fresh_process,
    peak_growth_bytes,
    run_benchmark,
    summary,
    use_one_thread,
    warm_heap,
)
from memory_sides import (
    CHUNK,
    EXPANSION,
    HEADS,
    Kind,
    check_same_numbers,
    difference,
    initial_weights,
    ours,
    peer,
    tokens,
    train_step,
)
from torch import Tensor, nn

from titan_neuro.titans.memory import init_state, memory_scan, native

STREAM_BATCH = 24
"""Streams side by side where memory is measured: the system counts pages to about 100 kB."""
Side = Literal["ours", "exact", "coarse"]
Shape = tuple[int, int, int]
"""Width, layers of the memory, tokens."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured.

    Attributes
    ----------
    exact, coarse, peak : tuple of (width, depth, n_tokens)
        Shapes that are compared with the peer.
    scaling : tuple of (width, depth, n_tokens)
        Shapes whose time per token is compared with that at `short` tokens.
    stream : (width, depth, n_tokens)
        The long stream, for its memory and for the time of a token; compared with one of `short_stream` tokens.
    call_tokens : int
        Tokens of a call of the stream whose memory is measured.
    gpu : (batch, n_tokens, n_tokens of a single stream)
    seconds : float
        Time for each comparison, beyond a first round and three timed ones.
    """

    exact: tuple[Shape, ...]
    coarse: tuple[Shape, ...]
    peak: tuple[Shape, ...]
    scaling: tuple[Shape, ...]
    stream: Shape
    short: int = 512
    short_stream: int = 1_024
    call_tokens: int = 512
    gpu: tuple[int, int, int] = (33, 4_096, 80_000)
    seconds: float = 2.0


SMALL = Sizes(
    exact=((384, 1, 512), (128, 2, 512)),
    coarse=((128, 1, 512), (384, 1, 512), (128, 2, 512), (384, 2, 512)),
    peak=((128, 2, 512),),
    scaling=((128, 1, 8_192),),
    stream=(128, 2, 20_480),
    seconds=1.0,
)
_WIDTHS, _DEPTHS = (128, 256, 384), (1, 2)
FULL = Sizes(
    exact=tuple((*shape, n) for shape in ((384, 1), (128, 2)) for n in (512, 2_048)),
    coarse=tuple(itertools.product(_WIDTHS, _DEPTHS, (512, 2_048, 8_192))),
    peak=((128, 2, 512), (384, 2, 512)),
    scaling=tuple(itertools.product(_WIDTHS, _DEPTHS, (8_192,))),
    stream=(128, 2, 1_000_448),
    seconds=6.0,
)


def _case(kind: Kind, width: int, depth: int, n_tokens: int) -> str:
    return f"{kind}, width {width}, L {depth}, T {n_tokens:,}"


def _demand(kind: Kind, reach: float, aim: float | None = None) -> dict[str, Any]:
    return {"reach": reach, "aim": aim} if kind == "memory" else {"note": "for comparison"}


def against_peer(shapes: Sequence[Shape], side: Side, seconds: float) -> Iterator[Result]:
    """Rows `exact` and `coarse`: the peer's time for forward and backward over ours."""
    reach, aim = (30, 60) if side == "exact" else (2, 4)
    for (width, depth, n_tokens), kind in itertools.product(shapes, ("memory", "layer")):
        torch.manual_seed(0)
        x = tokens(width, n_tokens)
        sides = {"ours": ours(kind, width, depth), "peer": peer(kind, width, depth, is_exact=side == "exact")}
        found = alternate(
            {name: functools.partial(train_step, module, x) for name, module in sides.items()}, seconds=seconds
        )
        ratio = found["peer"]["min_s"] / found["ours"]["min_s"]
        yield Result(
            row=side, case=_case(kind, width, depth, n_tokens), found=ratio, details=found, **_demand(kind, reach, aim)
        )


def compiled(shapes: Sequence[Shape], seconds: float) -> Iterator[Result]:
    """Row `native`: time of the dual form in calls of torch over that of the compiled one."""
    for width, depth, n_tokens in shapes if native.IS_COMPILED else ():
        torch.manual_seed(0)
        x = tokens(width, n_tokens)
        sides = {
            name: functools.partial(train_step, ours("memory", width, depth, name), x) for name in ("native", "chunked")
        }
        found = alternate(sides, seconds=seconds)
        ratio = found["chunked"]["min_s"] / found["native"]["min_s"]
        yield Result(row="native", case=_case("memory", width, depth, n_tokens), found=ratio, details=found)


def training_peak_bytes(side: Side, kind: Kind, width: int, depth: int, n_tokens: int) -> int:
    """Peak memory of forward and backward; for a process of its own."""
    use_one_thread()
    torch.manual_seed(0)
    module = ours(kind, width, depth) if side == "ours" else peer(kind, width, depth, is_exact=side == "exact")
    train_step(module, tokens(width, CHUNK))
    return peak_growth_bytes(functools.partial(train_step, module, tokens(width, n_tokens)))


def peaks(shapes: Sequence[Shape]) -> Iterator[Result]:
    """Row `peak`: the exact mode's peak memory over ours."""
    for (width, depth, n_tokens), kind in itertools.product(shapes, ("memory", "layer")):
        shape = {"kind": kind, "width": width, "depth": depth, "n_tokens": n_tokens}
        sides: tuple[Side, ...] = ("ours", "exact")
        found = {f"{side}_bytes": in_fresh_process(training_peak_bytes, side=side, **shape) for side in sides}
        ratio = found["exact_bytes"] / found["ours_bytes"]
        yield Result(row="peak", case=_case(**shape), found=ratio, details=found, **_demand(kind, 15, 30))


def scaling(shapes: Sequence[Shape], short: int, seconds: float) -> Iterator[Result]:
    """Row `scaling`: tokens per second of long calls over those of `short` ones, for as many tokens."""
    for (width, depth, n_tokens), kind in itertools.product(shapes, ("memory", "layer")):
        torch.manual_seed(0)
        module, x = ours(kind, width, depth), tokens(width, n_tokens)
        pieces = x.split(short, dim=1)

        def in_pieces(module: nn.Module = module, pieces: tuple[Tensor, ...] = pieces) -> None:
            for piece in pieces:
                train_step(module, piece)

        found = alternate({"long": functools.partial(train_step, module, x), "short": in_pieces}, seconds=seconds)
        ratio = found["short"]["min_s"] / found["long"]["min_s"]
        rates = {f"{name}_tokens_per_s": n_tokens / times["min_s"] for name, times in found.items()}
        case = f"{_case(kind, width, depth, n_tokens)} over T {short:,}"
        yield Result(row="scaling", case=case, found=ratio, details=found | rates, **_demand(kind, 0.9, 1.0))


@torch.no_grad()
def feed(module: nn.Module, width: int, n_tokens: int, call_tokens: int, state: Any = None, *, batch: int = 1) -> Any:
    """Stream random tokens through a module, drop what it gives out, and return its state."""
    for start in range(0, n_tokens, call_tokens):
        state = module(tokens(width, min(call_tokens, n_tokens - start), batch), state)[1]
    return state


def stream_bytes(
    kind: Kind, width: int, depth: int, n_tokens: int, call_tokens: int, n_streams: int = 1
) -> dict[str, int]:
    """Peak memory of streams, one after the other, and what the last's state keeps alive; for a process of its own."""
    use_one_thread()
    torch.manual_seed(0)
    module = ours(kind, width, depth)
    feed(module, width, 64 * call_tokens, call_tokens, batch=STREAM_BATCH)
    state: Any = None

    def stream() -> None:
        nonlocal state
        for _ in range(n_streams):
            state = None
            state = feed(module, width, n_tokens, call_tokens, batch=STREAM_BATCH)

    peak = peak_growth_bytes(stream)
    # In an open chunk the state holds a reference more: compare where no chunk is open.
    state = feed(module, width, -n_tokens % CHUNK, CHUNK, state, batch=STREAM_BATCH)
    return {"peak_bytes": peak, "state_bytes": sum(_storages(state).values())}


def _storages(state: Any) -> dict[int, int]:
    """Bytes of every storage that a state refers to, also by a view of a small part of it."""
    if isinstance(state, Tensor):
        return {state.untyped_storage().data_ptr(): state.untyped_storage().nbytes()}
    if dataclasses.is_dataclass(state):
        state = [getattr(state, field.name) for field in dataclasses.fields(state)]
    parts = state if isinstance(state, list | tuple) else ()
    return {place: n_bytes for part in parts for place, n_bytes in _storages(part).items()}


def stream_memory(shape: Shape, short: int, call_tokens: int) -> Iterator[Result]:
    """Row `stream`: memory of a long stream over that of a short one."""
    width, depth, n_tokens = shape
    for kind in ("memory", "layer"):
        options: dict[str, Any] = {"kind": kind, "width": width, "depth": depth, "call_tokens": call_tokens}
        # Short streams over and over: the greatest of as many calls, since calls differ a little.
        late, early = (
            in_fresh_process(
                stream_bytes, environment=UNPOOLED_HEAP, n_tokens=n, n_streams=max(1, n_tokens // n), **options
            )
            for n in (n_tokens, short)
        )
        for name in ("peak", "state"):
            yield Result(
                row="stream",
                case=f"{name} memory, {_case(kind, width, depth, n_tokens)} over T {short:,}",
                found=late[f"{name}_bytes"] / early[f"{name}_bytes"],
                reach=1.0,
                is_lower_better=True,
                note=f"{STREAM_BATCH} items, calls of {call_tokens} tokens",
                details={"late": late, "early": early},
            )


def token_time(shape: Shape, short: int, n_chunks: int = 10) -> Iterator[Result]:
    """Row `token`: time of a token in a call of its own, late in a stream over early in it."""
    width, depth, n_tokens = shape
    for kind in ("memory", "layer"):
        torch.manual_seed(0)
        module = ours(kind, width, depth)
        states = {"early": feed(module, width, short, 8_000), "late": feed(module, width, n_tokens, 8_000)}
        # Whole chunks, from a chunk's start: both go through the same places of a chunk.
        states = {
            name: feed(module, width, -n % CHUNK, CHUNK, states[name])
            for name, n in (("early", short), ("late", n_tokens))
        }
        found = _interleaved(module, states, tokens(width, (n_chunks + 1) * CHUNK))
        yield Result(
            row="token",
            case=f"{_case(kind, width, depth, n_tokens)} over T {short:,}",
            found=found["late"]["median_s"] / found["early"]["median_s"],
            reach=1.05,
            is_lower_better=True,
            note="medians",
            details=found,
        )


@torch.no_grad()
def _interleaved(module: nn.Module, states: dict[str, Any], x: Tensor) -> dict[str, dict[str, float]]:
    """Times of single tokens, the states in turns and each first as often as second; the first chunk is a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in states}

    def step(name: str, token: Tensor) -> None:
        _, states[name] = module(token, states[name])

    for i, token in enumerate(x.split(1, dim=1)):
        for name in list(states)[:: 1 if i % 2 else -1]:
            seconds = cpu_seconds(functools.partial(step, name, token))
            if i >= CHUNK:
                times[name].append(seconds)
    return {name: summary(series) for name, series in times.items()}


def multiply_adds(width: int, depth: int, n_tokens: int) -> float:
    """Multiply-adds of the dual form's matrix products, forward and backward, for one item.

    Per token and head, with ``P`` the sum of ``d_in d_out`` over the layers, ``P'`` the same without the first layer:
    ``P`` for the keys' way up and ``P'`` for the errors' way down, ``2 P`` to write into weights and momentum, ``2 P``
    to read from both, and ``C (d_in + d_out)`` per layer for the products inside a chunk. Backward takes each product
    twice. Not counted: gates, what is computed again, and that half of a chunk's square lies above the diagonal.
    """
    shapes = [weight.shape for weight in initial_weights(width // HEADS, depth)]
    products = [d_out * d_in for d_out, d_in in shapes]
    forward = 5 * sum(products) + sum(products[1:]) + CHUNK * sum(d_out + d_in for d_out, d_in in shapes)
    return 3 * forward * HEADS * n_tokens


def gpu(sizes: tuple[int, int, int], seconds: float, width: int = 384, depth: int = 1) -> Iterator[Result]:
    """Row `gpu`: the fused kernel against the same dual form in eager kernels, against the card, and on one stream."""
    batch, n_tokens, long = sizes
    shape = f"bf16, width {width}, L {depth}"
    cases = {
        "ratio": f"triton over chunked, {shape}, B*H {batch * HEADS}, T {n_tokens:,}",
        "share": f"share of the measured matrix rate, {shape}, B*H {batch * HEADS}, T {n_tokens:,}",
        "rate": f"forward tokens/s, {shape}, B 1, T {long:,}",
    }
    if not torch.cuda.is_available():
        yield from (Result(row="gpu", case=case, found=None, note="no GPU") for case in cases.values())
        return
    torch.manual_seed(0)
    sides = {name: _GpuScan(width, depth, batch, n_tokens, name) for name in ("triton", "chunked")}
    error = difference([sides["triton"].outputs().float()], [sides["chunked"].outputs().float()])
    if not error < 0.02:
        raise BenchmarkError(f"triton and chunked differ by {error:.1e} in bf16, allowed are 2e-2. Nothing is timed.")
    found = alternate(sides, seconds=seconds, min_rounds=10, clock=cuda_seconds)
    found["matrix_product"] = _matrix_product_times(seconds)
    rate = 2 * _MATRIX**3 / found["matrix_product"]["min_s"]
    flops = 2 * multiply_adds(width, depth, n_tokens) * batch / found["triton"]["min_s"]
    metadata = {"error": error, "matrix_tflops": rate / 1e12, "tflops": flops / 1e12}
    ratio = found["chunked"]["min_s"] / found["triton"]["min_s"]
    yield Result(row="gpu", case=cases["ratio"], found=ratio, reach=10, details=found)
    note = f"of {rate / 1e12:.0f} TFLOP/s"
    yield Result(row="gpu", case=cases["share"], found=flops / rate, aim=0.25, note=note, details=metadata)
    single = {name: _GpuScan(width, depth, 1, long, name).outputs for name in ("triton", "chunked")}
    found = alternate(single, seconds=seconds, clock=cuda_seconds)
    rates = {name: long / times["min_s"] for name, times in found.items()}
    note = f"chunked: {rates['chunked']:,.0f}"
    yield Result(row="gpu", case=cases["rate"], found=rates["triton"], reach=10e6, aim=25e6, note=note, details=found)


_MATRIX = 8192


def _matrix_product_times(seconds: float) -> dict[str, float]:
    a, b = (torch.randn(_MATRIX, _MATRIX, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return alternate({"product": lambda: a @ b}, seconds=seconds, min_rounds=10, clock=cuda_seconds)["product"]


class _GpuScan:
    """`memory_scan` alone on given streams; called, it runs forward and backward."""

    def __init__(self, width: int, depth: int, batch: int, n_tokens: int, backend: str, device: str = "cuda") -> None:
        torch.manual_seed(0)
        self.backend = backend
        unit = F.normalize(torch.randn(3, batch, HEADS, n_tokens, width // HEADS), dim=-1)
        alpha, eta, theta = torch.rand(3, batch, HEADS, n_tokens)
        # Steps that keep a chunk's gradients, all taken at one reference, from adding up to more than the error.
        gates = (0.1 * alpha, 0.9 * eta, theta * (1 - 0.9 * eta) / (2 * CHUNK))
        self.streams = [part.to(device, torch.bfloat16).requires_grad_() for part in (*unit, *gates)]
        weights = (weight.expand(HEADS, -1, -1).to(device) for weight in initial_weights(width // HEADS, depth))
        self.weights = tuple(weight.clone().requires_grad_() for weight in weights)

    def _scan(self) -> Tensor:
        state = init_state(self.weights, len(self.streams[0]))
        return memory_scan(*self.streams, state, chunk_size=CHUNK, backend=self.backend)[0]

    @torch.no_grad()
    def outputs(self) -> Tensor:
        """Forward alone."""
        return self._scan()

    def __call__(self) -> None:
        y = self._scan()
        torch.autograd.grad(y, [*self.streams, *self.weights], torch.ones_like(y))


def measurements(sizes: Sizes) -> dict[str, Callable[[], Iterator[Result]]]:
    """The table's rows by name; nothing is measured before its results are asked for."""
    return {
        "exact": lambda: against_peer(sizes.exact, "exact", sizes.seconds),
        "coarse": lambda: against_peer(sizes.coarse, "coarse", sizes.seconds),
        "native": lambda: compiled(sizes.coarse, sizes.seconds),
        "peak": lambda: peaks(sizes.peak),
        "scaling": lambda: scaling(sizes.scaling, sizes.short, sizes.seconds),
        "stream": lambda: stream_memory(sizes.stream, sizes.short_stream, sizes.call_tokens),
        "token": lambda: token_time(sizes.stream, sizes.short_stream),
        "gpu": lambda: gpu(sizes.gpu, sizes.seconds),
    }


ROWS = tuple(measurements(SMALL))


def measure(sizes: Sizes, rows: Sequence[str] = ROWS) -> tuple[list[Result], dict[str, float]]:
    """Pass the gate, then measure.

    Returns
    -------
    results : list of Result
    errors : dict
        What the gate found, per width and depth; empty where the GPU alone is measured, which has a gate of its own.
    """
    use_one_thread()
    shapes = sorted({shape[:2] for shape in (*sizes.exact, *sizes.coarse, *sizes.peak)}) if set(rows) - {"gpu"} else []
    errors = {f"width {width}, L {depth}": check_same_numbers(width, depth) for width, depth in shapes}
    warm_heap()
    results = []
    for row in rows:
        for result in measurements(sizes)[row]():
            print(" | ".join(result.cells()), file=sys.stderr, flush=True)
            results.append(result)
    return results, errors


def main(argv: Sequence[str] | None = None, sizes: Sizes | None = None) -> int:
    """Run the benchmark and return its exit code; `sizes` overrides what the arguments say of them."""
    arguments = _parse(argv)

    def run() -> tuple[list[Result], dict[str, Any]]:
        results, errors = measure(sizes or (FULL if arguments.full else SMALL), arguments.rows)
        return results, {
            "how": f"one thread, processor time, float32, C {CHUNK}, {HEADS} heads, expansion {EXPANSION}, no clamp; "
            "sides in turns, garbage collection off, heap warmed; ratios of minima, above 1 in our favor",
            "backend": "native" if native.IS_COMPILED else "chunked",
            "gate": errors,
        }

    packages = ("titans-pytorch", "triton")
    return run_benchmark("Speed and memory of the neural memory", arguments.output, run, argv, packages)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and memory of the neural memory, against its peer and itself.")
    parser.add_argument("--full", action="store_true", help="measure everything; by default a small part")
    parser.add_argument(
        "--rows", type=_rows, default=ROWS, metavar="ROW,...", help=f"what to measure, of {', '.join(ROWS)}"
    )
    parser.add_argument(
        "--output",
        type=_json_path,
        default=Path(__file__).parent / "results" / "memory_speed.json",
        metavar="FILE",
        help="JSON file to write, with a Markdown page beside it (default: results/memory_speed.json)",
    )
    return parser.parse_args(argv)


def _rows(text: str) -> tuple[str, ...]:
    unknown = set(text.split(",")) - set(ROWS)
    if unknown:
        raise argparse.ArgumentTypeError(f"expected rows of {', '.join(ROWS)}, found {', '.join(sorted(unknown))}")
    return tuple(text.split(","))


def _json_path(text: str) -> Path:
    if not text.endswith(".json"):
        raise argparse.ArgumentTypeError(f"expected a name that ends in .json, found {text}")
    return Path(text)


if __name__ == "__main__":
    sys.exit(main())
