"""The dual form against the definition, and the properties of streams that both have."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.titans.memory import init_state, memory_read, memory_scan

DUAL_FORMS = ("chunked", "native")
SLOW = pytest.mark.slow
LENGTHS = [(c, t) for c in (1, 7, 16, 64) for t in sorted({1, 63, 100, max(c - 1, 1), c, c + 1})]
# By default every length at depth 2, and every depth at three lengths.
SHAPES = [
    pytest.param(depth, *pair, marks=() if depth == 2 or pair in ((7, 63), (16, 17), (64, 65)) else SLOW)
    for depth in (1, 2, 3)
    for pair in LENGTHS
]


def error(computed: torch.Tensor, expected: torch.Tensor) -> float:
    return float((computed - expected).abs().max() / expected.abs().max().clamp(min=1e-3))


def worst(computed: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    return max(error(a, b) for a, b in zip(computed, expected, strict=True))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(("depth", "chunk_size", "n_tokens"), SHAPES)
def test_dual_forms_equal_naive_in_float64(make_stream, depth, chunk_size, n_tokens):
    stream = make_stream(depth, n_tokens, chunk_size=chunk_size)
    # A clamp that acts on some tokens only.
    options = {"chunk_size": chunk_size, "max_delta_norm": 2.0 if n_tokens % 2 else None}
    expected = stream.scan_with_gradients(backend="naive", **options)
    for backend in DUAL_FORMS:
        assert worst(stream.scan_with_gradients(backend=backend, **options), expected) < 1e-10


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("chunk_size", "n_tokens"), [(1, 17), (7, 63), (16, 100), (64, 65)])
def test_dual_forms_equal_naive_in_float32(make_stream, depth, chunk_size, n_tokens):
    stream = make_stream(depth, n_tokens, dtype=torch.float32, chunk_size=chunk_size)
    exact = make_stream(depth, n_tokens, chunk_size=chunk_size).scan_with_gradients(
        backend="naive", chunk_size=chunk_size
    )
    for backend in DUAL_FORMS:
        computed = stream.scan_with_gradients(backend=backend, chunk_size=chunk_size)
        assert worst([x.double() for x in computed], exact) < 1e-4


@pytest.mark.parametrize("depth", [pytest.param(1, marks=SLOW), 2])
@pytest.mark.parametrize("alpha", [0.0, 1e-7, 1 - 1e-7, 1.0, "mixed"])
@pytest.mark.parametrize("eta", [0.0, 1e-7, 1 - 1e-7, 1.0])
def test_gates_at_their_limits_are_exact(make_stream, depth, alpha, eta):
    stream = make_stream(depth, 37)
    stream.fill_gates(alpha, eta)
    expected = stream.scan_with_gradients(backend="naive", chunk_size=16)
    for backend in DUAL_FORMS:
        computed = stream.scan_with_gradients(backend=backend, chunk_size=16)
        assert all(x.isfinite().all() for x in computed)
        assert worst(computed, expected) < 1e-10


@pytest.mark.parametrize("backend", ["naive", *DUAL_FORMS])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, 39), max_size=6), chunk_size=st.sampled_from([1, 7, 16]))
def test_a_stream_may_be_cut_anywhere(make_stream, backend, cuts, chunk_size):
    stream = make_stream(2, 40)
    options = {"backend": backend, "chunk_size": chunk_size}
    expected = stream.scan_with_gradients(**options)
    assert worst(stream.scan_with_gradients(cuts=tuple(sorted(cuts)), **options), expected) < 1e-12


@pytest.mark.parametrize("backend", ["naive", *DUAL_FORMS])
@pytest.mark.parametrize("position", [0, 15, 16, 30])
def test_later_tokens_change_no_earlier_output(make_stream, backend, position):
    stream = make_stream(2, 40, dtype=torch.float32)
    options = {"backend": backend, "chunk_size": 16}
    before = stream.scan(**options)[0].detach()
    with torch.no_grad():
        for tensor in stream.tokens:
            tensor[:, :, position] = 0.3
    after = stream.scan(**options)[0].detach()
    assert torch.equal(before[:, :, :position], after[:, :, :position])
    assert not torch.equal(before[:, :, position:], after[:, :, position:])


@pytest.mark.parametrize("backend", DUAL_FORMS)
def test_items_do_not_affect_each_other(make_stream, backend):
    stream = make_stream(2, 40, dtype=torch.float32)
    before = [x.detach() for x in stream.scan(chunk_size=16, backend=backend)]
    with torch.no_grad():
        for tensor in stream.leaves:
            tensor[0] = tensor[0].flip(0) * 0.5
    after = stream.scan(chunk_size=16, backend=backend)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(before, after, strict=True))
    assert not torch.equal(before[0][0], after[0][0])


@pytest.mark.parametrize("backend", DUAL_FORMS)
@pytest.mark.parametrize(
    ("depth", "dtype"),
    [
        pytest.param(depth, dtype, marks=() if (depth, dtype) == (2, torch.float32) else SLOW)
        for depth in (1, 2, 3, 4)
        for dtype in (torch.float32, torch.bfloat16)
    ],
)
def test_a_hundred_thousand_tokens_stay_bounded(depth, dtype, backend):
    torch.manual_seed(depth)
    chunk_size, n_calls, length, dim = 64, 20, 5_000, 4
    widths = [dim] + [2 * dim] * (depth - 1) + [dim]
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    state = init_state(tuple(torch.randn(4, *shape) * shape[1] ** -0.5 for shape in shapes), 1)
    for _ in range(n_calls):
        keys = F.normalize(torch.randn(1, 4, length, dim), dim=-1)
        keys[:, 1] = keys[:, 1, :1]
        # By head: random gates; one key for ever, nothing forgotten; the largest step and momentum; gates that jump.
        alpha, eta, theta = torch.rand(3, 1, 4, length)
        alpha[:, 1], alpha[:, 2] = 0.0, 1e-4
        eta[:, 1:3], theta[:, 1:3] = 1.0, 1.0
        alpha[:, 3], eta[:, 3], theta[:, 3] = (torch.rand(3, 1, length) > 0.5).float() * 0.999
        eta = 0.9 * eta
        theta = theta * (1 - eta) * 1.5 / (2 * chunk_size)
        values = 10 * torch.randn(1, 4, length, dim)
        tokens = (part.to(dtype) for part in (keys, keys, values, alpha, eta, theta))
        outputs, state = memory_scan(*tokens, state, chunk_size=chunk_size, max_delta_norm=10.0, backend=backend)
        assert outputs[:, [0, 2, 3]].abs().max() < 100
        # Deeper than one layer, the largest steps at one key come in bursts, chaotic but none greater in the long run.
        # Without a bound the state is beyond this within a few hundred tokens.
        assert all(w.abs().max() < 1e6 for w in (*state.weights, *state.momentum))


@pytest.mark.parametrize("backend", DUAL_FORMS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_half_precision_tokens_are_within_two_percent(make_stream, depth, backend):
    stream = make_stream(depth, 300, dtype=torch.float32, chunk_size=64)
    rounded, exact = make_stream(depth, 300, chunk_size=64), make_stream(depth, 300, chunk_size=64)
    rounded.tokens = tuple(x.detach().bfloat16().requires_grad_() for x in rounded.tokens)
    rounded.weights, rounded.momentum = stream.weights, stream.momentum
    expected = exact.scan_with_gradients(chunk_size=64)
    computed = rounded.scan_with_gradients(chunk_size=64, backend=backend)
    assert computed[0].dtype == torch.bfloat16
    assert worst([x.double() for x in computed], expected) < 2e-2


COMPILED = """
import sys

