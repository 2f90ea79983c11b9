"""States are saved, restored and reset."""

import dataclasses
import io

import pytest
import torch

from titan_neuro.errors import MismatchError
from titan_neuro.titans.memory import init_state, memory_scan
from titan_neuro.titans.memory.state import check_state


def weights(dtype=torch.float32):
    return (torch.randn(2, 6, 3, dtype=dtype), torch.randn(2, 3, 6, dtype=dtype))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_the_state_is_never_narrower_than_float32(given, expected):
    state = init_state(weights(given), 3)
    assert {x.dtype for x in (*state.weights, *state.momentum, *state.reference)} == {expected}
    assert not any(x.any() for x in state.momentum)


def test_inconsistent_layers_are_named():
    with pytest.raises(MismatchError, match=r"weights\[1\]: expected shape \(3, 2, 3, 6\), found \(3, 2, 3, 5\)"):
        init_state((torch.zeros(2, 6, 3), torch.zeros(2, 3, 5)), 3)
    with pytest.raises(MismatchError, match="at least one layer"):
        init_state((), 3)
    state = init_state(weights(), 3)
    with pytest.raises(MismatchError, match=r"momentum: expected 2 layers, found 1"):
        check_state(dataclasses.replace(state, momentum=state.momentum[:1]))
    with pytest.raises(MismatchError, match=r"momentum\[0\]: expected torch.float32"):
        check_state(dataclasses.replace(state, momentum=tuple(x.double() for x in state.momentum)))


def test_a_saved_state_continues_the_stream(make_stream):
    stream = make_stream(2, 20)
    _, state = memory_scan(*stream.tokens, stream.state, chunk_size=16)
    buffer = io.BytesIO()
    torch.save(state.state_dict(), buffer)
    buffer.seek(0)
    restored = stream.state.load_state_dict(torch.load(buffer, weights_only=True))
    assert not restored.weights[0].requires_grad
    expected, _ = memory_scan(*stream.tokens, state, chunk_size=16)
    found, _ = memory_scan(*stream.tokens, restored, chunk_size=16)
    assert torch.equal(found, expected)


def test_detach_and_to(make_stream):
    _, state = memory_scan(*(stream := make_stream(2, 20)).tokens, stream.state, chunk_size=16)
    assert state.weights[0].requires_grad
    detached = state.detach()
    assert not any(x.requires_grad for x in (*detached.weights, *detached.momentum, *detached.reference))
    assert detached.position == state.position == 4
    assert state.to(dtype=torch.float32).momentum[1].dtype == torch.float32


def test_reset_restarts_the_marked_streams_only(make_stream):
    stream = make_stream(2, 32)
    fresh = init_state(tuple(w[0] for w in stream.weights), 2)
    _, state = memory_scan(*stream.tokens, stream.state, chunk_size=16)
    mixed = state.reset(torch.tensor([True, False]), fresh)
    for name in ("weights", "momentum", "reference"):
        for ours, new, old in zip(getattr(mixed, name), getattr(fresh, name), getattr(state, name), strict=True):
            assert torch.equal(ours[0], new[0])
            assert torch.equal(ours[1], old[1])


def test_reset_inside_a_chunk_is_refused(make_stream):
    stream = make_stream(2, 20)
    fresh = init_state(tuple(w[0] for w in stream.weights), 2)
    _, state = memory_scan(*stream.tokens, stream.state, chunk_size=16)
    with pytest.raises(MismatchError, match=r"MemoryState.position: expected 0, .* found 4"):
        state.reset(torch.tensor([True, False]), fresh)


def test_resets_to_other_sizes_are_refused():
    with pytest.raises(MismatchError, match=r"MemoryState\.weights: .* flags of shape \(2,\)"):
        init_state(weights(), 3).reset(torch.tensor([True, False]), init_state(weights(), 3))
