"""What a fold's models hold at each moment of a stimulus, of one run and averaged over other subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from titan_neuro.forecaster.forecaster import Forecaster
from titan_neuro.probing.tools.results import ProbedFold
from titan_neuro.probing.tools.trace import trace_run
from titan_neuro.typing import RunData

# Kinds that are read once in some time points; all others are there at every time point.
STATES = ("state", "untrained state", "state begun late")


class StimulusTraces:
    """Trace runs with the models of one fold, and average others' traces of a stimulus.

    Sums alone are kept: of each stimulus one number a moment, kind and feature, however many subjects there are.
    Moments are counted from where the stimulus begins; a row is NaN where a run has no such moment.

    Parameters
    ----------
    fold : ProbedFold
    every_time_points : int
        Time points from one reading of the state to the next.
    width : int
        Wider features are projected at random onto so many numbers.
    """

    def __init__(self, fold: ProbedFold, *, every_time_points: int, width: int) -> None:
        self.fold, self._every, self._width = fold, every_time_points, width
        self._sums: dict[str, dict[str, np.ndarray]] = {}

    def own(self, run: RunData) -> dict[str, np.ndarray]:
        """All kinds of features of a run: float32 ``(positions, width)`` each; states have a row in
        `every_time_points`.
        """
        trained = self._watched(self.fold.model, run)
        untrained = self._watched(self.fold.untrained, run)
        return {**trained, **{f"untrained {kind}": untrained[kind] for kind in ("memory", "state")}}

    def begun_late(self, run: RunData, late_time_points: int) -> dict[str, np.ndarray]:
        """Memory and state of a model that is shown the stimulus from a later moment on: NaN before that."""
        if run.stimulus_start + late_time_points >= run.n_time_points:
            return {}
        late = self._watched(self.fold.model, run, late_time_points)
        return {f"{kind} begun late": late[kind] for kind in ("memory", "state")}

    def others_of(self, run: RunData) -> Sequence[RunData]:
        """Runs of the same stimulus by subjects who are not `run`'s, if they last until the stimulus begins.

        Those that the model was trained on; where the fold has held out what was shown, too, its test runs.
        """
        tested = {other.subject for other in self._shown(self.fold.tests, run.stimulus)}
        trained = [other for other in self._shown(self.fold.others, run.stimulus) if other.subject not in tested]
        return trained or [
            other for other in self._shown(self.fold.tests, run.stimulus) if other.subject != run.subject
        ]

    @staticmethod
    def _shown(runs: Sequence[RunData], stimulus: str) -> list[RunData]:
        return [run for run in runs if run.stimulus == stimulus and run.n_time_points > run.stimulus_start]

    def reference(self, run: RunData, own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Average over the runs of :meth:`others_of`, which must not be empty: float64 ``(positions, width)`` each.

        `own` are the run's own features, as :meth:`own` gives them.
        """
        among_trained = self.others_of(run)[0].key in {other.key for other in self.fold.others}
        if run.stimulus not in self._sums:
            summed = self.others_of(run)
            if not among_trained:
                summed = self._shown(self.fold.tests, run.stimulus)
            sums: dict[str, np.ndarray] = {}
            for other in summed:
                for kind, values in self.own(other).items():
                    sums[kind] = _added(sums.get(kind), values, 1)
            self._sums[run.stimulus] = sums
        found = self._sums[run.stimulus]
        if not among_trained:
            found = {kind: _added(total, own[kind], -1) for kind, total in found.items()}
            for again in self._shown(self.fold.tests, run.stimulus):
                if again.subject == run.subject and again.key != run.key:
                    found = {kind: _added(found[kind], values, -1) for kind, values in self.own(again).items()}
        with np.errstate(invalid="ignore", divide="ignore"):
            # The last column counts runs; rounding is what is left where all were taken away again.
            return {
                kind: np.where(total[:, -1:] > 0.5, total[:, :-1] / total[:, -1:], np.nan)
                for kind, total in found.items()
            }

    def _watched(self, model: Forecaster, run: RunData, late_time_points: int = 0) -> dict[str, np.ndarray]:
        trace = trace_run(
            model,
            run,
            state_every_time_points=self._every,
            first_time_point=run.stimulus_start + late_time_points if late_time_points else 0,
            count_from=run.stimulus_start,
            held_out_index=model.held_out_index([run.key]),
            width=self._width,
        )
        n_positions = run.n_time_points - run.stimulus_start
        rows = {}
        for kind in ("time_point", "encoded", "memory"):
            values = getattr(trace, kind)[-n_positions:]
            rows[kind] = np.pad(values, ((n_positions - len(values), 0), (0, 0)), constant_values=np.nan)
        positions = trace.state_time_points + 1 - run.stimulus_start
        # A stimulus whose end leaves some time points over has a last state that others may not have.
        kept = (positions > 0) & (positions % self._every == 0)
        state = np.full((n_positions // self._every, trace.state.shape[1]), np.nan, dtype=np.float32)
        state[positions[kept] // self._every - 1] = trace.state[kept]
        return {**rows, "state": state}


def _added(total: np.ndarray | None, values: np.ndarray, sign: int) -> np.ndarray:
    """Add a run to sums, whose last column counts, or take it away again."""
    length = max(len(values), 0 if total is None else len(total))
    out = np.zeros((length, values.shape[1] + 1))
    if total is not None:
        out[: len(total)] += total
    out[: len(values), :-1] += sign * values.astype(float)
    out[: len(values), -1] += sign
    return out
