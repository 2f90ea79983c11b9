"""The properties of streams that every variant has, and each block against its equations."""

import dataclasses

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.titans.layers import NeuralMemoryConfig
from titan_neuro.titans.models import GRUConfig, LMMConfig, MACConfig, MAGConfig, MALConfig, TransformerConfig

DIM, SEGMENT, WINDOW, CHUNK = 8, 4, 5, 2
ATTENTION = {"n_heads": 2, "n_persistent": 3}
SEGMENTS = {"segment_time_points": SEGMENT, **ATTENTION}
VARIANTS = {
    "lmm": (LMMConfig, {}),
    "mac": (MACConfig, SEGMENTS),
    "mac-longterm": (MACConfig, {"n_longterm": 4, **SEGMENTS}),
    "mag": (MAGConfig, {"window_time_points": WINDOW, **ATTENTION}),
    "mal": (MALConfig, {"window_time_points": WINDOW, **ATTENTION}),
}
COMPARISON_MODELS = {
    "gru": (GRUConfig, {"ff_width": 12}),
    "transformer": (TransformerConfig, {"window_time_points": WINDOW, "ff_width": 12, **ATTENTION}),
}
EVERY = [*VARIANTS, *COMPARISON_MODELS]
PRINTED = {"mac-printed": (MACConfig, {"causal": False, "n_longterm": 2, **SEGMENTS})}


def make(variant, tokens_per_time_point=3, dtype=torch.float32, **memory):
    torch.manual_seed(0)
    config, options = (VARIANTS | PRINTED | COMPARISON_MODELS)[variant]
    if variant not in COMPARISON_MODELS:
        options = {**options, "memory": NeuralMemoryConfig(**{"n_heads": 2, "chunk_time_points": CHUNK, **memory})}
    return config(dim=DIM, tokens_per_time_point=tokens_per_time_point, **options).build().to(dtype)


