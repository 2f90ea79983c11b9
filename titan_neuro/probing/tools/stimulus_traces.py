"""What a fold's models contain at each time point of a stimulus, for one run and on average over other subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from titan_neuro.forecaster import Forecaster
from titan_neuro.probing.tools.results import ProbedFold
from titan_neuro.probing.tools.trace import (
    ACTIVITY_PATTERN,
    MEMORY_OUTPUT,
    MEMORY_WEIGHTS,
    TOKENS,
    UNTRAINED_OUTPUT,
    UNTRAINED_WEIGHTS,
    trace_run,
)
from titan_neuro.typing import RunData

# Readouts of a memory that starts at a later time point of the stimulus.
LATE_OUTPUT, LATE_WEIGHTS = f"{MEMORY_OUTPUT}, late start", f"{MEMORY_WEIGHTS}, late start"
# Read every few time points; all other readouts have a value at every time point.
WEIGHT_READOUTS = (MEMORY_WEIGHTS, UNTRAINED_WEIGHTS, LATE_WEIGHTS)


class StimulusTraces:
    """Trace runs with the models of one fold, and average the traces of other subjects' runs of a stimulus.

    Only sums are kept: one number for each time point of a stimulus, readout and feature, however many subjects there
    are. Time points are counted from the beginning of the stimulus; a row is NaN where a run has no such time point.

    Parameters
    ----------
    fold : ProbedFold
    every_time_points : int
        Time points from one reading of the memory weights to the next.
    width : int
        Wider features are projected at random onto so many numbers.
    """

    def __init__(self, fold: ProbedFold, *, every_time_points: int, width: int) -> None:
        self.fold, self._every, self._width = fold, every_time_points, width
        self._sums: dict[str, dict[str, np.ndarray]] = {}

    def of_run(self, run: RunData) -> dict[str, np.ndarray]:
        """Return all readouts of a run.

        Returns
        -------
        dict of str to numpy.ndarray
            float32 ``(time points of the stimulus, width)``; of `WEIGHT_READOUTS` one row for every
            `every_time_points`.
        """
        trained = self._trace(self.fold.model, run)
        untrained = self._trace(self.fold.untrained_model, run)
        return {
            **trained,
            UNTRAINED_OUTPUT: untrained[MEMORY_OUTPUT],
            UNTRAINED_WEIGHTS: untrained[MEMORY_WEIGHTS],
        }

    def of_late_start(self, run: RunData, late_time_points: int) -> dict[str, np.ndarray]:
        """Return the memory readouts of a model that starts reading at a later time point of the stimulus.

        Parameters
        ----------
        run : RunData
        late_time_points : int
            Time points of the stimulus that the model does not read.

        Returns
        -------
        dict of str to numpy.ndarray
            As :meth:`of_run`, NaN before the model starts; empty where the run ends before.
        """
        if run.stimulus_start + late_time_points >= run.n_time_points:
            return {}
        late = self._trace(self.fold.model, run, late_time_points)
        return {LATE_OUTPUT: late[MEMORY_OUTPUT], LATE_WEIGHTS: late[MEMORY_WEIGHTS]}

    def reference_runs(self, run: RunData) -> Sequence[RunData]:
        """Return the runs of the same stimulus by other subjects that last until the stimulus begins.

        These are the runs that the model was trained on; where the stimulus is held out, too, the fold's test runs.
        """
        tested = {other.subject for other in _with_stimulus(self.fold.test_runs, run.stimulus)}
        trained_on = [
            other for other in _with_stimulus(self.fold.training_runs, run.stimulus) if other.subject not in tested
        ]
        return trained_on or [
            other for other in _with_stimulus(self.fold.test_runs, run.stimulus) if other.subject != run.subject
        ]

    def reference(self, run: RunData, readouts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Average the readouts over :meth:`reference_runs`, of which there must be at least one.

        Parameters
        ----------
        run : RunData
        readouts : mapping
            The run's own, from :meth:`of_run`.

        Returns
        -------
        dict of str to numpy.ndarray
            float64 ``(time points of the stimulus, width)``.
        """
        reference_runs = self.reference_runs(run)
        trained_on = reference_runs[0].key in {other.key for other in self.fold.training_runs}
        test_runs = _with_stimulus(self.fold.test_runs, run.stimulus)
        if run.stimulus not in self._sums:
            # The sum over test runs is made once; each run's own subject is subtracted from it.
            sums: dict[str, np.ndarray] = {}
            for other in reference_runs if trained_on else test_runs:
                for name, values in self.of_run(other).items():
                    sums[name] = _add(sums.get(name), values, 1)
            self._sums[run.stimulus] = sums
        sums = self._sums[run.stimulus]
        if not trained_on:
            sums = {name: _add(total, readouts[name], -1) for name, total in sums.items()}
            for other in test_runs:
                if other.subject == run.subject and other.key != run.key:
                    sums = {name: _add(sums[name], values, -1) for name, values in self.of_run(other).items()}
        with np.errstate(invalid="ignore", divide="ignore"):
            # The last column counts runs; where all were subtracted, rounding remains.
            return {
                name: np.where(total[:, -1:] > 0.5, total[:, :-1] / total[:, -1:], np.nan)
                for name, total in sums.items()
            }

    def _trace(self, model: Forecaster, run: RunData, late_time_points: int = 0) -> dict[str, np.ndarray]:
        trace = trace_run(
            model,
            run,
            weights_every_time_points=self._every,
            first_time_point=run.stimulus_start + late_time_points if late_time_points else 0,
            count_from=run.stimulus_start,
            held_out_index=model.held_out_index([run.key]),
            width=self._width,
        )
        n_positions = run.n_time_points - run.stimulus_start
        rows = {}
        for name, values in (
            (ACTIVITY_PATTERN, trace.activity),
            (TOKENS, trace.tokens),
            (MEMORY_OUTPUT, trace.memory_output),
        ):
            of_stimulus = values[-n_positions:]
            rows[name] = np.pad(of_stimulus, ((n_positions - len(of_stimulus), 0), (0, 0)), constant_values=np.nan)
        positions = trace.weights_time_points + 1 - run.stimulus_start
        # The last reading of a run may lie between those that all runs have.
        is_shared = (positions > 0) & (positions % self._every == 0)
        weights = np.full((n_positions // self._every, trace.memory_weights.shape[1]), np.nan, dtype=np.float32)
        weights[positions[is_shared] // self._every - 1] = trace.memory_weights[is_shared]
        return {**rows, MEMORY_WEIGHTS: weights}


def _with_stimulus(runs: Sequence[RunData], stimulus: str) -> list[RunData]:
    """Return the runs of a stimulus that last until it begins."""
    return [run for run in runs if run.stimulus == stimulus and run.n_time_points > run.stimulus_start]


def _add(total: np.ndarray | None, values: np.ndarray, sign: int) -> np.ndarray:
    """Add a run to sums, whose last column counts runs, or subtract it."""
    length = max(len(values), 0 if total is None else len(total))
    summed = np.zeros((length, values.shape[1] + 1))
    if total is not None:
        summed[: len(total)] += total
    summed[: len(values), :-1] += sign * values.astype(float)
    summed[: len(values), -1] += sign
    return summed
