"""What a fold's models hold at each moment of a film, of one run and averaged over other subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from titan_neuro.models.forecaster import Forecaster
from titan_neuro.probing.findings import ProbedFold
from titan_neuro.probing.trace import trace_run
from titan_neuro.typing import FrameRun

# Kinds that are read once in some frames; all others are there at every frame.
STATES = ("state", "untrained state", "state begun late")


class FilmTraces:
    """Trace runs with the models of one fold, and average others' traces of a stimulus.

    Sums alone are kept: of each stimulus one number a moment, kind and feature, however many subjects there are.
    Moments are counted from where the film begins; a row is NaN where a run has no such moment.

    Parameters
    ----------
    fold : ProbedFold
    every_frames : int
        Frames from one reading of the state to the next.
    width : int
        Wider features are projected at random onto so many numbers.
    """

    def __init__(self, fold: ProbedFold, *, every_frames: int, width: int) -> None:
        self.fold, self._every, self._width = fold, every_frames, width
        self._sums: dict[str, dict[str, np.ndarray]] = {}

    def own(self, run: FrameRun) -> dict[str, np.ndarray]:
        """All kinds of features of a run: float32 ``(moments, width)`` each; states have a row in `every_frames`."""
        trained = self._watched(self.fold.model, run)
        untrained = self._watched(self.fold.untrained, run)
        return {**trained, **{f"untrained {kind}": untrained[kind] for kind in ("memory", "state")}}

    def begun_late(self, run: FrameRun, late_frames: int) -> dict[str, np.ndarray]:
        """Memory and state of a model that is shown the film from a later moment on: NaN before that."""
        if run.film_start + late_frames >= run.n_frames:
            return {}
        late = self._watched(self.fold.model, run, late_frames)
        return {f"{kind} begun late": late[kind] for kind in ("memory", "state")}

    def others_of(self, run: FrameRun) -> Sequence[FrameRun]:
        """Runs of the same stimulus by subjects who are not `run`'s, if they last until the film begins.

        Those that the model was trained on; where the fold has held out what was shown, too, its test runs.
        """
        tested = {other.subject for other in self._shown(self.fold.tests, run.stimulus)}
        trained = [other for other in self._shown(self.fold.others, run.stimulus) if other.subject not in tested]
        return trained or [
            other for other in self._shown(self.fold.tests, run.stimulus) if other.subject != run.subject
        ]

    @staticmethod
    def _shown(runs: Sequence[FrameRun], stimulus: str) -> list[FrameRun]:
        return [run for run in runs if run.stimulus == stimulus and run.n_frames > run.film_start]

    def reference(self, run: FrameRun, own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Average over the runs of :meth:`others_of`, which must not be empty: float64 ``(moments, width)`` each.

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

    def _watched(self, model: Forecaster, run: FrameRun, late_frames: int = 0) -> dict[str, np.ndarray]:
        trace = trace_run(
            model,
            run,
            state_every_frames=self._every,
            first_frame=run.film_start + late_frames if late_frames else 0,
            count_from=run.film_start,
            left_out=model.left_out([run.key]),
            width=self._width,
        )
        n_moments = run.n_frames - run.film_start
        rows = {}
        for kind in ("frame", "encoded", "memory"):
            values = getattr(trace, kind)[-n_moments:]
            rows[kind] = np.pad(values, ((n_moments - len(values), 0), (0, 0)), constant_values=np.nan)
        moments = trace.state_frames + 1 - run.film_start
        # A film whose end leaves some frames over has a last state that others may not have.
        kept = (moments > 0) & (moments % self._every == 0)
        state = np.full((n_moments // self._every, trace.state.shape[1]), np.nan, dtype=np.float32)
        state[moments[kept] // self._every - 1] = trace.state[kept]
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
