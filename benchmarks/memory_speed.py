"""How fast the memory is: against titans-pytorch, on a long stream against a short one, and on a GPU.

    python benchmarks/memory_speed.py              # a small part, in about a minute
    python benchmarks/memory_speed.py --full       # everything
    python benchmarks/memory_speed.py --rows exact,peak

README.md beside this file says what each row is. Two kinds of comparison with the peer:

``memory``
    The peer's maps for queries, keys, values and output are replaced by identities and its gate after the read is off;
    the linear maps for the three gates stay, on both sides. What is demanded refers to this kind: the maps are the same
    matrix products on both sides and say nothing about the memory, but the wider a token, the more of the time is
    theirs, and the nearer to 1 they draw any ratio.
``layer``
    The layers as they are used, each with what it has around its memory (ours: convolutions and an output gate).

Before anything is timed, both kinds of memory compute the same in float64, or the run stops.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import itertools
import sys
import warnings
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
    provenance,
    summary,
    table,
    use_one_thread,
    warm_heap,
    write_results,
)
from torch import Tensor, nn

from titan_neuro.errors import TitanNeuroError
from titan_neuro.ops.neural_memory import MemoryState, init_state, memory_scan

HEADS, CHUNK, EXPANSION, MAX_STEP = 4, 64, 2, 0.01
TOLERANCE = 1e-10
STREAM_BATCH = 8
"""Streams side by side where memory is measured: enough that one page more or less does not count."""
Kind = Literal["memory", "layer"]
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
    short_stream: int = 1_000
    call_tokens: int = 500
    gpu: tuple[int, int, int] = (33, 4_096, 80_000)
    seconds: float = 2.0


SMALL = Sizes(
    exact=((384, 1, 512), (128, 2, 512)),
    coarse=((128, 1, 512), (384, 1, 512), (128, 2, 512), (384, 2, 512)),
    peak=((128, 2, 512),),
    scaling=((128, 1, 8_192),),
    stream=(128, 2, 20_000),
    seconds=1.0,
)
_WIDTHS, _DEPTHS = (128, 256, 384), (1, 2)
FULL = Sizes(
    exact=tuple((*shape, n) for shape in ((384, 1), (128, 2)) for n in (512, 2_048)),
    coarse=tuple(itertools.product(_WIDTHS, _DEPTHS, (512, 2_048, 8_192))),
    peak=((128, 2, 512), (384, 2, 512)),
    scaling=tuple(itertools.product(_WIDTHS, _DEPTHS, (8_192,))),
    stream=(128, 2, 1_000_000),
    seconds=6.0,
)


class SiluMLP(nn.Module):
    """The paper's memory, in the form that titans-pytorch takes; its own has GELU."""

    def __init__(self, head_dim: int, depth: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(_initial_weights(head_dim, depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer, weight in enumerate(self.weights):
            x = (F.silu(x) if layer else x) @ weight.mT
        return x


class Memory(nn.Module):
    """Our memory with the linear maps of its gates; a token's shares are its heads' queries, keys and values alike."""

    def __init__(self, width: int, depth: int, backend: str = "chunked") -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            weight.expand(HEADS, -1, -1).clone() for weight in _initial_weights(width // HEADS, depth)
        )
        self.gates = nn.Linear(width, 3 * HEADS)
        self.maps = nn.ModuleList(nn.Identity() for _ in range(3))
        self.backend = backend

    def copy_from(self, peer: nn.Module) -> Memory:
        """Take over the parameters and the maps of a `titans_pytorch.NeuralMemory`."""
        linears = [gate[0] for gate in (peer.to_decay_factor, peer.to_momentum, peer.to_adaptive_step)]
        with torch.no_grad():
            self.gates.weight.copy_(torch.cat([linear.weight for linear in linears]))
            self.gates.bias.copy_(torch.cat([linear.bias for linear in linears]))
            for mine, theirs in zip(self.weights, peer.memory_model_parameters, strict=True):
                mine.copy_(theirs)
        self.maps = nn.ModuleList(copy.deepcopy(part) for part in (peer.to_queries, peer.to_keys, peer.to_values))
        return self

    def forward(self, x: Tensor, state: MemoryState | None = None) -> tuple[Tensor, MemoryState]:
        """``(batch, tokens, width)`` to the same, and the memory after it."""
        state = init_state(tuple(self.weights), len(x)) if state is None else state
        streams = (part(x).view(*x.shape[:2], HEADS, -1).transpose(1, 2) for part in self.maps)
        alpha, eta, theta = self.gates(x).sigmoid().mT.chunk(3, dim=1)
        y, state = memory_scan(*streams, alpha, eta, MAX_STEP * theta, state, chunk_size=CHUNK, backend=self.backend)
        return y.transpose(1, 2).flatten(2), state


def _initial_weights(head_dim: int, depth: int) -> list[Tensor]:
    widths = [head_dim] + [EXPANSION * head_dim] * (depth - 1) + [head_dim]
    return [torch.randn(d_out, d_in) * d_in**-0.5 for d_in, d_out in itertools.pairwise(widths)]


def ours(kind: Kind, width: int, depth: int) -> nn.Module:
    """Our side of a comparison: a module from ``(batch, tokens, width)`` and a state to the same."""
    if kind == "memory":
        return Memory(width, depth)
    # Where only the memory is measured, as on a bare GPU machine, its layer's dependencies need not be there.
    from titan_neuro.layers.neural_memory import NeuralMemoryConfig

    config = NeuralMemoryConfig(
        n_heads=HEADS, depth=depth, expansion=EXPANSION, chunk_frames=CHUNK, max_delta_norm=None, backend="chunked"
    )
    return config.build(dim=width, tokens_per_frame=1)


def peer(kind: Kind, width: int, depth: int, *, is_exact: bool) -> nn.Module:
    """titans-pytorch's side: its exact mode, which is our mathematics, or the coarser one that it is mostly used in.

    Raises
    ------
    BenchmarkError
        It is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from titans_pytorch import NeuralMemory
    except ImportError as error:
        raise BenchmarkError("titans-pytorch, the peer, is not installed.", "pip install -e '.[dev]'") from error
    module: nn.Module = NeuralMemory(
        dim=width,
        heads=HEADS,
        dim_head=width // HEADS,
        chunk_size=1 if is_exact else CHUNK,
        batch_size=CHUNK,
        model=SiluMLP(width // HEADS, depth),
        mem_model_norm_add_residual=False,
        pre_rmsnorm=kind == "layer",
        store_memory_loss_fn=lambda prediction, target: (prediction - target).square().sum(-1),
        default_step_transform_max_lr=MAX_STEP,
    )
    if kind == "memory":
        _without_maps(module)
        module.to_queries, module.to_keys, module.to_values = (nn.Identity() for _ in range(3))
    return module


def _without_maps(module: nn.Module) -> None:
    """Leave the heads as they are read: no gate, no map behind them."""
    module.combine_heads, module.retrieve_gate = nn.Identity(), None


def tokens(width: int, n_tokens: int, batch: int = 1) -> Tensor:
    """Random tokens, small enough for a stable memory."""
    return torch.randn(batch, n_tokens, width) / 8


def train_step(module: nn.Module, x: Tensor) -> None:
    """Forward and backward, to the parameters and to the tokens."""
    module.zero_grad(set_to_none=True)
    y, _ = module(x.detach().requires_grad_())
    y.square().mean().backward()


def check_same_numbers(width: int, depth: int, n_tokens: int = 2 * CHUNK + 22) -> float:
    """The gate: on the peer's own parameters our memory gives the outputs and gradients of its exact mode.

    Both as they are timed, and with the peer's maps, which make queries, keys and values differ.

    Returns
    -------
    float
        Greatest error, relative to the largest number compared.

    Raises
    ------
    BenchmarkError
        It is above `TOLERANCE`.
    """
    torch.manual_seed(0)
    worst = 0.0
    for has_maps in (False, True):
        theirs = peer("memory", width, depth, is_exact=True)
        if has_maps:
            theirs.to_queries, theirs.to_keys, theirs.to_values = (nn.Linear(width, width, bias=False) for _ in "qkv")
        theirs = theirs.double()
        for weight in theirs.memory_model_parameters:
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
        mine = Memory(width, depth).double().copy_from(theirs)
        x = tokens(width, n_tokens).double()
        worst = max(worst, _difference(*(_outputs_and_gradients(side, x) for side in (mine, theirs))))
    if not worst < TOLERANCE:
        raise BenchmarkError(
            f"width {width}, L {depth}: outputs and gradients differ from titans-pytorch's by {worst:.1e}, allowed are "
            f"{TOLERANCE:.0e}. Nothing is timed.",
            "Is it titans-pytorch 0.5.5? Do the tests in tests/ops/neural_memory pass?",
        )
    return worst


def _outputs_and_gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y, _ = module(x)
    weights = getattr(module, "memory_model_parameters", None) or module.weights
    return [y, *torch.autograd.grad(y.square().mean(), [x, *weights])]


def _difference(mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    pairs = zip(mine, theirs, strict=True)
    # A NaN has to come out as one: `max` of Python would lose it.
    return torch.stack([(a - b).abs().max() / b.abs().max() for a, b in pairs]).max().item()


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


def stream_bytes(kind: Kind, width: int, depth: int, n_tokens: int, call_tokens: int) -> dict[str, int]:
    """Peak memory of a stream, and what its state keeps alive; for a process of its own."""
    use_one_thread()
    torch.manual_seed(0)
    module = ours(kind, width, depth)
    feed(module, width, 4 * call_tokens, call_tokens, batch=STREAM_BATCH)
    last: list[Any] = []
    peak = peak_growth_bytes(lambda: last.append(feed(module, width, n_tokens, call_tokens, batch=STREAM_BATCH)))
    # In an open chunk the state holds a reference more: compare where no chunk is open.
    state = feed(module, width, -n_tokens % CHUNK, CHUNK, last.pop(), batch=STREAM_BATCH)
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
        options = {"kind": kind, "width": width, "depth": depth, "call_tokens": call_tokens}
        late, early = (
            in_fresh_process(stream_bytes, environment=UNPOOLED_HEAP, n_tokens=n, **options) for n in (n_tokens, short)
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
    shapes = [weight.shape for weight in _initial_weights(width // HEADS, depth)]
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
    error = _difference([sides["triton"].outputs().float()], [sides["chunked"].outputs().float()])
    if not error < 0.02:
        raise BenchmarkError(f"triton and chunked differ by {error:.1e} in bf16, allowed are 2e-2. Nothing is timed.")
    found = alternate(sides, seconds=seconds, min_rounds=10, clock=cuda_seconds)
    found["matrix_product"] = _matrix_product_times(seconds)
    rate = 2 * _MATRIX**3 / found["matrix_product"]["min_s"]
    flops = 2 * multiply_adds(width, depth, n_tokens) * batch / found["triton"]["min_s"]
    facts = {"error": error, "matrix_tflops": rate / 1e12, "tflops": flops / 1e12}
    ratio = found["chunked"]["min_s"] / found["triton"]["min_s"]
    yield Result(row="gpu", case=cases["ratio"], found=ratio, reach=10, details=found)
    note = f"of {rate / 1e12:.0f} TFLOP/s"
    yield Result(row="gpu", case=cases["share"], found=flops / rate, aim=0.25, note=note, details=facts)
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
        weights = (weight.expand(HEADS, -1, -1).to(device) for weight in _initial_weights(width // HEADS, depth))
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
    facts = provenance(sys.argv[1:] if argv is None else argv, ("titans-pytorch", "triton"))
    try:
        results, errors = measure(sizes or (FULL if arguments.full else SMALL), arguments.rows)
        how = {
            "how": f"one thread, processor time, float32, C {CHUNK}, {HEADS} heads, expansion {EXPANSION}, no clamp; "
            "sides in turns, garbage collection off, heap warmed; ratios of minima, above 1 in our favour",
            "gate": errors,
        }
        write_results(arguments.output, "Speed and memory of the neural memory", results, facts | how)
    except TitanNeuroError as error:
        print(f"memory_speed: {error}", file=sys.stderr)
        return error.exit_code
    print(table(results))
    return 0


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
