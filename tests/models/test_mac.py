"""Memory as context: what it promises about streams."""

import pytest
import torch

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.layers import NeuralMemoryConfig
from titan_neuro.models.mac import MACConfig

P, DIM, SEGMENT = 3, 8, 4


def make_model(dtype=torch.float32, depth=2):
    torch.manual_seed(0)
    memory = NeuralMemoryConfig(n_heads=2, depth=depth, chunk_frames=2)
    config = MACConfig(
        dim=DIM, n_layers=2, n_heads=2, tokens_per_frame=P, segment_frames=SEGMENT, n_persistent=2, memory=memory
    )
    return config.build().to(dtype)


def frames(n_frames, batch=2, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, n_frames * P, DIM, generator=generator, dtype=torch.float64).to(dtype)


def stream(model, x, cuts, state=None, **options):
    outputs = []
    for part in torch.split(x, [n * P for n in cuts], dim=1):
        y, state = model(part, state, **options)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def tensors(state):
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, tuple):
        return [t for item in state for t in tensors(item)]
    return [t for value in vars(state).values() for t in tensors(value)] if hasattr(state, "__dict__") else []


@pytest.mark.parametrize("memory_frozen", [False, True])
@pytest.mark.parametrize("cuts", [[1] * 19, [4, 4, 4, 4, 3], [10, 9], [3, 1, 6, 9], [2, 17]])
def test_a_stream_may_be_cut_at_any_frame(cuts, memory_frozen):
    model, x = make_model(torch.float64), frames(19, dtype=torch.float64)
    expected, expected_state = model(x, memory_frozen=memory_frozen)
    found, state = stream(model, x, cuts, memory_frozen=memory_frozen)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    assert state.phase == expected_state.phase == 3
    for a, b in zip(tensors(state), tensors(expected_state), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n_frames", [10, 100])
@pytest.mark.parametrize("frame", [0, 3, 4, 7, 9])
def test_a_later_frame_changes_nothing_before_it(n_frames, frame):
    model, x = make_model(), frames(n_frames)
    before = model(x)[0].detach()
    for place in range(P):
        changed = x.clone()
        changed[:, frame * P + place] += 1.0
        after = model(changed)[0].detach()
        assert torch.equal(after[:, : frame * P], before[:, : frame * P])
        assert (after[:, frame * P + place] != before[:, frame * P + place]).any()


def test_frames_yet_to_come_change_nothing_but_rounding():
    model, x = make_model(torch.float64), frames(100, dtype=torch.float64)
    torch.testing.assert_close(model(x[:, : 10 * P])[0], model(x)[0][:, : 10 * P], rtol=1e-12, atol=1e-12)


def test_an_item_changes_no_other():
    model, x = make_model(), frames(10, batch=3)
    before, state = model(x)
    other = x.clone()
    other[1] = 7.0
    after, other_state = model(other)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    for a, b in zip(tensors(state), tensors(other_state), strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
    assert not torch.equal(after[1], before[1])


def test_the_memory_reaches_further_than_the_segment():
    model, x = make_model(torch.float64), frames(20, dtype=torch.float64)
    first = x.clone()
    first[:, :P] += 1.0
    last = slice(-P, None)
    assert (model(first)[0][:, last] - model(x)[0][:, last]).abs().max() > 1e-6
    frozen = (model(first, memory_frozen=True)[0][:, last] - model(x, memory_frozen=True)[0][:, last]).abs().max()
    assert frozen == 0.0


def test_frozen_memories_are_not_written():
    model, x = make_model(), frames(10)
    fresh = model.init_state(2)
    _, state = model(x, memory_frozen=True)
    for block, start in zip(state.blocks, fresh.blocks, strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip(tensors(block.memory.memory), tensors(start.memory.memory), strict=True)
        )


def test_items_begin_anew_where_a_segment_begins():
    model = make_model(torch.float64)
    x, after = frames(8, dtype=torch.float64), frames(6, dtype=torch.float64, seed=1)
    _, state = model(x)
    assert state.phase == 0
    mixed, _ = model(after, model.restart(state, torch.tensor([True, False])))
    torch.testing.assert_close(mixed[0], model(after)[0][0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(mixed[1], model(after, state)[0][1], rtol=1e-10, atol=1e-12)
    assert (model(after)[0][1] - mixed[1]).abs().max() > 1e-6


def test_items_can_not_begin_anew_inside_a_segment():
    model = make_model()
    _, state = model(frames(9))
    with pytest.raises(MismatchError, match=r"MACState.phase: expected 0, .* found 1"):
        model.restart(state, torch.tensor([True, False]))


def test_every_parameter_learns():
    model = make_model()
    model(frames(12))[0].square().mean().backward()
    model_gradients = {name: p.grad for name, p in model.named_parameters()}
    assert [name for name, g in model_gradients.items() if g is None or not g.abs().sum() > 0] == []
    assert all(g.isfinite().all() for g in model_gradients.values())


def test_a_detached_state_carries_no_graph():
    model = make_model()
    _, state = model(frames(10))
    assert any(t.requires_grad for t in tensors(state))
    assert not any(t.requires_grad for t in tensors(state.detach()))
    y, _ = model(frames(6, seed=1), state.detach())
    y.sum().backward()


def test_a_long_run_stays_bounded_and_its_state_does_not_grow():
    model = make_model()
    generator = torch.Generator().manual_seed(0)
    sizes, state = set(), None
    with torch.no_grad():
        for _ in range(10):
            x = 10 * torch.randn(1, 25 * SEGMENT * P, DIM, generator=generator)
            y, state = model(x, state)
            assert y.isfinite().all()
            sizes.add(sum(t.numel() for t in tensors(state)))
    assert len(sizes) == 1
    assert all(t.abs().max() < 1e4 for t in tensors(state) if t.numel())


def test_wrong_input_is_named():
    model = make_model()
    with pytest.raises(MismatchError, match=r"whole frames of 3 tokens, found \(2, 10, 8\)"):
        model(torch.zeros(2, 10, DIM))
    _, state = model(frames(4))
    with pytest.raises(MismatchError, match="expected a batch of 3, as x has, found 2"):
        model(frames(4, batch=3), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment_frames": 12}, "segment_frames: expected a multiple of memory.chunk_frames"),
        ({"dim": 36, "n_heads": 4}, "each head needs a whole share"),
        ({"dim": 66, "n_heads": 3, "memory": NeuralMemoryConfig(n_heads=4)}, "each head needs a whole share"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        MACConfig(**options)


def test_a_block_is_its_equations():
    """Two whole segments by equations 21 to 25, one line each."""
    block = make_model(torch.float64).blocks[0]
    x = frames(2 * SEGMENT, dtype=torch.float64)
    start = block.init_state(2)
    written, recall_tail, outputs = start.memory, start.recall_tail, []
    for segment in torch.split(block.mixer_norm(x), SEGMENT * P, dim=1):
        recalled, recall_tail = block.memory.read(segment, written.memory, recall_tail)
        attended, _ = block.attention(segment, recalled, block.attention.init_cache(2))
        remembered, written = block.memory(attended, written)
        outputs.append(block.gate(attended, remembered))
    expected = x + torch.cat(outputs, dim=1)
    expected = expected + block.feed_forward(block.feed_forward_norm(expected))
    pieces, _ = make_model()._pieces(2 * SEGMENT, 0)
    found, _ = block(x, start, pieces=pieces, memory_frozen=False)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
