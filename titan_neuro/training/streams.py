"""Windows of runs in the order of their streams, several streams side by side."""

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


class Windows(NamedTuple):
    """One step of all streams.

    Attributes
    ----------
    series : torch.Tensor
        float32 ``(streams, window + longest horizon, features)``: what the model reads, and what comes after it.
    valid : torch.Tensor
        bool ``(streams, window + longest horizon)``: the time point exists and is scored.
    is_start : torch.Tensor
        bool ``(streams,)``: a run begins here, nothing is carried over from the window before.
    keys : tuple of str
        Of the run that each stream reads; empty where it reads none.
    n_streams : int
        Streams that read a run, of all processes together.
    n_targets : int
        Time points that are forecast, over all horizons, scored ones alone: of the streams of all processes.
    features : torch.Tensor or None
        float32 ``(streams, window, ...)``: what a frozen encoder has made of the time points that the model reads.
    """

    series: Tensor
    valid: Tensor
    is_start: Tensor
    keys: tuple[str, ...]
    n_streams: int
    n_targets: int
    features: Tensor | None = None

    def pin_memory(self) -> Windows:
        """The same in memory from which a GPU reads while it computes."""
        return self._replace(
            series=self.series.pin_memory(),
            valid=self.valid.pin_memory(),
            is_start=self.is_start.pin_memory(),
            features=None if self.features is None else self.features.pin_memory(),
        )


class Share(NamedTuple):
    """Which streams one of several processes reads: every `n`-th, from the `rank`-th on."""

    rank: int = 0
    n: int = 1


_ALONE = Share()


class _Piece(NamedTuple):
    run: int
    start: int
    is_start: bool


class StreamWindows(Dataset[Windows]):
    """Every run, cut into windows; item ``i`` holds the ``i``-th window of each stream.

    A stream takes a new run when its last has ended, so that none waits for the longest. Runs may start at random
    offsets: nothing should be learned from the time since a run began.

    Several processes share the streams: which run is read where and when does not depend on their number, each has as
    many steps as the others, and one that has no stream of its own reads an empty one.

    Parameters
    ----------
    runs : sequence of RunData
    window_time_points : int
        Time points that the model reads in a step.
    n_streams : int
        Streams side by side, of all processes together; no more than there are runs.
    horizons : sequence of int
        Time points ahead that are forecast; the longest says how many time points are read after the window.
    min_steps : int
        The runs are read again, in another order, until there are so many steps.
    features : mapping of str to FeatureStore, optional
        By the key of the run: read along with the time points.
    seed : int or None
        Order of the runs and their offsets; None takes the runs in order, from their first time point.
    share : Share
        The part of the streams that is read here.
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
        share: Share = _ALONE,
    ) -> None:
        self._runs, self._window, self._horizons = runs, window_time_points, tuple(horizons)
        self._features, self._share = features, share
        self.n_streams = min(n_streams, len(runs))
        self._steps = self._schedule(self.n_streams, min_steps, seed)
        # Scored time points before each time point, so that those of a window are one difference.
        self._scored_before = [np.concatenate([[0], np.cumsum(run.scored)]) for run in runs]

    def _schedule(self, n_streams: int, min_steps: int, seed: int | None) -> list[list[_Piece | None]]:
        rng = None if seed is None else np.random.default_rng(seed)
        waiting: list[list[_Piece]] = []
        lanes: list[list[_Piece]] = [[] for _ in range(n_streams)]
        steps: list[list[_Piece | None]] = []
        n_passes = 0
        while True:
            if not waiting and (n_passes == 0 or len(steps) < min_steps):
                order = np.arange(len(self._runs)) if rng is None else rng.permutation(len(self._runs))
                waiting = [self._pieces(int(run), rng) for run in order][::-1]
                n_passes += 1
            for lane in lanes:
                while not lane and waiting:
                    lane.extend(waiting.pop())
            if not any(lanes):
                return steps
            steps.append([lane.pop(0) if lane else None for lane in lanes])

    def _pieces(self, run: int, rng: np.random.Generator | None) -> list[_Piece]:
        length = self._runs[run].n_time_points
        offset = int(rng.integers(min(self._window, max(1, length // 2)))) if rng is not None else 0
        # The last time point of a run has nothing after it to be learned from.
        return [_Piece(run, start, start == offset) for start in range(offset, length - 1, self._window)]

    def _n_targets(self, piece: _Piece | None) -> int:
        if piece is None:
            return 0
        before, last = self._scored_before[piece.run], self._runs[piece.run].n_time_points
        starts = [min(piece.start + horizon, last) for horizon in self._horizons]
        return int(sum(before[min(start + self._window, last)] - before[start] for start in starts))

    def __len__(self) -> int:
        """Number of steps."""
        return len(self._steps)

    def __getitem__(self, index: int) -> Windows:
        """Read the windows of step `index`."""
        of_all = self._steps[index]
        pieces = of_all[self._share.rank :: self._share.n] or [None]
        length, n_features = self._window + max(self._horizons), self._runs[0].n_features
        series = torch.zeros(len(pieces), length, n_features)
        valid = torch.zeros(len(pieces), length, dtype=torch.bool)
        is_start = torch.zeros(len(pieces), dtype=torch.bool)
        for lane, piece in enumerate(pieces):
            if piece is None:
                # A stream without a run reads the mean and learns nothing.
                is_start[lane] = True
                continue
            run = self._runs[piece.run]
            read = run.read(piece.start, min(piece.start + length, run.n_time_points))
            series[lane, : len(read)] = read
            valid[lane, : len(read)] = torch.from_numpy(run.scored[piece.start : piece.start + len(read)])
            is_start[lane] = piece.is_start
        keys = tuple("" if piece is None else self._runs[piece.run].key for piece in pieces)
        n_streams, n_targets = sum(piece is not None for piece in of_all), sum(map(self._n_targets, of_all))
        return Windows(series, valid, is_start, keys, n_streams, n_targets, self._read_features(pieces))

    def _read_features(self, pieces: Sequence[_Piece | None]) -> Tensor | None:
        if not self._features:
            return None
        shape = next(iter(self._features.values())).shape
        features = torch.zeros(len(pieces), self._window, *shape)
        for lane, piece in enumerate(pieces):
            if piece is not None:
                read = self._features[self._runs[piece.run].key].read(piece.start, piece.start + self._window)
                features[lane, : len(read)] = read
        return features


class StreamLoader:
    """Windows one after the other, the next being read while the last is learned from; it can go on where it was.

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
        """Number of steps from the first on, wherever this goes on."""
        return len(self.windows)

    def __iter__(self) -> Iterator[Windows]:
        """Yield the windows from the position on."""
        # A thread and no process: decompression lets other threads run, and nothing has to be copied or can be killed.
        with ThreadPoolExecutor(1, thread_name_prefix="windows") as reader:
            coming = reader.submit(self._read, self._position) if self._position < len(self) else None
            while coming is not None:
                windows = coming.result()
                self._position += 1
                coming = reader.submit(self._read, self._position) if self._position < len(self) else None
                yield windows
        self._position = 0

    def _read(self, index: int) -> Windows:
        windows = self.windows[index]
        return windows.pin_memory() if self._pin_memory else windows

    def state_dict(self) -> dict[str, Any]:
        """How many steps were taken, and of how many."""
        return {"position": self._position, "steps": len(self)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on after so many steps.

        Raises
        ------
        MismatchError
            They were steps of other streams.
        """
        if saved["steps"] != len(self):
            raise MismatchError(f"streams: expected {len(self)} steps, found a position among {saved['steps']}.")
        self._position = int(saved["position"])