def time_points(model, n_time_points, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(
        batch, n_time_points * model.config.tokens_per_time_point, DIM, generator=generator, dtype=torch.float64
    )
    return x.to(model.norm.weight.dtype)


def stream(model, x, cuts, state=None, **options):
    outputs = []
    for part in torch.split(x, [n * model.config.tokens_per_time_point for n in cuts], dim=1):
        y, state = model(part, state, **options)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def leaves(state):
    """All tensors and positions of a state."""
    if isinstance(state, torch.Tensor | int):
        return [torch.as_tensor(state)]
    parts = state if isinstance(state, tuple) else vars(state).values() if dataclasses.is_dataclass(state) else ()
    return [leaf for part in parts for leaf in leaves(part)]


def tensors(state):
    return [leaf for leaf in leaves(state) if leaf.ndim]


@pytest.fixture(params=EVERY)
def variant(request):
    return request.param


@pytest.fixture(params=VARIANTS)
def titans(request):
    """The variants with a memory."""
    return request.param


@pytest.fixture(params=[1, 3])
def tokens_per_time_point(request):
    return request.param


SLOW = pytest.mark.slow
CUTS = [[1] * 19, [3, 1, 6, 9], *(pytest.param(cuts, marks=SLOW) for cuts in ([4, 4, 4, 4, 3], [10, 9], [2, 17]))]


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize(
    ("variant", "memory_frozen"), [*((name, False) for name in EVERY), *((name, True) for name in VARIANTS)]
)
def test_a_stream_may_be_cut_anywhere(variant, tokens_per_time_point, cuts, memory_frozen):
    model = make(variant, tokens_per_time_point, torch.float64)
    x = time_points(model, 19)
    expected, expected_state = model(x, memory_frozen=memory_frozen)
    result, state = stream(model, x, cuts, memory_frozen=memory_frozen)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-11)
    for a, b in zip(leaves(state), leaves(expected_state), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n_time_points", [10, pytest.param(100, marks=SLOW)])
@pytest.mark.parametrize("time_point", [0, 3, 4, 9])
def test_later_time_points_change_no_earlier_output(variant, tokens_per_time_point, n_time_points, time_point):
    model = make(variant, tokens_per_time_point)
    x = time_points(model, n_time_points)
    before = model(x)[0].detach()
    first = time_point * tokens_per_time_point
    for place in range(first, first + tokens_per_time_point):
        changed = x.clone()
        changed[:, place] += 1.0
        after = model(changed)[0].detach()
        assert torch.equal(after[:, :first], before[:, :first])
        assert (after[:, place] != before[:, place]).any()


def test_longer_calls_change_rounding_only(variant):
    model = make(variant, dtype=torch.float64)
    x = time_points(model, 100)
    torch.testing.assert_close(model(x[:, :30])[0], model(x)[0][:, :30], rtol=1e-12, atol=1e-12)


def test_items_do_not_affect_each_other(variant):
    model = make(variant)
    x = time_points(model, 10, batch=3)
    before, state = model(x)
    other = x.clone()
    other[1] = 7.0
    after, other_state = model(other)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    for a, b in zip(tensors(state), tensors(other_state), strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
    assert not torch.equal(after[1], before[1])


def test_only_a_learning_memory_reaches_beyond_attention(titans, tokens_per_time_point):
    model = make(titans, tokens_per_time_point, torch.float64)
    # Two blocks see back two windows and two convolutions by themselves: 14 time points.
    x = time_points(model, 20)
    first = x.clone()
    first[:, :tokens_per_time_point] += 1.0
    last = slice(-tokens_per_time_point, None)
    assert (model(first)[0][:, last] - model(x)[0][:, last]).abs().max() > 1e-6
    frozen = (model(first, memory_frozen=True)[0][:, last] - model(x, memory_frozen=True)[0][:, last]).abs().max()
    assert frozen == 0.0


def test_frozen_memories_are_not_written(titans):
    model = make(titans)
    x, fresh = time_points(model, 10), model.init_state(2)
    _, state = model(x, memory_frozen=True)
    for block, start in zip(state.blocks, fresh.blocks, strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip(leaves(block.memory.memory), leaves(start.memory.memory), strict=True)
        )
        for tail in ("query_tail", "key_value_tail"):
            assert (getattr(block.memory, tail) != getattr(start.memory, tail)).any(-1).all()


def test_streams_restart_independently(variant, tokens_per_time_point):
    model = make(variant, tokens_per_time_point, torch.float64)
    n_time_points = 3 * model.config.restart_time_points
    x, after = time_points(model, n_time_points), time_points(model, 6, seed=1)
    _, state = model(x)
    mixed, _ = model(after, model.restart(state, torch.tensor([True, False])))
    torch.testing.assert_close(mixed[0], model(after)[0][0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(mixed[1], model(after, state)[0][1], rtol=1e-10, atol=1e-12)
    assert (model(after)[0][1] - mixed[1]).abs().max() > 1e-6


def test_restarting_inside_a_chunk_or_segment_is_refused(titans):
    model = make(titans)
    _, state = model(time_points(model, 2 * SEGMENT + 1))
    with pytest.raises(MismatchError, match=r"position: expected \d, as at the start of a stream, found \d"):
        model.restart(state, torch.tensor([True, False]))


@pytest.mark.parametrize("variant", [*EVERY, *PRINTED])
@pytest.mark.parametrize("depth", [1, 2])
def test_every_parameter_learns(variant, tokens_per_time_point, depth):
    model = make(variant, tokens_per_time_point, depth=depth)
    model(time_points(model, 12))[0].square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.abs().sum() > 0] == []
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.fixture
def one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def train(model, n_steps):
    """Steps as in training: the state is detached, and one stream is restarted."""
    wrapped, state = DistributedDataParallel(model), None
    for step in range(n_steps):
        if state is not None:
            state = model.restart(state.detach(), torch.tensor([step == 1, False]))
        y, state = wrapped(time_points(model, 2 * SEGMENT, seed=step), state)
        y.square().mean().backward()


@pytest.mark.parametrize("variant", [*EVERY, *PRINTED])
def test_distributed_training_uses_every_parameter(one_process, variant):
    model = make(variant)
    # DDP raises an error in the step after one that did not use a parameter.
    train(model, n_steps=3)
    model.idle = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(RuntimeError, match="parameters that were not used"):
        train(model, n_steps=2)


def test_a_detached_state_has_no_graph(variant):
    model = make(variant)
    _, state = model(time_points(model, 10).requires_grad_())
    assert any(t.requires_grad for t in tensors(state))
    assert not any(t.requires_grad for t in tensors(state.detach()))
    y, _ = model(time_points(model, 6, seed=1), state.detach())
    y.square().sum().backward()
    # Persistent tokens receive a gradient also late in a stream.
    persistent = [p.grad for name, p in model.named_parameters() if name.endswith("persistent")]
    assert len(persistent) == (0 if variant in {"lmm", "gru"} else 2)
    assert all(gradient.abs().sum() > 0 for gradient in persistent)


@pytest.mark.parametrize("n_calls", [3, pytest.param(10, marks=SLOW)])
def test_long_streams_stay_bounded_with_a_constant_state(variant, n_calls):
    model = make(variant)
    generator = torch.Generator().manual_seed(0)
    sizes, state = set(), None
    with torch.no_grad():
        for _ in range(n_calls):
            x = 10 * torch.randn(1, 25 * SEGMENT * 3, DIM, generator=generator)
            y, state = model(x, state)
            assert y.isfinite().all()
            sizes.add(sum(t.untyped_storage().nbytes() for t in tensors(state) if t.numel()))
    assert len(sizes) == 1
    assert all(t.abs().max() < 1e4 for t in tensors(state) if t.numel())


def test_wrong_input_is_named(variant):
    model = make(variant)
    with pytest.raises(MismatchError, match=r"x: expected .* whole time points of 3 tokens, found \(2, 10, 8\)"):
        model(torch.zeros(2, 10, DIM))
    with pytest.raises(MismatchError, match=r"x: expected \(batch, tokens, 8\) .* found \(2, 9, 7\)"):
        model(torch.zeros(2, 9, 7))
    with pytest.raises(MismatchError, match=r"x: expected .* found \(2, 0, 8\)"):
        model(torch.zeros(2, 0, DIM))
    _, state = model(time_points(model, 4))
    with pytest.raises(MismatchError, match="state: expected a batch of 3, as x has, found 2"):
        model(time_points(model, 4, batch=3), state)
    with pytest.raises(MismatchError, match="state: expected a batch of 3, as is_start has, found 2"):
        model.restart(state, torch.tensor([True, False, False]))


# What a model may differ in, and how it is named.
OTHERS = {
    "n_layers": ({"n_layers": 1}, {}, "expected one of n_layers 2, found n_layers 1"),
    "width": ({"dim": 16}, {}, "expected one of dim 8, found dim 16"),
    "tokens": (
        {"tokens_per_time_point": 1},
        {},
        "expected one of tokens_per_time_point 3, found tokens_per_time_point 1",
    ),
}
OTHER_MEMORIES = {
    "depth": ({}, {"depth": 1}, r"expected one of memory\.depth 2, found memory\.depth 1"),
    "chunk": (
        {},
        {"chunk_time_points": 4},
        r"expected one of memory\.chunk_time_points 2, found memory\.chunk_time_points 4",
    ),
    "step": ({}, {"max_step": 1.0}, r"expected one of memory\.max_step 1\.5, found memory\.max_step 1\.0"),
}


def other_than(model, sizes, memory):
    if memory:
        sizes = {**sizes, "memory": dataclasses.replace(model.config.memory, **memory)}
    return dataclasses.replace(model.config, **sizes).build()


@pytest.mark.parametrize(
    ("variant", "case"),
    [*((name, case) for name in EVERY for case in OTHERS), *((n, case) for n in VARIANTS for case in OTHER_MEMORIES)],
)
def test_states_and_weights_of_other_settings_are_refused(variant, case):
    model = make(variant)
    sizes, memory, message = (OTHERS | OTHER_MEMORIES)[case]
    other = other_than(model, sizes, memory)
    x = torch.zeros(2, 12, other.config.dim)
    with pytest.raises(MismatchError, match=f"state: {message}"):
        model(time_points(model, 4), other(x)[1])
    with pytest.raises(MismatchError, match=f"state_dict: {message}"):
        model.load_state_dict(other.state_dict())


def test_states_and_weights_of_another_variant_are_refused():
    for one, other in (("mag", "mal"), ("lmm", "mac"), ("gru", "lmm"), ("transformer", "gru")):
        model, other_model = make(one), make(other)
        message = f"expected one of variant {one}, found variant {other}"
        with pytest.raises(MismatchError, match=f"state: {message}"):
            model(time_points(model, 4), other_model(time_points(model, 4))[1])
        with pytest.raises(MismatchError, match=f"state_dict: {message}"):
            model.load_state_dict(other_model.state_dict())


@pytest.mark.parametrize("variant", [*EVERY, *PRINTED])
def test_loaded_weights_give_the_same_outputs(variant, tmp_path):
    model = make(variant)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    x = time_points(model, 8)
    again = other_than(model, {}, {})
    again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(again(x)[0], model(x)[0])
    if variant in COMPARISON_MODELS:
        return
    # All backends compute the same, up to rounding: another one is no other model.
    again = other_than(model, {}, {"backend": "chunked"})
    again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    torch.testing.assert_close(again(x)[0], model(x)[0])


def test_weights_without_their_settings_are_refused():
    model = make("lmm")
    weights = model.state_dict()
    with pytest.raises(MismatchError, match="the settings of the backbone can't be read"):
        model.load_state_dict({**weights, "_extra_state": torch.zeros(3, dtype=torch.uint8)})
    del weights["_extra_state"]
    with pytest.raises(RuntimeError, match="_extra_state"):
        model.load_state_dict(weights)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (
            MACConfig,
            {"segment_time_points": 12},
            "segment_time_points: expected a multiple of memory.chunk_time_points",
        ),
        (MAGConfig, {"dim": 36, "n_heads": 4}, "MAGConfig.dim: each head of the attention needs an even part"),
        (
            TransformerConfig,
            {"dim": 36, "n_heads": 4},
            "TransformerConfig.dim: each head of the attention needs an even",
        ),
        (LMMConfig, {"dim": 66}, "LMMConfig.dim: each head of the memory needs an equal part"),
    ],
)
def test_inconsistent_sizes_are_refused(config, options, message):
    with pytest.raises(ConfigError, match=message):
        config(**options)


def block_and_time_points(variant, tokens_per_time_point):
    model = make(variant, tokens_per_time_point, torch.float64)
    return model.blocks[0], time_points(model, 2 * SEGMENT)


def with_feed_forward(block, x, mixed):
    expected = x + mixed
    return expected + block.feed_forward(block.feed_forward_norm(expected))


def check_block(block, x, start, mixed):
    result, _ = block(x, start, memory_frozen=False)
    torch.testing.assert_close(result, with_feed_forward(block, x, mixed), rtol=1e-10, atol=1e-12)


def test_lmm_equals_its_equation(tokens_per_time_point):
    block, x = block_and_time_points("lmm", tokens_per_time_point)
    check_block(block, x, block.init_state(2), block.memory(block.mixer_norm(x))[0])


@pytest.mark.parametrize("variant", ["mac", "mac-longterm", "mac-printed"])
def test_mac_equals_its_equations(variant, tokens_per_time_point):
    """Two whole segments by equations 21 to 25, one line each."""
    block, x = block_and_time_points(variant, tokens_per_time_point)
    start = block.init_state(2)
    written, context_tail, outputs = start.memory, start.context_tail, []
    for segment in torch.split(block.mixer_norm(x), SEGMENT * tokens_per_time_point, dim=1):
        longterm = longterm_of(block, written.memory, tokens_per_time_point)
        context, context_tail = block.memory.read(segment, written.memory, context_tail)
        attended, _ = block.attention(segment, context, block.attention.init_state(2), longterm=longterm)
        tokens = segment + attended
        query_tail = written.query_tail
        retrieved, written = block.memory(tokens, written)
        if variant == "mac-printed":
            retrieved, _ = block.memory.read(tokens, written.memory, query_tail)
        outputs.append(block.gate(attended, retrieved))
    check_block(block, x, start, torch.cat(outputs, dim=1))


def longterm_of(block, memory, tokens_per_time_point):
    """The learned queries, read as time points at a stream's start."""
    if block.longterm is None:
        return None
    queries = torch.zeros(2, 2 * len(block.longterm) * tokens_per_time_point, DIM, dtype=torch.float64)
    queries[:, : len(block.longterm)] = block.longterm
    return block.memory.read(queries, memory, block.memory.query.init_state(2))[0][:, : len(block.longterm)]


def test_mag_equals_its_equations(tokens_per_time_point):
    """Equations 26 to 28."""
    block, x = block_and_time_points("mag", tokens_per_time_point)
    attended, _ = block.attention(block.mixer_norm(x), block.attention.init_state(2))
    retrieved, _ = block.memory(block.mixer_norm(x))
    check_block(block, x, block.init_state(2), block.gate(attended, retrieved))


def test_mal_equals_its_equations(tokens_per_time_point):
    """Equations 29 to 31: the memory reads the persistent tokens first."""
    block, x = block_and_time_points("mal", tokens_per_time_point)
    persistent = block.attention.persistent[:, None].expand(-1, tokens_per_time_point, -1).flatten(0, 1)
    tokens = block.mixer_norm(x)
    both = torch.cat([persistent.expand(2, -1, -1), tokens], dim=1)
    retrieved = block.memory(both)[0][:, len(persistent) :]
    attended, _ = block.attention(tokens + retrieved, block.attention.init_state(2))
    check_block(block, x, block.init_state(2), retrieved + attended)


def test_mac_as_printed_needs_whole_segments():
    model = make("mac-printed", dtype=torch.float64)
    x = time_points(model, 3 * SEGMENT)
    before, changed = model(x)[0], x.clone()
    changed[:, (2 * SEGMENT - 1) * 3 :] += 1.0
    after = model(changed)[0]
    first = SEGMENT * 3
    assert torch.equal(after[:, :first], before[:, :first])
    assert (after[:, first:] != before[:, first:]).any(-1).all()
    torch.testing.assert_close(stream(model, x, [2 * SEGMENT, SEGMENT])[0], before, rtol=1e-10, atol=1e-12)
    with pytest.raises(MismatchError, match="x: expected whole segments of 12 tokens with causal=False, found 15"):
        model(time_points(model, 5))


@pytest.mark.parametrize("variant", COMPARISON_MODELS)
def test_models_without_memory_refuse_memory_frozen(variant):
    model = make(variant)
    with pytest.raises(ConfigError, match=f"memory_frozen: a {variant} backbone has no memory"):
        model(time_points(model, 4), memory_frozen=True)


@pytest.mark.parametrize("n_layers", [1, 3])
def test_the_transformer_sees_exactly_its_window(tokens_per_time_point, n_layers):
    """However many layers: 20 time points, the present one included."""
    torch.manual_seed(0)
    config = TransformerConfig(dim=DIM, n_layers=n_layers, tokens_per_time_point=tokens_per_time_point, n_heads=2)
    model = config.build()
    x = time_points(model, 60)
    before = model(x)[0].detach()
    changed = x.clone()
    changed[:, 30 * tokens_per_time_point] += 1.0
    after = model(changed)[0].detach()
    differs = (after != before).unflatten(1, (-1, tokens_per_time_point)).any(-1).any(-1).all(0)
    assert differs.nonzero().flatten().tolist() == list(range(30, 50))


def test_the_transformer_treats_windows_independently(tokens_per_time_point):
    model = make("transformer", tokens_per_time_point, torch.float64)
    x = time_points(model, 14)
    streamed = model(x)[0].unflatten(1, (-1, tokens_per_time_point))
    for last in (0, 2, WINDOW - 1, 9, 13):
        window = x[:, max(0, last + 1 - WINDOW) * tokens_per_time_point : (last + 1) * tokens_per_time_point]
        alone = model(window)[0][:, -tokens_per_time_point:]
        torch.testing.assert_close(streamed[:, last], alone, rtol=1e-10, atol=1e-12)


def test_the_transformer_knows_positions_inside_its_window():
    model = make("transformer", 1, torch.float64)
    x = time_points(model, WINDOW)
    swapped = x[:, [1, 0, *range(2, WINDOW)]]
    assert (model(swapped)[0][:, -1] - model(x)[0][:, -1]).abs().max() > 1e-6


def test_windows_processed_in_parts_give_the_same(monkeypatch):
    model = make("transformer", 3, torch.float64)
    x = time_points(model, 14)
    expected, _ = model(x)
    monkeypatch.setattr("titan_neuro.titans.models.transformer._TOKENS_AT_A_TIME", 3 * WINDOW * 3)
    torch.testing.assert_close(model(x)[0], expected, rtol=1e-12, atol=1e-12)


def test_the_gru_equals_its_equations(tokens_per_time_point):
    """Step by step, by the equations of torch's documentation."""
    block, x = block_and_time_points("gru", tokens_per_time_point)
    tokens = block.mixer_norm(x).unflatten(1, (-1, tokens_per_time_point))
    weights = dict(block.recurrence.named_parameters())
    hidden, outputs = torch.zeros(2, tokens_per_time_point, DIM, dtype=torch.float64), []
    for time_point in tokens.unbind(1):
        mean = time_point.mean(1, keepdim=True).expand_as(time_point)
        inputs = time_point if tokens_per_time_point == 1 else torch.cat([time_point, mean], dim=-1)
        new = (inputs @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]).chunk(3, dim=-1)
        old = (hidden @ weights["weight_hh_l0"].T + weights["bias_hh_l0"]).chunk(3, dim=-1)
        reset, update = torch.sigmoid(new[0] + old[0]), torch.sigmoid(new[1] + old[1])
        hidden = (1 - update) * torch.tanh(new[2] + reset * old[2]) + update * hidden
        outputs.append(hidden)
    hidden_states = torch.stack(outputs, 1).flatten(1, 2)
    result, state = block(x, block.init_state(2))
    torch.testing.assert_close(result, with_feed_forward(block, x, block.output(hidden_states)), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state.hidden, hidden)


def test_initial_time_constants_of_the_gru():
    model = GRUConfig(dim=DIM, tokens_per_time_point=1).build()
    gate = dict(model.blocks[0].recurrence.named_parameters())["bias_ih_l0"][DIM : 2 * DIM]
    tau = 1 / (1 - torch.sigmoid(gate))
    torch.testing.assert_close(tau, 2.0 * 256.0 ** torch.linspace(0, 1, DIM), rtol=1e-3, atol=1e-3)
