"""Windows of runs in the order of their streams, several streams side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from titan_neuro.data.store import FeatureStore
from titan_neuro.typing import FrameRun


class Windows(NamedTuple):
    """One step of all streams.

    Attributes
    ----------
    frames : torch.Tensor
        float32 ``(streams, window + longest horizon, features)``: what the model reads, and what comes after it.
    valid : torch.Tensor
        bool ``(streams, window + longest horizon)``: the frame exists and is scored.
    is_start : torch.Tensor
        bool ``(streams,)``: a run begins here, nothing is carried over from the window before.
    keys : tuple of str
        Of the run that each stream reads; empty where it reads none.
    features : torch.Tensor or None
        float32 ``(streams, window, ...)``: what a frozen encoder has made of the frames that the model reads.
    """

    frames: Tensor
    valid: Tensor
    is_start: Tensor
    keys: tuple[str, ...]
    features: Tensor | None = None


class _Piece(NamedTuple):
    run: int
    start: int
    is_start: bool


class StreamWindows(Dataset[Windows]):
    """Every run, cut into windows; item ``i`` holds the ``i``-th window of each stream.

    A stream takes a new run when its last has ended, so that none waits for the longest. Runs may start at random
    offsets: nothing should be learned from the time since a run began.

    Parameters
    ----------
    runs : sequence of FrameRun
    window_frames : int
        Frames that the model reads in a step.
    n_streams : int
        Streams side by side; no more than there are runs.
    max_horizon : int
        Frames after the window that serve as targets.
    min_steps : int
        The runs are read again, in another order, until there are so many steps.
    features : mapping of str to FeatureStore, optional
        By the key of the run: read along with the frames.
    seed : int or None
        Order of the runs and their offsets; None takes the runs in order, from their first frame.
    """

    def __init__(
        self,
        runs: Sequence[FrameRun],
        *,
        window_frames: int,
        n_streams: int,
        max_horizon: int,
        min_steps: int = 1,
        features: Mapping[str, FeatureStore] | None = None,
        seed: int | None,
    ) -> None:
        self._runs, self._window, self._ahead = runs, window_frames, max_horizon
        self._features = features
        self._steps = self._schedule(min(n_streams, len(runs)), min_steps, seed)

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
        length = self._runs[run].n_frames
        offset = int(rng.integers(min(self._window, max(1, length // 2)))) if rng is not None else 0
        # The last frame of a run has nothing after it to be learned from.
        return [_Piece(run, start, start == offset) for start in range(offset, length - 1, self._window)]

    def __len__(self) -> int:
        """Number of steps."""
        return len(self._steps)

    def __getitem__(self, index: int) -> Windows:
        """Read the windows of step `index`."""
        pieces = self._steps[index]
        length, n_features = self._window + self._ahead, self._runs[0].n_features
        frames = torch.zeros(len(pieces), length, n_features)
        valid = torch.zeros(len(pieces), length, dtype=torch.bool)
        is_start = torch.zeros(len(pieces), dtype=torch.bool)
        for lane, piece in enumerate(pieces):
            if piece is None:
                # A stream without a run reads the mean and learns nothing.
                is_start[lane] = True
                continue
            run = self._runs[piece.run]
            read = run.read(piece.start, min(piece.start + length, run.n_frames))
            frames[lane, : len(read)] = read
            valid[lane, : len(read)] = torch.from_numpy(run.scored[piece.start : piece.start + len(read)])
            is_start[lane] = piece.is_start
        keys = tuple("" if piece is None else self._runs[piece.run].key for piece in pieces)
        return Windows(frames, valid, is_start, keys, self._read_features(pieces))

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
