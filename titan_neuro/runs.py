"""Runs, whatever they are read from: blocks of time points, runs made from arrays, groups for cross-validation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from titan_neuro.errors import MismatchError
from titan_neuro.typing import RunData

Run = TypeVar("Run", bound=RunData)

# Time points read at a time: 70,000 voxels take 72 MB. A caller that keeps several horizons of a block asks for fewer.
BLOCK_TIME_POINTS = 256


def block_slices(
    stop: int, block_time_points: int = BLOCK_TIME_POINTS, *, start: int = 0, every: int = 1
) -> Iterator[slice]:
    """Cut the time points ``start <= t < stop`` into consecutive blocks.

    Parameters
    ----------
    stop : int
        End, exclusive.
    block_time_points : int
        Length of a block in time points, at least 1; the last block may be shorter.
    start : int
        First time point.
    every : int
        Where not all time points are used: the distance of those that are, counted from `start`. Each block begins with
        one of them, so that none is without: blocks are shortened to a multiple of `every`, or have its length.

    Yields
    ------
    slice
        ``start`` and ``stop`` of a block.
    """
    length = max(block_time_points // every, 1) * every
    for first in range(start, stop, length):
        yield slice(first, min(first + length, stop))


def read_blocks(
    run: RunData,
    block_time_points: int = BLOCK_TIME_POINTS,
    *,
    start: int = 0,
    stop: int | None = None,
    n_before: int = 0,
    n_after: int = 0,
    every: int = 1,
) -> Iterator[tuple[slice, Tensor]]:
    """Read a run block by block, in order of time.

    Parameters
    ----------
    run : RunData
    block_time_points : int
        Length of a block in time points, at least 1; the last block may be shorter.
    start, stop : int
        First time point, and the end (exclusive; by default that of the run).
    n_before, n_after : int
        Time points read in addition before and after each block, as far as the run has them.
    every : int
        See :func:`block_slices`.

    Yields
    ------
    block : slice
        Time points of the block within the run, without those of `n_before` and `n_after`.
    series : torch.Tensor
        float32 ``(time, features)``: time points ``max(0, block.start - n_before)`` to
        ``min(block.stop + n_after, run.n_time_points)``, exclusive.

    Examples
    --------
    >>> total = sum(series[torch.as_tensor(run.scored[block])].sum(0) for block, series in read_blocks(run))
    """
    stop = run.n_time_points if stop is None else stop
    for block in block_slices(stop, block_time_points, start=start, every=every):
        yield block, run.read(max(0, block.start - n_before), min(block.stop + n_after, run.n_time_points))


def _unset() -> np.ndarray:
    return np.zeros(0, dtype=bool)


@dataclass(eq=False)
class InMemoryRun:
    """A run whose time points lie in memory; keeps the protocol of :class:`titan_neuro.typing.RunData`.

    Attributes
    ----------
    series : torch.Tensor
        ``(time, features)``, z-scored per feature; of any floating-point type, and kept in float32.
    scored : numpy.ndarray
        bool ``(time,)``: the time points that a loss or a score may use as a target; by default all.
    key : str
        Unique name of the run.
    subject, stimulus : str
        Who was recorded, and what was shown: runs of one stimulus saw the same, counted from `stimulus_start`.
    high_motion : numpy.ndarray
        bool ``(time,)``: framewise displacement above :data:`titan_neuro.typing.HIGH_MOTION_MM`; by default nowhere.
    stimulus_start : int
        Time point at which the stimulus begins; by default the first scored one.

    Raises
    ------
    MismatchError
        `series` is not a floating-point matrix with a row or more, or `scored` or `high_motion` has another length.
    """

    series: Tensor
    scored: np.ndarray = field(default_factory=_unset)
    key: str = "sub-01_task-movie_run-02"
    subject: str = "01"
    stimulus: str = "task-movie_run-02"
    high_motion: np.ndarray = field(default_factory=_unset)
    stimulus_start: int = -1
    n_time_points: int = field(init=False)
    n_features: int = field(init=False)

    def __post_init__(self) -> None:
        if self.series.ndim != 2 or not self.series.is_floating_point():
            raise MismatchError(
                f"{self.key}: expected floating-point time points (time, features), found {self.series.dtype} "
                f"{tuple(self.series.shape)}.",
                "Pass one matrix for each run, z-scored per feature.",
            )
        self.series = self.series.float()
        self.n_time_points, self.n_features = self.series.shape
        if not self.n_time_points:
            raise MismatchError(f"{self.key}: expected at least one time point, found {tuple(self.series.shape)}.")
        if not len(self.scored):
            self.scored = np.ones(self.n_time_points, dtype=bool)
        if not len(self.high_motion):
            self.high_motion = np.zeros(self.n_time_points, dtype=bool)
        for name, marks in (("scored", self.scored), ("high_motion", self.high_motion)):
            if marks.shape != (self.n_time_points,):
                raise MismatchError(
                    f"{self.key}: expected {self.n_time_points} marks in `{name}`, one for each time point, found "
                    f"{marks.shape}."
                )
        if self.stimulus_start < 0:
            self.stimulus_start = int(self.scored.argmax())

    def read(self, start: int, stop: int) -> Tensor:
        """Time points ``start <= t < stop``, ``(stop - start, features)``."""
        return self.series[start:stop]


def as_runs(runs: Sequence[RunData | Tensor | np.ndarray]) -> list[RunData]:
    """Make a run of each array or tensor; runs stay what they are.

    Nothing is known of who an array was recorded from and what was shown: each counts as a subject of its own who saw a
    stimulus of its own. Wrap arrays in :class:`InMemoryRun` to say more.

    Parameters
    ----------
    runs : sequence of RunData, torch.Tensor or numpy.ndarray
        Arrays are ``(time, features)``, floating-point, z-scored per feature.

    Returns
    -------
    list of RunData
        float32; the key of an array is ``array-N``, N counted from 0.

    Raises
    ------
    MismatchError
        An array that is not a floating-point matrix, or something that is neither an array nor a run.
    """
    hint = "Convert each run, for example by run.to_numpy() or numpy.asarray(run, dtype='float32')."
    if isinstance(runs, Mapping) or not isinstance(runs, Iterable):
        raise MismatchError(f"Expected a sequence of runs, one for each recording; found {type(runs).__name__}.", hint)
    wrapped: list[RunData] = []
    for number, run in enumerate(runs):
        if isinstance(run, np.ndarray | Tensor):
            name = f"array-{number}"
            wrapped.append(InMemoryRun(torch.as_tensor(run), key=name, subject=name, stimulus=name))
        elif callable(getattr(run, "read", None)):
            wrapped.append(run)
        else:
            raise MismatchError(
                f"Run {number}: expected a run, or an array or tensor (time, features), found {type(run).__name__}.",
                hint,
            )
    return wrapped


def unit_labels(runs: Sequence[RunData]) -> list[str]:
    """For each run what is held out together with it: its subject, or its key where there is one subject."""
    several_subjects = len({run.subject for run in runs}) > 1
    return [run.subject if several_subjects else run.key for run in runs]


def group_runs(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs by subject; where there is one subject, each run is a group.

    Parameters
    ----------
    runs : sequence of RunData

    Returns
    -------
    list of list of RunData
        In the order in which the subjects stand first.
    """
    groups: dict[str, list[Run]] = {}
    for label, run in zip(unit_labels(runs), runs, strict=True):
        groups.setdefault(label, []).append(run)
    return list(groups.values())
