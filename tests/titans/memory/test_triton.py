"""The fused kernels against the definition: interpreted on a CPU, compiled on a GPU."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from titan_neuro.errors import ConfigError
from titan_neuro.titans.memory import init_state, memory_scan
from titan_neuro.titans.memory.tokens import Tokens

pytest.importorskip("triton", reason="triton comes with the extra [dev]")
from titan_neuro.titans.memory.triton import triton_scan

SLOW = pytest.mark.slow
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# Whole chunks, a call shorter than a chunk, and a last chunk that stays open with one token or lacks one.
LENGTHS = [(1, 1), (7, 6), (7, 22), (16, 17)]
LENGTHS += [pytest.param(*pair, marks=SLOW) for pair in ((1, 4), (16, 63), (64, 1), (64, 63), (64, 65), (64, 128))]


def leaf(tensor, dtype):
    return tensor.detach().to(DEVICE, dtype).requires_grad_()


def scan(stream, cuts=(), chunk_size=16, max_delta_norm=None):
    """What `Stream.scan` gives, by the kernels."""
    state, outputs = stream.state, []
    for start, stop in itertools.pairwise([0, *cuts, stream.tokens[0].shape[2]]):
        tokens = Tokens(*(x[:, :, start:stop] for x in stream.tokens))
        output, state = triton_scan(tokens, state, chunk_size, max_delta_norm)
        outputs.append(output)
    return [torch.cat(outputs, dim=2), *state.weights, *state.momentum, *state.reference]


def with_gradients(stream, results):
    generator = torch.Generator().manual_seed(1)
    towards = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.device) for r in results]
    loss = sum((r * w).sum() for r, w in zip(results, towards, strict=True))
    return [x.detach().cpu().double() for x in (*results, *torch.autograd.grad(loss, stream.leaves))]


def worst(computed, expected):
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-3)) for a, b in zip(computed, expected, strict=True)
    )


@pytest.fixture
def make(make_stream):
    """As `make_stream`, on the device; `dims` (key, hidden, value) for widths that are no power of two, nor equal.

    One item, because the interpreter runs one program after the other.
    """

    def make_on_device(depth, n_tokens, dtype=torch.float64, chunk_size=16, dims=None, batch=1):
        stream = make_stream(depth, n_tokens, chunk_size=chunk_size)
        tokens, weights, momentum = stream.tokens, stream.weights, stream.momentum
        if dims:
            key, hidden, value = dims
            generator = torch.Generator().manual_seed(5)

            def randn(*shape):
                return torch.randn(2, 2, *shape, generator=generator, dtype=torch.float64)

            widths = [key] + [hidden] * (depth - 1) + [value]
            shapes = list(zip(widths[1:], widths[:-1], strict=True))
            queries, keys = (F.normalize(randn(n_tokens, key), dim=-1) for _ in range(2))
            tokens = (queries, keys, randn(n_tokens, value), *tokens[3:])
            weights = [randn(*shape) * shape[1] ** -0.5 for shape in shapes]
            momentum = [0.01 * randn(*shape) for shape in shapes]
        return type(stream)(*(tuple(leaf(x[:batch], dtype) for x in part) for part in (tokens, weights, momentum)))

    return make_on_device


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(("chunk_size", "n_tokens"), LENGTHS)
def test_kernels_equal_naive_in_float64(make, depth, chunk_size, n_tokens):
    stream = make(depth, n_tokens, chunk_size=chunk_size)
    # A clamp that acts on some tokens only; its value is not exact in float32.
    options = {"chunk_size": chunk_size, "max_delta_norm": 2.1 if n_tokens % 2 else None}
    expected = with_gradients(stream, stream.scan(backend="naive", **options))
    assert worst(with_gradients(stream, scan(stream, **options)), expected) < 1e-10


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("max_delta_norm", [pytest.param(None, marks=SLOW), 8.3])
def test_any_widths_work(make, depth, max_delta_norm):
    # Two tiles of values, the second not full, and two of hidden units.
    stream = make(depth, 20, dims=(5, 48, 40), batch=2)
    options = {"chunk_size": 16, "max_delta_norm": max_delta_norm}
    expected = with_gradients(stream, stream.scan(backend="naive", **options))
    assert worst(with_gradients(stream, scan(stream, **options)), expected) < 1e-10


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    ("chunk_size", "n_tokens"),
    [(7, 9), *(pytest.param(*pair, marks=SLOW) for pair in ((1, 4), (7, 22), (16, 100), (64, 65)))],
)
def test_kernels_equal_naive_in_float32(make, depth, chunk_size, n_tokens):
    exact = make(depth, n_tokens, chunk_size=chunk_size)
    expected = with_gradients(exact, exact.scan(backend="naive", chunk_size=chunk_size))
    stream = make(depth, n_tokens, dtype=torch.float32, chunk_size=chunk_size)
    assert worst(with_gradients(stream, scan(stream, chunk_size=chunk_size)), expected) < 1e-4


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=SLOW)])
def test_half_precision_streams_keep_a_float32_state(make, depth, dtype):
    stream = make(depth, 18, dtype=torch.float32, dims=(20, 40, 20))
    stream.tokens = tuple(leaf(x, dtype) for x in stream.tokens)
    exact = type(stream)(*(tuple(leaf(x, torch.float64) for x in part) for part in vars(stream).values()))
    expected = with_gradients(exact, exact.scan(backend="naive", chunk_size=16))
    results = scan(stream)
    gradients = torch.autograd.grad(results[0].float().sum(), stream.leaves, retain_graph=True)
    assert [x.dtype for x in (results[0], *gradients[:6])] == [dtype] * 7
    assert results[1].dtype == torch.float32
    assert worst(with_gradients(stream, results), expected) < 2e-2


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    ("alpha", "eta"),
    [
        (0.0, 1.0),
        (1.0, 0.0),
        ("mixed", 1.0),
        pytest.param(0.0, 0.0, marks=SLOW),
        pytest.param(1.0, 1.0, marks=SLOW),
        pytest.param(1e-7, 1 - 1e-7, marks=SLOW),
        pytest.param(1 - 1e-7, 1e-7, marks=SLOW),
        pytest.param("mixed", 0.0, marks=SLOW),
    ],
)
def test_gates_at_their_limits_are_exact(make, depth, alpha, eta):
    stream = make(depth, 20)
    stream.fill_gates(alpha, eta)
    expected = with_gradients(stream, stream.scan(backend="naive", chunk_size=16))
    computed = with_gradients(stream, scan(stream))
    assert all(x.isfinite().all() for x in computed)
    assert worst(computed, expected) < 1e-10


@pytest.mark.parametrize("depth", [1, 2])
# Within one chunk and over several; calls of one token, and of just a chunk.
@pytest.mark.parametrize("cuts", [(3, 5, 20), pytest.param((1, 2, 16, 32), marks=SLOW)])
def test_a_stream_may_be_cut_anywhere(make, depth, cuts):
    stream = make(depth, cuts[-1] + 3)
    expected = with_gradients(stream, scan(stream, max_delta_norm=2.1))
    assert worst(with_gradients(stream, scan(stream, cuts=cuts, max_delta_norm=2.1)), expected) < 1e-12


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    ("n_tokens", "chunk_size"), [(40, 16), pytest.param(48, 16, marks=SLOW), pytest.param(5, 16, marks=SLOW)]
)
def test_results_are_the_same_without_gradients(make, depth, n_tokens, chunk_size):
    stream = make(depth, n_tokens, dtype=torch.float32)
    expected = scan(stream, chunk_size=chunk_size)
    with torch.no_grad():
        computed = scan(stream, chunk_size=chunk_size)
    assert not any(x.requires_grad for x in computed[: 1 + 2 * depth])
    assert all(torch.equal(a, b) for a, b in zip(computed, expected, strict=True))


@pytest.mark.parametrize("depth", [1, 2])
def test_gradients_of_some_inputs_only(make, depth):
    stream = make(depth, 20)
    loss = scan(stream)[0].square().sum()
    expected = torch.autograd.grad(loss, [stream.tokens[4], stream.weights[0]])
    for tensor in stream.leaves:
        tensor.requires_grad_(tensor is stream.tokens[4] or tensor is stream.weights[0])
    scan(stream)[0].square().sum().backward()
    assert torch.equal(stream.tokens[4].grad, expected[0])
    assert torch.equal(stream.weights[0].grad, expected[1])
    assert stream.tokens[0].grad is None


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("position", [15, 16, *(pytest.param(n, marks=SLOW) for n in (0, 30))])
def test_later_tokens_change_no_earlier_output(make, depth, position):
    stream = make(depth, 40, dtype=torch.float32)
    with torch.no_grad():
        before = scan(stream)[0]
        for tensor in stream.tokens:
            tensor[:, :, position] = 0.3
        after = scan(stream)[0]
    assert torch.equal(before[:, :, :position], after[:, :, :position])
    assert not torch.equal(before[:, :, position:], after[:, :, position:])


@pytest.mark.parametrize("depth", [1, 2])
def test_items_do_not_affect_each_other(make, depth):
    stream = make(depth, 40, dtype=torch.float32, batch=2)
    with torch.no_grad():
        before = scan(stream)
        for tensor in stream.leaves:
            tensor[0] = tensor[0].flip(0) * 0.5
        after = scan(stream)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(before, after, strict=True))
    assert not torch.equal(before[0][0], after[0][0])


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(("n_calls", "length"), [(2, 192), pytest.param(4, 5_000, marks=SLOW)])
def test_a_long_stream_stays_bounded(depth, n_calls, length):
    torch.manual_seed(depth)
    chunk_size, dim = 64, 4
    widths = [dim] + [2 * dim] * (depth - 1) + [dim]
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    state = init_state(tuple(torch.randn(2, *shape) * shape[1] ** -0.5 for shape in shapes), 1).to(DEVICE)
    for call in range(n_calls):
        keys = F.normalize(torch.randn(1, 2, length, dim), dim=-1)
        # By head: the largest step and momentum, at times with one key and nothing forgotten; random gates, or jumping.
        alpha, eta, theta = torch.rand(3, 1, 2, length)
        alpha[:, 0], eta[:, 0], theta[:, 0] = 1e-4, 1.0, 1.0
        if call % 2:
            keys[:, 0], alpha[:, 0] = keys[:, 0, :1], 0.0
            alpha[:, 1], eta[:, 1], theta[:, 1] = (torch.rand(3, 1, length) > 0.5).float() * 0.999
        eta = 0.9 * eta
        theta = theta * (1 - eta) * 1.5 / (2 * chunk_size)
        values = 10 * torch.randn(1, 2, length, dim)
        tokens = Tokens(*(x.to(DEVICE) for x in (keys, keys, values, alpha, eta, theta)))
        outputs, state = triton_scan(tokens, state, chunk_size, 10.0)
        assert outputs.isfinite().all()
        assert outputs.abs().max() < 1e3
    assert all(w.abs().max() < 1e3 for w in (*state.weights, *state.momentum))


def test_calls_beyond_the_kernels_are_refused(make):
    with pytest.raises(ConfigError, match=r"depth: expected 1 or 2 layers, found 3, with the triton backend"):
        scan(make(3, 5))
    with pytest.raises(ConfigError, match=r"chunk_size: expected at most 64 tokens, found 65"):
        scan(make(1, 5), chunk_size=65)
    with pytest.raises(ConfigError, match=r"keys, values: expected a width of at most 128, found 130"):
        scan(make(2, 5, dims=(4, 8, 130)))


# In a process of its own, because here Triton interprets. Each kernel as `_launch` would have it compiled.
COMPILE = """
import torch
import triton
from triton.backends.compiler import GPUTarget
from titan_neuro.titans.memory import triton as scan

