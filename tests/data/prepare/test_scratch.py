import numpy as np
import pytest

from titan_neuro.data.prepare.scratch import ScratchSeries
from titan_neuro.errors import OutputError


@pytest.fixture
def run():
    return np.random.default_rng(0).normal(size=(23, 11)).astype(np.float32)


def fill(scratch, run, cuts=(1, 9)):
    for block in np.split(run, cuts):
        scratch.append(block)


@pytest.mark.parametrize("cuts", [(), (1, 9), tuple(range(1, 23))])
def test_time_points_and_columns_are_read_back(tmp_path, run, cuts):
    with ScratchSeries(tmp_path / "run") as scratch:
        fill(scratch, run, cuts)
        assert (scratch.n_time_points, scratch.n_columns) == run.shape
        assert np.array_equal(scratch.read_columns(4, 11), run[:, 4:11])
        assert np.array_equal(scratch.read(7, 23), run[7:23])
        assert np.array_equal(scratch.read_columns(0, 1), run[:, :1])


def test_replacing_columns_keeps_the_others(tmp_path, run):
    with ScratchSeries(tmp_path / "run") as scratch:
        fill(scratch, run)
        scratch.replace_columns(3, -run[:, 3:7].astype(np.float64))
        expected = run.copy()
        expected[:, 3:7] *= -1
        # What is appended afterwards goes to the end, wherever was written last.
        scratch.append(run[:2])
        assert np.array_equal(scratch.read(0, 25), np.concatenate([expected, run[:2]]))


def test_other_memory_layouts_are_read_back(tmp_path):
    block = np.arange(60, dtype=np.int16).reshape(5, 12)
    with ScratchSeries(tmp_path / "run") as scratch:
        scratch.append(np.asfortranarray(block))
        scratch.append(block[:, ::-1])
        assert np.array_equal(scratch.read(0, 10), np.concatenate([block, block[:, ::-1]]))


def test_file_is_removed_at_the_end(tmp_path, run):
    (tmp_path / "run").write_bytes(b"left by a process that was killed" * 1000)
    with ScratchSeries(tmp_path / "run") as scratch:
        fill(scratch, run)
        assert (tmp_path / "run").stat().st_size == run.nbytes
    assert not list(tmp_path.iterdir())


def test_file_is_removed_after_an_error(tmp_path, run):
    with pytest.raises(KeyError), ScratchSeries(tmp_path / "run") as scratch:
        fill(scratch, run)
        raise KeyError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("read", [lambda scratch: scratch.read(20, 23), lambda scratch: scratch.read_columns(0, 11)])
def test_a_file_that_ends_early(tmp_path, run, read):
    with ScratchSeries(tmp_path / "run") as scratch:
        fill(scratch, run)
        with (tmp_path / "run").open("r+b") as file:
            file.truncate(run.nbytes - 6)
        with pytest.raises(EOFError, match=r"run: expected .* more bytes, found the end of the file"):
            read(scratch)


def test_a_full_disk(tmp_path, run):
    # The kernel's device that is always full.
    (tmp_path / "run").symlink_to("/dev/full")
    with (
        ScratchSeries(tmp_path / "run") as scratch,
        pytest.raises(OutputError, match="run: can't be written: No space left"),
    ):
        scratch.append(run)
    assert not list(tmp_path.iterdir())
