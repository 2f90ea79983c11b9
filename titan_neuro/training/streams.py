"""Windows of runs, in the order of several streams that are read side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from titan_neuro.data.store import FeatureStore
from titan_neuro.errors import MismatchError
from titan_neuro.typing import RunData


class WindowBatch(NamedTuple):
    """One window of each stream.

    Attributes
    ----------
    series : torch.Tensor
        float32 ``(streams, window + longest lead time, features)``: the window that the model reads, and the time
        points after it that are only forecast.
    valid : torch.Tensor
        bool ``(streams, window + longest lead time)``: the time point exists and is scored.
    is_start : torch.Tensor
        bool ``(streams,)``: a run begins with this window, so that no state is carried over.
    keys : tuple of str
        Key of the run that each stream reads; empty where it reads none.
    n_streams : int
        Number of streams that read a run, over all processes.
    n_targets : int
        Number of scored targets, over all lead times and over the streams of all processes.
    features : torch.Tensor or None
        float32 ``(streams, window, ...)``: output of a frozen encoder for the window.
    """

    series: Tensor
    valid: Tensor
    is_start: Tensor
    keys: tuple[str, ...]
    n_streams: int
    n_targets: int
    features: Tensor | None = None

    def pin_memory(self) -> WindowBatch:
        """Return the same batch in pinned memory, which a GPU reads while it computes."""
        return self._replace(
            series=self.series.pin_memory(),
            valid=self.valid.pin_memory(),
            is_start=self.is_start.pin_memory(),
            features=None if self.features is None else self.features.pin_memory(),
        )


class Rank(NamedTuple):
    """Number of this process among those that train together. It reads every `world_size`-th stream, from `rank` on."""

    rank: int = 0
    world_size: int = 1


_SINGLE_PROCESS = Rank()


class _Window(NamedTuple):
    run: int
    start: int
    is_start: bool


class StreamWindows(Dataset[WindowBatch]):
    """Every run, cut into windows; item ``i`` holds the ``i``-th window of each stream.

    A stream continues with a new run as soon as its run has ended: no stream waits for the longest run. Runs may start
    at random offsets, so that nothing can be learned from the time since a run began.

    Several processes share the streams. The schedule (which run is read where and when) does not depend on their
    number, and all have the same number of steps. A process without a stream reads an empty one.

    Parameters
    ----------
    runs : sequence of RunData
    window_time_points : int
        Time points that the model reads in a step.
    n_streams : int
        Number of streams over all processes; at most the number of runs is used.
    horizons : sequence of int
        Lead times, in time points. The longest says how many time points are read after the window.
    min_steps : int
        The runs are read again, in another order, until there are at least this many steps.
    features : mapping of str to FeatureStore, optional
        Output of a frozen encoder, by the key of the run; read along with the time points.
    seed : int or None
        Of the order of the runs and of their offsets. None reads the runs in order, from their first time point.
    rank : Rank
        Which of the streams this process reads.
    """

    def __init__(
        self,
        runs: Sequence[RunData],
        *,
        window_time_points: int,
        n_streams: int,
        horizons: Sequence[int],
        min_steps: int = 1,
        features: Mapping[str, FeatureStore] | None = None,
        seed: int | None,
        rank: Rank = _SINGLE_PROCESS,
    ) -> None:
        self._runs, self._window, self._horizons = runs, window_time_points, tuple(horizons)
        self._features, self._rank = features, rank
        self.n_streams = min(n_streams, len(runs))
        self._steps = self._schedule(self.n_streams, min_steps, seed)
        # Number of scored time points before each time point: that of a window is one difference.
        self._scored_before = [np.concatenate([[0], np.cumsum(run.scored)]) for run in runs]

    def _schedule(self, n_streams: int, min_steps: int, seed: int | None) -> list[list[_Window | None]]:
        rng = None if seed is None else np.random.default_rng(seed)
        waiting: list[list[_Window]] = []
        streams: list[list[_Window]] = [[] for _ in range(n_streams)]
        steps: list[list[_Window | None]] = []
        n_passes = 0
        while True:
            if not waiting and (n_passes == 0 or len(steps) < min_steps):
                order = np.arange(len(self._runs)) if rng is None else rng.permutation(len(self._runs))
                waiting = [self._cut(int(run), rng) for run in order][::-1]
                n_passes += 1
            for stream in streams:
                while not stream and waiting:
                    stream.extend(waiting.pop())
            if not any(streams):
                return steps
            steps.append([stream.pop(0) if stream else None for stream in streams])

    def _cut(self, run: int, rng: np.random.Generator | None) -> list[_Window]:
        length = self._runs[run].n_time_points
        offset = int(rng.integers(min(self._window, max(1, length // 2)))) if rng is not None else 0
        # A window of the last time point alone has no target.
        return [_Window(run, start, start == offset) for start in range(offset, length - 1, self._window)]

    def _n_targets(self, window: _Window | None) -> int:
        if window is None:
            return 0
        before, end = self._scored_before[window.run], self._runs[window.run].n_time_points
        first_targets = [min(window.start + horizon, end) for horizon in self._horizons]
        return int(sum(before[min(first + self._window, end)] - before[first] for first in first_targets))

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self._steps)

    def __getitem__(self, index: int) -> WindowBatch:
        """Read the windows of step `index`."""
        of_all = self._steps[index]
        windows = of_all[self._rank.rank :: self._rank.world_size] or [None]
        length, n_features = self._window + max(self._horizons), self._runs[0].n_features
        series = torch.zeros(len(windows), length, n_features)
        valid = torch.zeros(len(windows), length, dtype=torch.bool)
        is_start = torch.zeros(len(windows), dtype=torch.bool)
        for stream, window in enumerate(windows):
            if window is None:
                # A stream without a run reads zeros, the mean, and has no target.
                is_start[stream] = True
                continue
            run = self._runs[window.run]
            values = run.read(window.start, min(window.start + length, run.n_time_points))
            series[stream, : len(values)] = values
            valid[stream, : len(values)] = torch.from_numpy(run.scored[window.start : window.start + len(values)])
            is_start[stream] = window.is_start
        return WindowBatch(
            series,
            valid,
            is_start,
            keys=tuple("" if window is None else self._runs[window.run].key for window in windows),
            n_streams=sum(window is not None for window in of_all),
            n_targets=sum(map(self._n_targets, of_all)),
            features=self._read_features(windows),
        )

    def _read_features(self, windows: Sequence[_Window | None]) -> Tensor | None:
        if not self._features:
            return None
        shape = next(iter(self._features.values())).shape
        features = torch.zeros(len(windows), self._window, *shape)
        for stream, window in enumerate(windows):
            if window is not None:
                store = self._features[self._runs[window.run].key]
                values = store.read(window.start, window.start + self._window)
                features[stream, : len(values)] = values
        return features


class StreamLoader:
    """Loads windows in order, each while the model computes on the one before; can resume at its position.

    Parameters
    ----------
    windows : StreamWindows
    pin_memory : bool
        For a GPU.
    """

    def __init__(self, windows: StreamWindows, *, pin_memory: bool = False) -> None:
        self.windows, self._pin_memory = windows, pin_memory
        self._position = 0

    def __len__(self) -> int:
        """Return the number of steps from the first on, whatever the position."""
        return len(self.windows)

    def __iter__(self) -> Iterator[WindowBatch]:
        """Yield the windows from the position on."""
        # A thread and no process: decompression lets other threads run, nothing is copied, and no worker can be killed.
        with ThreadPoolExecutor(1, thread_name_prefix="windows") as reader:
            pending = reader.submit(self._read, self._position) if self._position < len(self) else None
            while pending is not None:
                windows = pending.result()
                self._position += 1
                pending = reader.submit(self._read, self._position) if self._position < len(self) else None
                yield windows
        self._position = 0

    def _read(self, index: int) -> WindowBatch:
        windows = self.windows[index]
        return windows.pin_memory() if self._pin_memory else windows

    def state_dict(self) -> dict[str, Any]:
        """Return the position (number of steps done) and the number of all steps."""
        return {"position": self._position, "steps": len(self)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Resume at a saved position.

        Raises
        ------
        MismatchError
            The position was saved with another number of steps, so with other streams.
        """
        if saved["steps"] != len(self):
            raise MismatchError(f"streams: expected {len(self)} steps, found a position among {saved['steps']}.")
        self._position = int(saved["position"])