def compile_for_hopper(kernel, depth, dtype, dim=96, chunk_size=64):
    names = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}
    call = scan._Call(depth, 8, 0, chunk_size, 10.0, False, True)
    streams = [torch.empty(1, 1, 512, *last, dtype=dtype, device="meta") for last in [(dim,)] * 3 + [()] * 3]
    widths = [dim] + [2 * dim] * (depth - 1) + [dim]
    states = [torch.empty(1, 1, 9, 2, out, into, device="meta") for into, out in zip(widths, widths[1:])]
    constants = scan._constants(call, streams, states)
    absent = {name: None for name in kernel.arg_names if name.startswith("d_last")}
    signature = {}
    for name in kernel.arg_names:
        in_state_type = "reference" in name or "states" in name or name == "scratch"
        signature[name] = "*fp32" if in_state_type else names[dtype]
    signature |= {name: "i32" for name in ("n_tokens", "position", "chunk_size", "n_chunks", "n_slots")}
    signature |= {name: "constexpr" for name in (constants | absent)}
    signature = {name: signature[name] for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind[0] == "*"}
    source = triton.compiler.ASTSource(kernel, signature, constants | absent, aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=scan._OPTIONS)

for depth in (1, 2):
    for dtype in (torch.bfloat16, torch.float32):
        for kernels in (scan._FORWARD, scan._BACKWARD):
            compiled = compile_for_hopper(kernels[depth], depth, dtype)
            print(compiled.name, compiled.metadata.shared)
"""


@pytest.mark.slow
def test_kernels_compile_for_hopper(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=True, timeout=1200
    )
    kernels = [line.split() for line in done.stdout.splitlines()]
    assert len(kernels) == 8
    assert all(int(shared) <= 227 * 1024 for _, shared in kernels), kernels


def test_memory_scan_accepts_the_backend(make_stream):
    stream = make_stream(2, 20, dtype=torch.float32)
    tokens, state = [leaf(x, torch.float32) for x in stream.tokens], stream.state.to(DEVICE)
    outputs, after = memory_scan(*tokens, state, chunk_size=16, backend="triton")
    expected, expected_after = memory_scan(*tokens, state, chunk_size=16, backend="chunked")
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.weights, expected_after.weights, rtol=1e-4, atol=1e-5)
