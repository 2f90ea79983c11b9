"""Which time points a memory reads where the history before a seam is swapped for another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from titan_neuro.probing.tools.windows import spread, usable_targets
from titan_neuro.seeds import named_generator
from titan_neuro.typing import RunData

TRUE, PART, SUBJECT, NOTHING = "true history", "another part", "another subject", "nothing"


@dataclass(kw_only=True, eq=False)
class SwapPlan:
    """What is asked about one run.

    Attributes
    ----------
    history : int
        Time points that are swapped.
    targets : torch.Tensor
        int ``(seams, lengths kept)``: time points that are forecast from.
    usable : torch.Tensor
        bool, of the same shape: those of them that can be scored.
    sources : list of RunData
        The run itself, and those that other histories are taken from.
    windows : dict of str to torch.Tensor
        By condition: int ``(seams, series)``, places in the sources put one after the other. All end with the same true
        time points, as many as the longest length kept. Empty where nothing can be asked.
    not_asked : list of str
        Reasons why something could not be asked.
    """

    history: int
    targets: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))
    usable: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.bool))
    sources: list[RunData]
    windows: dict[str, Tensor] = field(default_factory=dict)
    not_asked: list[str] = field(default_factory=list)


class SwapPlanner:
    """Plan the windows of one run.

    Parameters
    ----------
    run : RunData
    tests, others : sequence of RunData
        Where other histories may come from; `tests` first, which no model was trained on.
    horizons : tuple of int
    kept : tuple of int
        Time points from the seam to a target, with both; ascending.
    history : int
        Time points that are swapped, at least 1.
    seed : int
        With the run's key, it decides what is drawn.
    """

    def __init__(
        self,
        run: RunData,
        tests: Sequence[RunData],
        others: Sequence[RunData],
        *,
        horizons: tuple[int, ...],
        kept: tuple[int, ...],
        history: int,
        seed: int,
    ) -> None:
        self.run, self.horizons, self.kept, self.history = run, horizons, kept, history
        self._rng = named_generator(seed, run.key)
        self._part = self._draw(self._parts(tests) or self._parts(others))
        self._subject = self._draw(self._subjects(tests) or self._subjects(others))
        self._sources, self._offsets = [run], {run.key: 0}
        for source in (self._part, self._subject):
            if source is not None and source.key not in self._offsets:
                self._offsets[source.key] = sum(before.n_time_points for before in self._sources)
                self._sources.append(source)

    def plan(self, blocks: dict[str, int], *, count: int) -> SwapPlan:
        """Plan windows about `count` seams at most, with histories scrambled in these blocks (time points, by
        condition).
        """
        found = SwapPlan(history=self.history, sources=self._sources)
        usable = usable_targets(self.run, self.horizons)
        # A place beyond the end of the run is never a target.
        usable = np.concatenate([usable, np.zeros(max(self.kept), dtype=bool)])
        series = np.arange(self.run.n_time_points)
        possible = (series >= self.history) & usable[series + self.kept[0] - 1]
        asked = self._asked(possible)
        for condition in (PART, SUBJECT):
            if condition not in asked:
                found.not_asked.append(f"There is no history of {condition}")
        seams = spread(np.logical_and.reduce([possible, *asked.values()]), count)
        if len(seams):
            found.targets = seams[:, None] + torch.tensor(self.kept) - 1
            found.usable = torch.from_numpy(usable)[found.targets]
            found.windows = self._windows(seams, blocks, asked)
        else:
            found.not_asked.append(
                f"No time point to score lies {self.history + self.kept[0]} time points or more into the run"
            )
        return found

    def _draw(self, runs: list[RunData]) -> RunData | None:
        return runs[self._rng.integers(len(runs))] if runs else None

    def _parts(self, runs: Sequence[RunData]) -> list[RunData]:
        """Other runs of the subject, where this one is too short to have another part for every seam."""
        if self.run.n_time_points - self.run.stimulus_start >= 3 * self.history + max(self.kept) + max(self.horizons):
            return []
        own = [
            other
            for other in runs
            if other.subject == self.run.subject
            and other.key != self.run.key
            and other.n_time_points - other.stimulus_start >= self.history
        ]
        return [other for other in own if other.stimulus != self.run.stimulus] or own

    def _subjects(self, runs: Sequence[RunData]) -> list[RunData]:
        """Runs of others who saw the same, those that share the most time points of it with this one."""
        shared = {
            number: min(self.run.n_time_points, other.n_time_points - self._shift(other)) - max(0, -self._shift(other))
            for number, other in enumerate(runs)
            if other.subject != self.run.subject and other.stimulus == self.run.stimulus
        }
        most = max(shared.values(), default=0)
        return [runs[number] for number, series in shared.items() if series == most >= self.history]

    def _shift(self, other: RunData) -> int:
        """Time points from this run's number of a moment to another's."""
        return other.stimulus_start - self.run.stimulus_start

    def _asked(self, possible: np.ndarray) -> dict[str, np.ndarray]:
        """By condition that some seam can be asked about: bool ``(series,)``."""
        parts = possible.copy()
        parts[possible] = [len(self._starts(seam)) > 0 for seam in np.flatnonzero(possible).tolist()]
        asked = {PART: parts}
        if self._subject is not None:
            seams = np.arange(len(possible)) + self._shift(self._subject)
            asked[SUBJECT] = possible & (seams >= self.history) & (seams <= self._subject.n_time_points)
        return {condition: mask for condition, mask in asked.items() if mask.any()}

    def _starts(self, seam: int) -> np.ndarray:
        """Where in the sources another part may begin: in this run, else in another of the subject's."""
        starts = self._free(self.run, seam)
        if len(starts) or self._part is None:
            return starts
        if self._part.stimulus == self.run.stimulus:
            starts = self._free(self._part, seam + self._shift(self._part))
        else:
            starts = np.arange(self._part.stimulus_start, self._part.n_time_points - self.history + 1)
        return starts + self._offsets[self._part.key]

    def _free(self, run: RunData, seam: int) -> np.ndarray:
        """First time points of histories that share no time point with the true one, what is kept and what is forecast."""
        starts = np.arange(run.stimulus_start, run.n_time_points - self.history + 1)
        after = seam + max(self.kept) + max(self.horizons)
        return starts[(starts + 2 * self.history <= seam) | (starts >= after)]

    def _windows(self, seams: Tensor, blocks: dict[str, int], asked: dict[str, np.ndarray]) -> dict[str, Tensor]:
        # What is read after a target changes nothing: the last time point stands for those that a run does not have.
        kept = (seams[:, None] + torch.arange(max(self.kept))).clamp(max=self.run.n_time_points - 1)
        true = seams[:, None] + torch.arange(-self.history, 0)
        histories = {TRUE: true}
        if PART in asked:
            starts = [int(self._rng.choice(self._starts(seam))) for seam in seams.tolist()]
            histories[PART] = torch.tensor(starts)[:, None] + torch.arange(self.history)
        if SUBJECT in asked and self._subject is not None:
            histories[SUBJECT] = true + self._shift(self._subject) + self._offsets[self._subject.key]
        for condition, block in blocks.items():
            orders = [scrambled(self.history, block, self._rng) for _ in seams]
            histories[condition] = true.gather(1, torch.from_numpy(np.stack(orders)))
        windows = {condition: torch.cat([history, kept], dim=1) for condition, history in histories.items()}
        return {**windows, NOTHING: kept}


def scrambled(n_time_points: int, block: int, rng: np.random.Generator) -> np.ndarray:
    """Put blocks of time points into an order that is not theirs: int ``(n_time_points,)``.

    Blocks are counted from the last time point, so that what is left over is the first. There must be two or more.
    """
    pieces = np.split(np.arange(n_time_points), range((n_time_points - 1) % block + 1, n_time_points, block))
    order = np.arange(len(pieces))
    while (order == np.arange(len(pieces))).all():
        order = rng.permutation(len(pieces))
    return np.concatenate([pieces[number] for number in order])
