"""What every streaming state can do, on a state with a tensor of each kind."""

import dataclasses

import pytest
import torch

from titan_neuro.errors import MismatchError
from titan_neuro.titans.stream_state import StreamState


@dataclasses.dataclass(frozen=True)
class Inner(StreamState):
    values: tuple[torch.Tensor, ...]


@dataclasses.dataclass(frozen=True)
class Outer(StreamState):
    inner: Inner
    count: torch.Tensor
    seen: torch.Tensor
    phase: int


def state(number, phase=0):
    values = (torch.full((3, 2), float(number)), torch.full((3,), float(number)))
    return Outer(Inner(values), torch.full((3,), number), torch.tensor([bool(number)] * 3), phase)


def test_to_changes_floating_point_tensors_only():
    moved = state(2**40 + 1).to("cpu", torch.bfloat16)
    assert {value.dtype for value in moved.inner.values} == {torch.bfloat16}
    assert (moved.count.dtype, moved.seen.dtype) == (torch.int64, torch.bool)
    assert moved.count.tolist() == [2**40 + 1] * 3


def test_reset_restarts_the_marked_streams_only():
    mixed = state(5).reset(torch.tensor([False, True, False]), state(0))
    assert mixed.count.tolist() == mixed.inner.values[1].tolist() == [5, 0, 5]
    assert mixed.inner.values[0][:, 1].tolist() == [5, 0, 5]
    assert mixed.seen.tolist() == [True, False, True]


def test_reset_inside_a_chunk_is_refused():
    with pytest.raises(MismatchError, match=r"Outer\.phase: expected 0, as at the start of a stream, found 3"):
        state(5, phase=3).reset(torch.tensor([False, True, False]), state(0))
    with pytest.raises(MismatchError, match=r"Inner\.values: .* of shape \(3, 2\) .* flags of shape \(2,\)"):
        state(5).reset(torch.tensor([False, True]), state(0))


def test_a_saved_state_is_restored(tmp_path):
    torch.save(state(7, phase=2).state_dict(), tmp_path / "state.pt")
    restored = state(0).load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert isinstance(restored.inner, Inner)
    assert restored.phase == 2
    assert restored.count.tolist() == restored.inner.values[1].tolist() == [7] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda saved: saved.pop("seen"),
            "Outer: expected the parts count, inner, phase, seen, found count, inner, phase",
        ),
        (lambda saved: saved["inner"].update(values=()), r"Outer\.inner\.values: expected 2 parts, found 0"),
        (lambda saved: saved.update(inner=3), r"Outer\.inner: expected the parts values, found int"),
        (lambda saved: saved.update(count=3), r"Outer\.count: expected Tensor, found int"),
    ],
)
def test_a_state_of_another_model_is_refused(change, message):
    saved = state(7).state_dict()
    change(saved)
    with pytest.raises(MismatchError, match=message):
        state(0).load_state_dict(saved)
