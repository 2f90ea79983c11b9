"""Schedule of the streams: which windows are read where, and in which order."""

import numpy as np
import pytest
import torch

from titan_neuro.training.streams import StreamWindows


class NumberedRun:
    """Time point t of run r has the single value 1000 r + t + 1."""

    n_features = 1

    def __init__(self, number, n_time_points):
        self.number, self.n_time_points, self.key, self.subject = number, n_time_points, f"run-{number}", "01"
        self.scored = np.arange(n_time_points) % 3 > 0

    def read(self, start, stop):
        return torch.arange(start, min(stop, self.n_time_points)).float()[:, None] + 1000 * self.number + 1


RUNS = [NumberedRun(number, length) for number, length in enumerate([50, 33, 16, 81, 47])]


def streams(windows):
    """Values that the model reads, and starts of runs, along each stream."""
    steps = [windows[index] for index in range(len(windows))]
    series = torch.stack([step.series[:, :16, 0] for step in steps], 1)
    starts = torch.stack([step.is_start for step in steps], 1)
    return series.numpy(), starts.numpy()


@pytest.mark.parametrize("n_streams", [1, 2, 4, 9])
def test_every_time_point_is_read_once_in_order(n_streams):
    series, starts = streams(
        StreamWindows(RUNS, window_time_points=16, n_streams=n_streams, horizons=(1, 3), seed=None)
    )
    values = series[series > 0]
    expected = np.concatenate([run.read(0, run.n_time_points)[:, 0].numpy() for run in RUNS])
    # A window with only the last time point of a run has no target, and is omitted.
    assert set(expected) - set(values) <= {
        1000 * run.number + run.n_time_points for run in RUNS if run.n_time_points % 16 == 1
    }
    assert len(values) == len(set(values))
    for stream, is_start in zip(series, starts, strict=True):
        for step in range(1, len(stream)):
            if not is_start[step]:
                assert stream[step, 0] == stream[step - 1, 0] + 16  # the next window
            elif stream[step, 0]:
                assert stream[step, 0] % 1000 == 1  # a run begins


def test_valid_marks_existing_scored_time_points():
    windows = StreamWindows(RUNS, window_time_points=16, n_streams=2, horizons=(1, 3), seed=None)
    for index in range(len(windows)):
        series, valid, *_ = windows[index]
        numbers = series[..., 0].numpy().astype(int)
        exists = numbers > 0
        assert np.array_equal(valid.numpy(), exists & ((numbers - 1) % 1000 % 3 > 0))


def test_a_seed_determines_order_and_offsets():
    options = {"window_time_points": 16, "n_streams": 2, "horizons": (1, 3)}
    first, _ = streams(StreamWindows(RUNS, seed=1, **options))
    again, _ = streams(StreamWindows(RUNS, seed=1, **options))
    other, _ = streams(StreamWindows(RUNS, seed=2, **options))
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:, 0], other[:, 0])


def test_runs_are_repeated_until_enough_steps():
    windows = StreamWindows(RUNS, window_time_points=16, n_streams=2, horizons=(1, 3), min_steps=40, seed=0)
    assert 40 <= len(windows) < 60
