"""Blocks, runs from arrays, and groups of runs."""

import numpy as np
import pytest
import torch

from titan_neuro.errors import MismatchError
from titan_neuro.runs import InMemoryRun, as_runs, block_slices, group_runs, read_blocks, unit_labels


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 20])
def test_blocks_hold_every_time_point_once(length):
    series = torch.randn(length + 3, 2)
    blocks = list(read_blocks(InMemoryRun(series), 8, start=3))
    assert [block for block, _ in blocks] == list(block_slices(length + 3, 8, start=3))
    assert torch.equal(torch.cat([series[:3], *(values for _, values in blocks)]), series)


def test_blocks_include_neighbors_inside_the_run():
    series = torch.arange(20.0)[:, None]
    read = {
        block.start: values[:, 0].tolist()
        for block, values in read_blocks(InMemoryRun(series), 8, n_before=9, n_after=2)
    }
    assert read == {0: list(range(10)), 8: list(range(18)), 16: list(range(7, 20))}


def test_blocks_end_at_stop():
    assert [block for block, _ in read_blocks(InMemoryRun(torch.zeros(20, 1)), 8, stop=12)] == [
        slice(0, 8),
        slice(8, 12),
    ]


@pytest.mark.parametrize("every", [1, 2, 3, 5, 8, 11])
@pytest.mark.parametrize("length", [1, 8, 9, 17, 24, 25, 41])
def test_every_nth_time_point_begins_each_block(every, length):
    series = torch.arange(float(length + 3))[:, None]
    parts = [values[::every, 0] for _, values in read_blocks(InMemoryRun(series), 8, start=3, every=every)]
    assert all(len(part) for part in parts)
    assert torch.cat(parts).tolist() == list(range(3, length + 3, every))


def test_arrays_have_their_own_subject_and_stimulus():
    run = InMemoryRun(torch.zeros(4, 2))
    first, second, third = as_runs([np.zeros((5, 2)), run, torch.zeros(6, 2, dtype=torch.float64)])
    assert second is run
    assert first.scored.all() and not first.high_motion.any() and first.stimulus_start == 0
    assert (
        len({first.subject, second.subject, third.subject}) == len({first.stimulus, third.stimulus, run.stimulus}) == 3
    )
    assert first.read(0, 5).dtype == third.read(0, 6).dtype == torch.float32


@pytest.mark.parametrize("wrong", [np.zeros(5), np.zeros((5, 2, 1)), np.zeros((5, 2), dtype=int)])
def test_arrays_of_wrong_rank_or_dtype(wrong):
    with pytest.raises(MismatchError, match=r"expected floating-point time points \(time, features\)"):
        as_runs([wrong])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_series_are_kept_in_float32(dtype):
    assert InMemoryRun(torch.ones(4, 2, dtype=dtype)).read(0, 4).dtype == torch.float32


def test_marks_of_another_length_are_refused():
    with pytest.raises(MismatchError, match="expected 4 marks in `scored`"):
        InMemoryRun(torch.zeros(4, 2), np.ones(3, dtype=bool))


def test_runs_are_grouped_by_subject_or_alone():
    runs = [InMemoryRun(torch.zeros(2, 1), key=key, subject=key[0]) for key in ("b1", "a1", "b2")]
    assert group_runs(runs) == [[runs[0], runs[2]], [runs[1]]]
    assert unit_labels(runs[::2]) == ["b1", "b2"]
    assert group_runs(runs[::2]) == [[runs[0]], [runs[2]]]
