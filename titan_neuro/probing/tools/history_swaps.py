"""Which time points a memory reads when the history before a swap point is replaced.

A window is a history and then a context: up to the swap point the memory reads a history, true or swapped; from the
swap point to the forecast origin it reads the true context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from titan_neuro.probing.tools.forecasts import evenly_spaced, find_origins
from titan_neuro.seeds import named_generator
from titan_neuro.typing import RunData

TRUE_HISTORY, NO_HISTORY = "true history", "no history"
OTHER_PART, OTHER_SUBJECT = "another part", "another subject"


@dataclass(kw_only=True, eq=False)
class SwapPlan:
    """The windows of one run.

    Attributes
    ----------
    history : int
        Length of the history, in time points.
    origins : torch.Tensor
        int ``(swap points, contexts)``: time points from which forecasts are made.
    usable : torch.Tensor
        bool ``(swap points, contexts)``: the origins whose targets are scored.
    sources : list of RunData
        The run itself, and the runs that other histories are taken from.
    windows : dict of str to torch.Tensor
        By condition: int ``(swap points, length)``, indices into the sources concatenated along time. All windows of a
        swap point end with the same true time points, as many as the longest context. Empty where nothing can be
        swapped.
    not_tested : list of str
        Reasons why a condition could not be tested.
    """

    history: int
    origins: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))
    usable: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.bool))
    sources: list[RunData]
    windows: dict[str, Tensor] = field(default_factory=dict)
    not_tested: list[str] = field(default_factory=list)


class SwapPlanner:
    """Plan the windows of one run.

    Parameters
    ----------
    run : RunData
    test_runs, training_runs : sequence of RunData
        Where other histories may come from: first from test runs, which the model was not trained on.
    horizons : tuple of int
        Lead times, in time points.
    contexts : tuple of int
        Time points from the swap point to a forecast origin, both included; ascending.
    history : int
        Length of the history, in time points, at least 1.
    seed : int
        With the run's key, it determines what is drawn.
    """

    def __init__(
        self,
        run: RunData,
        test_runs: Sequence[RunData],
        training_runs: Sequence[RunData],
        *,
        horizons: tuple[int, ...],
        contexts: tuple[int, ...],
        history: int,
        seed: int,
    ) -> None:
        self.run, self.horizons, self.contexts, self.history = run, horizons, contexts, history
        self._rng = named_generator(seed, run.key)
        self._other_part = self._draw(self._part_runs(test_runs) or self._part_runs(training_runs))
        self._other_subject = self._draw(self._subject_runs(test_runs) or self._subject_runs(training_runs))
        self._sources, self._offsets = [run], {run.key: 0}
        for source in (self._other_part, self._other_subject):
            if source is not None and source.key not in self._offsets:
                self._offsets[source.key] = sum(earlier.n_time_points for earlier in self._sources)
                self._sources.append(source)

    def plan(self, blocks: dict[str, int], *, count: int) -> SwapPlan:
        """Plan the windows of at most `count` swap points.

        Parameters
        ----------
        blocks : dict of str to int
            By condition: the length, in time points, of the blocks in which the history is scrambled.
        count : int
        """
        plan = SwapPlan(history=self.history, sources=self._sources)
        usable = find_origins(self.run, self.horizons)
        # A time point after the end of the run is never an origin.
        usable = np.concatenate([usable, np.zeros(max(self.contexts), dtype=bool)])
        time_points = np.arange(self.run.n_time_points)
        possible = (time_points >= self.history) & usable[time_points + self.contexts[0] - 1]
        allowed = self._allowed_by_condition(possible)
        plan.not_tested += [
            f"There is no history of {condition}"
            for condition in (OTHER_PART, OTHER_SUBJECT)
            if condition not in allowed
        ]
        swap_points = evenly_spaced(np.logical_and.reduce([possible, *allowed.values()]), count)
        if len(swap_points):
            plan.origins = swap_points[:, None] + torch.tensor(self.contexts) - 1
            plan.usable = torch.from_numpy(usable)[plan.origins]
            plan.windows = self._windows(swap_points, blocks, allowed)
        else:
            plan.not_tested.append(
                f"No forecast origin with scored targets lies {self.history + self.contexts[0]} time points or more "
                "into the run"
            )
        return plan

    def _draw(self, runs: Sequence[RunData]) -> RunData | None:
        return runs[int(self._rng.integers(len(runs)))] if runs else None

    def _part_runs(self, runs: Sequence[RunData]) -> list[RunData]:
        """Other runs of the subject, if this run is too short to contain another part for every swap point."""
        after_context = max(self.contexts) + max(self.horizons)
        if self.run.n_time_points - self.run.stimulus_start >= 3 * self.history + after_context:
            return []
        of_subject = [
            other
            for other in runs
            if other.subject == self.run.subject
            and other.key != self.run.key
            and other.n_time_points - other.stimulus_start >= self.history
        ]
        return [other for other in of_subject if other.stimulus != self.run.stimulus] or of_subject

    def _subject_runs(self, runs: Sequence[RunData]) -> list[RunData]:
        """Runs of the same stimulus by other subjects; of these, the runs that share the most time points of it."""
        n_shared = {
            number: min(self.run.n_time_points, other.n_time_points - self._shift_to(other))
            - max(0, -self._shift_to(other))
            for number, other in enumerate(runs)
            if other.subject != self.run.subject and other.stimulus == self.run.stimulus
        }
        largest = max(n_shared.values(), default=0)
        return [runs[number] for number, n in n_shared.items() if n == largest >= self.history]

    def _shift_to(self, other: RunData) -> int:
        """Time point of the stimulus in the other run less the same time point in this run."""
        return other.stimulus_start - self.run.stimulus_start

    def _allowed_by_condition(self, possible: np.ndarray) -> dict[str, np.ndarray]:
        """For each condition that some swap point allows: the swap points that do, bool ``(time,)``."""
        has_part = possible.copy()
        has_part[possible] = [len(self._part_starts(point)) > 0 for point in np.flatnonzero(possible).tolist()]
        allowed = {OTHER_PART: has_part}
        if self._other_subject is not None:
            points = np.arange(len(possible)) + self._shift_to(self._other_subject)
            allowed[OTHER_SUBJECT] = possible & (points >= self.history) & (points <= self._other_subject.n_time_points)
        return {condition: mask for condition, mask in allowed.items() if mask.any()}

    def _part_starts(self, swap_point: int) -> np.ndarray:
        """Where another part may begin, as indices into the sources: in this run, else in another of the subject."""
        starts = self._disjoint_starts(self.run, swap_point)
        if len(starts) or self._other_part is None:
            return starts
        if self._other_part.stimulus == self.run.stimulus:
            starts = self._disjoint_starts(self._other_part, swap_point + self._shift_to(self._other_part))
        else:
            starts = np.arange(self._other_part.stimulus_start, self._other_part.n_time_points - self.history + 1)
        return starts + self._offsets[self._other_part.key]

    def _disjoint_starts(self, run: RunData, swap_point: int) -> np.ndarray:
        """Starts of histories that share no time point with the true history, the context and the targets."""
        starts = np.arange(run.stimulus_start, run.n_time_points - self.history + 1)
        after_targets = swap_point + max(self.contexts) + max(self.horizons)
        return starts[(starts + 2 * self.history <= swap_point) | (starts >= after_targets)]

    def _windows(
        self, swap_points: Tensor, blocks: dict[str, int], allowed: dict[str, np.ndarray]
    ) -> dict[str, Tensor]:
        # What is read after an origin changes nothing: the run's last time point stands for those after its end.
        context = (swap_points[:, None] + torch.arange(max(self.contexts))).clamp(max=self.run.n_time_points - 1)
        true_history = swap_points[:, None] + torch.arange(-self.history, 0)
        histories = {TRUE_HISTORY: true_history}
        if OTHER_PART in allowed:
            starts = [int(self._rng.choice(self._part_starts(point))) for point in swap_points.tolist()]
            histories[OTHER_PART] = torch.tensor(starts)[:, None] + torch.arange(self.history)
        if OTHER_SUBJECT in allowed and self._other_subject is not None:
            offset = self._shift_to(self._other_subject) + self._offsets[self._other_subject.key]
            histories[OTHER_SUBJECT] = true_history + offset
        for condition, block in blocks.items():
            orders = [scramble_blocks(self.history, block, self._rng) for _ in swap_points]
            histories[condition] = true_history.gather(1, torch.from_numpy(np.stack(orders)))
        windows = {condition: torch.cat([history, context], dim=1) for condition, history in histories.items()}
        return {**windows, NO_HISTORY: context}


def scramble_blocks(n_time_points: int, block: int, rng: np.random.Generator) -> np.ndarray:
    """Permute the order of blocks of time points; the result is never the true order.

    Parameters
    ----------
    n_time_points : int
        More than `block`.
    block : int
        Length of a block, in time points. Blocks are counted from the end, so that the first may be shorter.
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray
        int ``(n_time_points,)``.
    """
    pieces = np.split(np.arange(n_time_points), range((n_time_points - 1) % block + 1, n_time_points, block))
    order = np.arange(len(pieces))
    while (order == np.arange(len(pieces))).all():
        order = rng.permutation(len(pieces))
    return np.concatenate([pieces[number] for number in order])
