"""Reference lines: what a forecast would be worth that knows the moment of the film. No forecasts, and no rivals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from titan_neuro.baselines.sharing import group_runs, shrunk_gain
from titan_neuro.ops.films import Film, average_films
from titan_neuro.typing import ForecastModel, FrameRun

_BLOCK_FRAMES = 128


class Reference(Protocol):
    """A line of the table that is told what is shown and when.

    Attributes
    ----------
    name : str
        Row of the table.
    horizons : tuple of int
        Frames ahead, ascending.
    """

    name: str
    horizons: tuple[int, ...]

    def fit(self, runs: Sequence[FrameRun]) -> None:
        """Learn from the training runs."""
        ...

    def follow(self, run: FrameRun, first_frame: int) -> ForecastModel:
        """Bind to a run, the first frame of which that will be fed is `first_frame`."""
        ...


class OthersReference:
    """A baseline, plus what it leaves of the training subjects' average at the true moment of the film.

    ``forecast = base(y)[t, h] + gain_hv (film[m + h] - base(film)[m, h])``, ``m`` being the moment of the film at which
    frame ``t`` was recorded: runs of one stimulus are aligned where it begins. The gain of each feature is
    fitted on training subjects, each against the average of the others, and drawn towards 0 as far as they disagree.
    For a stimulus that no training subject saw, the forecast is the baseline's.

    Parameters
    ----------
    name : str
        Row of the table.
    base : ForecastModel
        Not yet fitted: the training mean, or autoregression.

    Attributes
    ----------
    films : dict of str to Film
        Average of the training subjects, by stimulus; there once `fit` was called.
    gain : torch.Tensor
        float32, ``(horizons, features)``.
    """

    films: dict[str, Film]
    gain: Tensor

    def __init__(self, name: str, base: ForecastModel) -> None:
        self.name, self.base, self.horizons = name, base, base.horizons

    def fit(self, runs: Sequence[FrameRun]) -> None:
        """Fit the baseline, average the films, fit the gains.

        Raises
        ------
        ConfigError, MismatchError, TrainingError
            See the baseline's `fit`, and :func:`titan_neuro.ops.films.average_films`.
        """
        self.base.fit(runs)
        self.films = {film.stimulus: film for film in average_films(runs)}
        self.gain = torch.zeros(len(self.horizons), runs[0].n_features)
        groups = group_runs(runs)
        cross = torch.zeros(len(groups), *self.gain.shape, dtype=torch.float64)
        power = torch.zeros_like(cross)
        for number, group in enumerate(groups):
            for own in average_films(group):
                others = _without(self.films[own.stimulus], own)
                for run in (run for run in group if run.stimulus == own.stimulus):
                    for residual, beyond in self._residuals(run, others):
                        cross[number] += (residual * beyond).sum(dim=0)
                        power[number] += beyond.square().sum(dim=0)
        self.gain = shrunk_gain(cross, power).float()

    def follow(self, run: FrameRun, first_frame: int) -> ForecastModel:
        """Bind to a run, the first frame of which that will be fed is `first_frame`."""
        film = self.films.get(run.stimulus)
        if film is None:
            return _Follower(self.name, self.base, None, self.gain, 0)
        return _Follower(self.name, self.base, film.frames, self.gain, first_frame - run.film_start)

    def _residuals(self, run: FrameRun, others: Film) -> Iterator[tuple[Tensor, Tensor]]:
        """What the baseline leaves of a run's scored frames, and of the others' film there, block by block."""
        follower = _Follower(self.name, self.base, others.frames, self.gain, -run.film_start)
        # A frame that nobody else saw is no example.
        covered = torch.as_tensor(run.scored).clone()
        moments = torch.arange(run.n_frames) + follower.moment
        inside = (moments >= 0) & (moments < len(others.frames))
        covered &= inside & (others.n_runs[moments.clamp(0, len(others.frames) - 1)] > 0)
        reach = max(self.horizons)
        padded = torch.nn.functional.pad(covered, (0, reach))
        state = follower.start()
        for start in range(0, run.n_frames, _BLOCK_FRAMES):
            stop = min(start + _BLOCK_FRAMES, run.n_frames)
            frames = run.read(start, min(stop + reach, run.n_frames))
            ahead = torch.nn.functional.pad(frames, (0, 0, 0, stop + reach - start - len(frames)))
            forecasts, beyond, state = follower.parts(frames[: stop - start], state)
            targets = torch.stack([ahead[horizon : horizon + stop - start] for horizon in self.horizons], dim=1)
            rows = torch.stack([padded[start + horizon : stop + horizon] for horizon in self.horizons], dim=1)
            yield targets - forecasts, beyond * rows[:, :, None]


class _Follower:
    """A fitted reference on its way through one film; `film` is None where nobody saw it."""

    def __init__(self, name: str, base: ForecastModel, film: Tensor | None, gain: Tensor, moment: int) -> None:
        self.name, self.horizons, self.moment = name, base.horizons, moment
        self._base, self._film, self._gain = base, film, gain

    def fit(self, runs: Sequence[FrameRun]) -> None:
        """It was fitted before it was bound."""

    def start(self) -> tuple[Any, Any, int]:
        """The baseline's state in the run and in the film, and the moment."""
        film_state = self._base.start()
        if self._film is not None:
            for start in range(0, min(self.moment, len(self._film)), _BLOCK_FRAMES):
                stop = min(start + _BLOCK_FRAMES, self.moment)
                _, film_state = self._base.step(self._film[start:stop], film_state)
        return self._base.start(), film_state, self.moment

    def step(self, frames: Tensor, state: tuple[Any, Any, int]) -> tuple[Tensor, tuple[Any, Any, int]]:
        """Forecast from every frame: ``(time, horizons, features)``."""
        forecasts, beyond, state = self.parts(frames, state)
        return forecasts + self._gain * beyond, state

    def parts(self, frames: Tensor, state: tuple[Any, Any, int]) -> tuple[Tensor, Tensor, tuple[Any, Any, int]]:
        """Return the baseline's forecasts, what it leaves of the film, and the next state."""
        run_state, film_state, moment = state
        forecasts, run_state = self._base.step(frames, run_state)
        if self._film is None:
            return forecasts, torch.zeros_like(forecasts), (run_state, film_state, moment)
        expected, film_state = self._base.step(_take(self._film, moment, len(frames)), film_state)
        beyond = torch.zeros_like(forecasts)
        for index, horizon in enumerate(self.horizons):
            ahead = torch.arange(len(frames)) + moment + horizon
            inside = ((ahead >= 0) & (ahead < len(self._film)))[:, None]
            beyond[:, index] = (_take(self._film, moment + horizon, len(frames)) - expected[:, index]) * inside
        return forecasts, beyond, (run_state, film_state, moment + len(frames))


def _take(film: Tensor, start: int, n_frames: int) -> Tensor:
    """Frames of the film; zeros, the mean of z-scored data, outside of it."""
    taken = torch.zeros(n_frames, film.shape[1])
    low, high = max(start, 0), min(start + n_frames, len(film))
    if low < high:
        taken[low - start : high - start] = film[low:high]
    return taken


def _without(film: Film, own: Film) -> Film:
    """Take a subject's own film out of the average; zeros, of no run, where nobody else saw it."""
    some = slice(len(own.frames))
    total, n_runs = film.frames * film.n_runs[:, None], film.n_runs.clone()
    total[some] -= own.frames * own.n_runs[:, None]
    n_runs[some] -= own.n_runs
    frames = torch.where(n_runs[:, None] > 0, total / n_runs.clamp(min=1)[:, None], 0)
    return Film(film.stimulus, frames, film.scored, n_runs)
