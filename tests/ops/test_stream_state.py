"""What every streaming state can do, on a state with a tensor of each kind."""

import dataclasses

import pytest
import torch

from titan_neuro.errors import MismatchError
from titan_neuro.ops.stream_state import StreamState


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


def test_another_floating_point_type_leaves_counts_and_flags_alone():
    moved = state(2**40 + 1).to("cpu", torch.bfloat16)
    assert {value.dtype for value in moved.inner.values} == {torch.bfloat16}
    assert (moved.count.dtype, moved.seen.dtype) == (torch.int64, torch.bool)
    assert moved.count.tolist() == [2**40 + 1] * 3


def test_some_items_begin_anew():
    mixed = state(5).reset(torch.tensor([False, True, False]), state(0))
    assert mixed.count.tolist() == mixed.inner.values[1].tolist() == [5, 0, 5]
    assert mixed.inner.values[0][:, 1].tolist() == [5, 0, 5]
    assert mixed.seen.tolist() == [True, False, True]


def test_items_that_share_a_place_begin_anew_together_or_not_at_all():
    with pytest.raises(MismatchError, match=r"Outer\.phase: expected 0, as at the start of a stream, found 3"):
        state(5, phase=3).reset(torch.tensor([False, True, False]), state(0))
    with pytest.raises(MismatchError, match=r"Inner\.values: .* of shape \(3, 2\) .* flags of shape \(2,\)"):
        state(5).reset(torch.tensor([False, True]), state(0))
