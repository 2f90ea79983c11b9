"""Which frames a memory reads where the history before a forecast is swapped for another."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from titan_neuro.errors import NoMatchError
from titan_neuro.probing.windows import spread_targets
from titan_neuro.typing import FrameRun

TRUE, PART, SUBJECT, NOTHING = "true history", "another part", "another subject", "nothing"


@dataclass(frozen=True, kw_only=True, eq=False)
class Swap:
    """The windows of one length of what is kept.

    Attributes
    ----------
    rows : torch.Tensor
        int ``(windows,)``: of `SwapPlan.targets`, those that a window of every condition could be made for.
    places : dict of str to torch.Tensor
        By condition, `TRUE` first: int ``(windows, frames)``, places in the sources put one after the other.
    """

    rows: Tensor
    places: dict[str, Tensor]


@dataclass(kw_only=True, eq=False)
class SwapPlan:
    """What is asked about one run.

    Attributes
    ----------
    history : int
        Frames that are swapped.
    targets : torch.Tensor
        int, frames that are forecast from.
    sources : list of FrameRun
        The run itself, and those that other histories are taken from.
    swaps : dict of int to Swap
        By the number of frames kept.
    not_asked : list of str
        What could not be asked, and why.
    """

    history: int
    targets: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    sources: list[FrameRun]
    swaps: dict[int, Swap] = field(default_factory=dict)
    not_asked: list[str] = field(default_factory=list)


class SwapPlanner:
    """Plan the windows of one run.

    Parameters
    ----------
    run : FrameRun
    tests, others : sequence of FrameRun
        Where other histories may come from; `tests` first, which no model was trained on.
    horizons : tuple of int
    history : int
        Frames that are swapped, at least 1.
    seed : int
        With the run's key, it decides what is drawn.
    """

    def __init__(
        self,
        run: FrameRun,
        tests: Sequence[FrameRun],
        others: Sequence[FrameRun],
        *,
        horizons: tuple[int, ...],
        history: int,
        seed: int,
    ) -> None:
        self.run, self.horizons, self.history = run, horizons, history
        self._rng = np.random.default_rng([seed, zlib.crc32(run.key.encode())])
        self._part = self._draw(self._parts(tests) or self._parts(others))
        self._subject = self._draw(self._subjects(tests) or self._subjects(others))

    def plan(self, kept: Sequence[int], blocks: dict[str, int], *, count: int) -> SwapPlan:
        """Plan windows that keep so many frames, with histories scrambled in these blocks (frames, by condition)."""
        found = SwapPlan(history=self.history, sources=[self.run])
        self._offsets = {}
        for source in (self._part, self._subject):
            if source is not None and source.key not in self._offsets:
                self._offsets[source.key] = sum(run.n_frames for run in found.sources)
                found.sources.append(source)
        if self._subject is None:
            found.not_asked.append(f"{self.run.key}: no other subject saw the same.")
        for length in sorted(kept):
            asked = self._asked(length)
            possible = np.logical_and.reduce([self._reached(length), *asked.values()])
            if not len(found.targets):
                try:
                    found.targets = spread_targets(self.run, self.horizons, count=count, allowed=possible)
                except NoMatchError:
                    found.not_asked.append(self._too_short(length))
                    continue
            rows = torch.from_numpy(np.flatnonzero(possible[found.targets.numpy()]))
            if len(rows):
                found.swaps[length] = self._swap(found.targets[rows], rows, length, blocks, asked)
            else:
                found.not_asked.append(self._too_short(length))
            if PART not in asked:
                found.not_asked.append(f"{self.run.key}: no other part to put before the last {length} frames.")
        return found

    def _too_short(self, length: int) -> str:
        return f"{self.run.key}: no frame to score has {self.history} frames to swap before the last {length}."

    def _draw(self, runs: list[FrameRun]) -> FrameRun | None:
        return runs[self._rng.integers(len(runs))] if runs else None

    def _parts(self, runs: Sequence[FrameRun]) -> list[FrameRun]:
        """Other runs of the subject, of another stimulus where there is one."""
        own = [
            other
            for other in runs
            if other.subject == self.run.subject
            and other.key != self.run.key
            and other.n_frames - other.film_start >= self.history
        ]
        return [other for other in own if other.stimulus != self.run.stimulus] or own

    def _subjects(self, runs: Sequence[FrameRun]) -> list[FrameRun]:
        """Runs of others who saw the same, those that share the most frames of it with this one."""
        shared = {
            number: min(self.run.n_frames, other.n_frames - self._shift(other)) - max(0, -self._shift(other))
            for number, other in enumerate(runs)
            if other.subject != self.run.subject and other.stimulus == self.run.stimulus
        }
        most = max(shared.values(), default=0)
        return [runs[number] for number, frames in shared.items() if frames == most and frames > self.history]

    def _shift(self, other: FrameRun) -> int:
        """Frames from this run's number of a moment to another's."""
        return other.film_start - self.run.film_start

    def _reached(self, length: int) -> np.ndarray:
        possible: np.ndarray = np.arange(self.run.n_frames) >= length + self.history - 1
        return possible

    def _asked(self, length: int) -> dict[str, np.ndarray]:
        """By condition that some frame can be asked about: bool ``(frames,)``."""
        frames = np.arange(self.run.n_frames)
        first = frames - length - self.history + 1
        possible = {PART: np.array([self._reached(length)[t] and len(self._starts(t, length)) > 0 for t in frames])}
        if self._subject is not None:
            shift = self._shift(self._subject)
            possible[SUBJECT] = (first + shift >= 0) & (frames - length + shift < self._subject.n_frames)
        return {condition: mask for condition, mask in possible.items() if (mask & self._reached(length)).any()}

    def _starts(self, target: int, length: int) -> np.ndarray:
        """Where in the sources another part may begin: of this run, else of another of the subject's."""
        busy = (target - length - self.history + 1, target + max(self.horizons))
        starts = self._free(self.run, busy)
        if len(starts) or self._part is None:
            return starts
        if self._part.stimulus == self.run.stimulus:
            shift = self._shift(self._part)
            starts = self._free(self._part, (busy[0] + shift, busy[1] + shift))
        else:
            starts = np.arange(self._part.film_start, self._part.n_frames - self.history + 1)
        return starts + self._offsets[self._part.key]

    def _free(self, run: FrameRun, busy: tuple[int, int]) -> np.ndarray:
        """First frames of stretches of the film that lie before or after the frames from `busy[0]` to `busy[1]`."""
        starts = np.arange(run.film_start, run.n_frames - self.history + 1)
        return starts[(starts + self.history <= busy[0]) | (starts > busy[1])]

    def _swap(
        self, targets: Tensor, rows: Tensor, length: int, blocks: dict[str, int], asked: dict[str, np.ndarray]
    ) -> Swap:
        kept = targets[:, None] + torch.arange(1 - length, 1)
        true = kept[:, :1] + torch.arange(-self.history, 0)
        histories = {TRUE: true}
        if PART in asked:
            starts = [int(self._rng.choice(self._starts(target, length))) for target in targets.tolist()]
            histories[PART] = torch.tensor(starts)[:, None] + torch.arange(self.history)
        if SUBJECT in asked and self._subject is not None:
            histories[SUBJECT] = true + self._shift(self._subject) + self._offsets[self._subject.key]
        for condition, block in blocks.items():
            orders = [scrambled(self.history, block, self._rng) for _ in targets]
            histories[condition] = true.gather(1, torch.from_numpy(np.stack(orders)))
        places = {condition: torch.cat([history, kept], dim=1) for condition, history in histories.items()}
        return Swap(rows=rows, places={**places, NOTHING: kept})


def scrambled(n_frames: int, block: int, rng: np.random.Generator) -> np.ndarray:
    """Put blocks of frames into an order that is not theirs: int ``(n_frames,)``.

    Blocks are counted from the last frame, so that what is left over is the first. There must be two or more.
    """
    pieces = np.split(np.arange(n_frames), range((n_frames - 1) % block + 1, n_frames, block))
    order = np.arange(len(pieces))
    while (order == np.arange(len(pieces))).all():
        order = rng.permutation(len(pieces))
    return np.concatenate([pieces[number] for number in order])