import torch
from titan_neuro.titans.memory import init_state, memory_scan

torch.manual_seed(0)
leaves = [torch.randn(2, 2, 40, 4).mul_(0.5).requires_grad_() for _ in range(3)]
leaves += [(torch.rand(2, 2, 40) * scale).requires_grad_() for scale in (0.1, 0.5, 0.02)]
weights = [torch.randn(2, 8, 4).requires_grad_(), torch.randn(2, 4, 8).requires_grad_()]


def call(*tokens):
    return memory_scan(*tokens, init_state(tuple(weights), 2), chunk_size=16, max_delta_norm=2.0, backend=sys.argv[1])


def results(function):
    outputs, state = function(*leaves)
    computed = [outputs, *state.weights, *state.momentum, *state.reference]
    return [*computed, *torch.autograd.grad(sum(x.square().sum() for x in computed), [*leaves, *weights])]


expected, computed = results(call), results(torch.compile(call, fullgraph=True, backend=sys.argv[2]))
print(max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(computed, expected, strict=True)))
"""


@pytest.mark.parametrize(
    ("backend", "compiler"),
    [("auto", "aot_eager"), *(pytest.param(name, "inductor", marks=SLOW) for name in ("auto", "chunked"))],
)
def test_compiled_scans_are_one_equal_graph(backend, compiler):
    # In a process of its own: the compiler can't trace the shape checks that the tests add to every function.
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, backend, compiler], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 1e-6


def test_gradients_of_some_inputs_only(make_stream):
    stream = make_stream(2, 20)
    keys = stream.tokens[1]
    tokens = [x if x is keys else x.detach() for x in stream.tokens]
    expected, *computed = (
        torch.autograd.grad(outputs.square().sum(), keys)[0]
        for backend in ("naive", *DUAL_FORMS)
        for outputs, _ in [memory_scan(*tokens, stream.state.detach(), chunk_size=7, backend=backend)]
    )
    for gradient in computed:
        torch.testing.assert_close(gradient, expected)


def test_reading_equals_a_scan_without_writes(make_stream):
    stream = make_stream(3, 20)
    state = init_state(tuple(w[0].detach() for w in stream.weights), 2)
    queries, keys, values = (x.detach() for x in stream.tokens[:3])
    silent = torch.zeros(2, 2, 20, dtype=torch.float64)
    outputs, after = memory_scan(queries, keys, values, silent, silent, silent, state, chunk_size=7)
    torch.testing.assert_close(memory_read(queries, state), outputs)
    torch.testing.assert_close(after.weights, state.weights)


def test_autocast_leaves_the_memory_exact(make_stream):
    stream = make_stream(2, 40, dtype=torch.float32)
    expected = stream.scan(chunk_size=16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        computed = stream.scan(chunk_size=16)
    assert all(torch.equal(a, b) for a, b in zip(computed, expected, strict=True))


def test_half_precision_tokens_keep_a_float32_state(make_stream):
    stream = make_stream(1, 20, dtype=torch.float32)
    outputs, state = memory_scan(*(x.bfloat16() for x in stream.tokens), stream.state, chunk_size=7)
    assert outputs.dtype == torch.bfloat16
    assert state.weights[0].dtype == torch.float32


@pytest.mark.usefixtures("without_shape_checks")
class TestInput:
    @pytest.mark.parametrize(
        ("place", "change", "message"),
        [
            (1, lambda x: x[..., :2], r"keys: expected shape \(2, 2, 9, 4\), found \(2, 2, 9, 2\)"),
            (2, lambda x: x[:, :, :3], r"values: expected shape \(2, 2, 9, 4\), found \(2, 2, 3, 4\)"),
            (3, lambda x: x[:1], r"alpha: expected shape \(2, 2, 9\), found \(1, 2, 9\)"),
            (5, lambda x: x[..., None], r"theta: expected shape"),
            (0, lambda x: x.to("meta"), r"queries: expected device cpu, where the state is, found meta"),
            (0, lambda x: x.long(), r"queries: expected a floating-point type .* found torch.int64"),
            (4, lambda x: x.double(), r"eta: expected a floating-point type no wider .* found torch.float64"),
        ],
    )
    def test_a_wrong_stream_is_named(self, make_stream, place, change, message):
        stream = make_stream(1, 9, dtype=torch.float32)
        tokens = list(stream.tokens)
        tokens[place] = change(tokens[place].detach())
        with pytest.raises(MismatchError, match=message):
            memory_scan(*tokens, stream.state, chunk_size=4)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("alpha", -0.1, r"alpha: expected values in \[0, 1\], found -0.1 to "),
            ("eta", 1.5, r"eta: expected values in \[0, 1\], found .* to 1.5"),
            ("theta", -1e-3, "theta: expected values of at least 0, found -0.001 to"),
        ],
    )
    def test_a_gate_out_of_range_is_named(self, make_stream, name, value, message):
        stream = make_stream(1, 9)
        tokens = dict(zip(("queries", "keys", "values", "alpha", "eta", "theta"), stream.tokens, strict=True))
        tokens[name] = tokens[name].detach().clone()
        tokens[name][1, 0, 4] = value
        with pytest.raises(MismatchError, match=message):
            memory_scan(**tokens, state=stream.state, chunk_size=4)

    def test_debugging_finds_values_that_are_not_finite(self, make_stream, monkeypatch):
        stream = make_stream(2, 9)
        values = stream.tokens[2].detach().clone()
        values[1, 0, 4, 2:] = torch.nan
        tokens = (*stream.tokens[:2], values, *stream.tokens[3:])
        outputs, state = memory_scan(*tokens, stream.state, chunk_size=4)
        assert outputs.isnan().any()
        monkeypatch.setenv("TITAN_NEURO_DEBUG", "1")
        with pytest.raises(MismatchError, match=r"values: expected finite .* found nan at \(1, 0, 4, 2\) and 2 such"):
            memory_scan(*tokens, stream.state, chunk_size=4)
        with pytest.raises(MismatchError, match=r"state.weights\[0\]: expected finite values, found nan"):
            memory_scan(*(x[:, :, :4] for x in stream.tokens), state, chunk_size=9)

    def test_an_unavailable_backend_is_named(self, make_stream, monkeypatch):
        monkeypatch.setattr("titan_neuro.titans.memory.native.IS_COMPILED", False)
        with pytest.raises(ConfigError, match="backend: native was not compiled when the package was installed"):
            make_stream(1, 9).scan(backend="native", chunk_size=4)
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        stream = make_stream(1, 9)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
        with pytest.raises(ConfigError, match="backend: triton needs tensors on a GPU, found cpu"):
            stream.scan(backend="triton", chunk_size=4)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match="backend: triton is not installed"):
            stream.scan(backend="triton", chunk_size=4)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"chunk_size": 0}, "chunk_size: expected at least 1 token, found 0"),
            (
                {"chunk_size": 4, "backend": "fast"},
                "backend: expected one of auto, naive, chunked, native, triton, found 'fast'",
            ),
            ({"chunk_size": 4, "max_delta_norm": 0.0}, "max_delta_norm: expected a norm above 0, found 0.0"),
        ],
    )
    def test_a_wrong_option_is_named(self, make_stream, options, message):
        stream = make_stream(1, 9)
        with pytest.raises(ConfigError, match=message):
            memory_scan(*stream.tokens, stream.state, **options)

    def test_no_tokens(self, make_stream):
        stream = make_stream(1, 9)
        with pytest.raises(MismatchError, match="at least one token"):
            memory_scan(*(x[:, :, :0] for x in stream.tokens), stream.state, chunk_size=4)

    def test_a_state_of_another_chunk_size(self, make_stream):
        stream = make_stream(1, 9)
        _, state = memory_scan(*stream.tokens, stream.state, chunk_size=16)
        with pytest.raises(MismatchError, match=r"state\.position: expected 0 to 3 with chunk_size 4, found 9"):
            memory_scan(*stream.tokens, state, chunk_size=4)

    def test_a_state_of_another_model(self, make_stream):
        other = init_state((torch.zeros(2, 4, 5),), 2)
        with pytest.raises(MismatchError, match=r"queries: expected shape .*5.*, found \(2, 2, 9, 4\)"):
            memory_scan(*make_stream(1, 9, dtype=torch.float32).tokens, other, chunk_size=4)
        with pytest.raises(MismatchError, match=r"queries: expected shape \(2, 2, tokens, 5\)"):
            memory_read(make_stream(1, 9, dtype=torch.float32).tokens[0], other)
