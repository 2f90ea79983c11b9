"""Analogs: find the moments of the film at which the training subjects were as this one is, and read on from there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from titan_neuro.baselines.groundwork import Groundwork, ResidualRun, ResidualSpace, SharedFilms
from titan_neuro.baselines.matching import FilmLibrary, match, shelve
from titan_neuro.baselines.sharing import held_out_change, shrunk_gain
from titan_neuro.ops.films import Film
from titan_neuro.typing import FrameRun

TEMPERATURES = (0.01, 0.02, 0.03, 0.05, 0.1)
COUNTS = (1, 2, 4, 8)
# Match below which a moment is not believed; the first: believe all.
THRESHOLDS = (-float("inf"), 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
# Share of the components' mean variance that is added before they are scaled to one size.
_SHRINKAGE = 0.1
_BLOCK_FRAMES = 256
# Rows of a run, evenly spread, on which gains are fitted.
_ROWS = 512


class AnalogBaseline:
    """Autoregression, plus what followed it at the moments of the training subjects' films that match best.

    ``forecast = AR_h(y)[t] + gain_h * sum_j attention[t, j] residual_h[j]``. The films are the averages of the training
    subjects, stimulus by stimulus, side by side; ``residual_h[j]`` is their frame ``j + h`` less the autoregression of
    their frames up to ``j``. The last `window` frames are matched with the films' on principal components, scaled to
    one variance and weighted by their leave-one-out inter-subject correlation.

    Everything that is chosen is chosen on training subjects left out in turn, of films and gain alike (runs, where
    there is one subject), for each horizon: the sharpness, the match below which nothing is believed, and the gain per
    feature (per component, beyond 512 features). Where stimuli are several, each subject is also tried without the film
    it saw, so that a film nobody has seen does not call up another. Where nothing helps, the gain is 0 and the
    forecast that of the autoregression.

    Parameters
    ----------
    horizons : tuple of int
        Frames ahead, ascending.
    window : int
        Frames of history that are matched.
    is_soft : bool
        Softmax over all moments, its temperature chosen; else the mean of the best few, their number chosen.
    groundwork : Groundwork, optional
        Shared with other rows of the table.

    Attributes
    ----------
    space : ResidualSpace
        The axes; there once `fit` was called, as all that follows.
    library : FilmLibrary
        The films: scaled components, and residuals for all horizons.
    options : tuple of (float, float)
        For each horizon, the temperature or count, and the threshold.
    gain : torch.Tensor
        float32, ``(horizons, n_residuals)``.
    """

    space: ResidualSpace
    library: FilmLibrary
    options: tuple[tuple[float, float], ...]
    gain: Tensor

    def __init__(
        self, horizons: tuple[int, ...], window: int, *, is_soft: bool, groundwork: Groundwork | None = None
    ) -> None:
        self.name = f"{'soft-' if is_soft else ''}analog-{window}"
        self.horizons, self.window = horizons, window
        self._attention = SoftAttention() if is_soft else BestMoments()
        self._groundwork = groundwork or Groundwork(horizons)

    def fit(self, runs: Sequence[FrameRun]) -> None:
        """Fit to the training runs; see :meth:`Groundwork.residuals` for what it raises."""
        self.space, _ = self._groundwork.residuals(runs)
        shared = self._groundwork.shared(runs)
        spread = self.space.variance + _SHRINKAGE * (self.space.variance.mean() - self.space.variance)
        self._scale = (shared.weights / spread).sqrt()
        self.library = self._shelve(shared.films)
        self.options = ((self._attention.choices[0], THRESHOLDS[0]),) * len(self.horizons)
        self.gain = torch.zeros(len(self.horizons), self.space.n_residuals)
        if len(shared.groups) > 1:
            self._choose(*self._try_out(shared))

    def start(self) -> tuple[Tensor, Tensor, Tensor]:
        """No past: no history for the autoregression, no components, and no frame seen."""
        past = torch.zeros(self.window - 1, self.space.components.shape[1])
        return self.space.start(), past, torch.zeros(self.window - 1)

    def step(
        self, frames: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Forecast from every frame: ``(time, horizons, features)``; the state is the last frames on components."""
        history, past, seen = state
        forecasts, history = self.space.autoregress(frames, history)
        queries = torch.cat([past, self.space.score(frames) * self._scale])
        seen = torch.cat([seen, torch.ones(len(frames))])
        if bool(self.gain.any()):
            for start in range(0, len(frames), _BLOCK_FRAMES):
                stop = min(start + _BLOCK_FRAMES, len(frames))
                some = slice(start, stop + self.window - 1)
                matches = match(queries[some], seen[some], self.library.keys, self.window)
                forecasts[start:stop] += self.space.to_features(self.gain * self._read_on(matches))
        return forecasts, (history, queries[len(frames) :].clone(), seen[len(frames) :].clone())

    def _shelve(self, films: Sequence[Film]) -> FilmLibrary:
        return shelve(films, self._scale, self.window)

    def _read_on(self, matches: Tensor) -> Tensor:
        """What followed at the moments that match: ``(time, horizons, n_residuals)``."""
        matches = matches.masked_fill(self.library.film < 0, -torch.inf)
        values = self.library.values.reshape(-1, len(self.horizons), self.space.n_residuals)
        read = torch.empty(len(matches), *values.shape[1:])
        for option in set(self.options):
            which = [index for index, other in enumerate(self.options) if other == option]
            weights, belief = self._attention(matches, option[0], option[1:])
            some = (weights @ values[:, which].flatten(1)).reshape(len(matches), len(which), -1)
            read[:, which] = belief[:, :, None] * some
        return read

    def _try_out(self, shared: SharedFilms) -> tuple[Tensor, Tensor]:
        """Forecast each subject from the others, in every way there is to choose from.

        Returns
        -------
        cross, power : torch.Tensor
            float64 ``(groups, choices, thresholds, horizons, n_residuals)``; see :func:`shrunk_gain`.
        """
        shape = (len(self._attention.choices), len(THRESHOLDS), len(self.horizons), self.space.n_residuals)
        cross = torch.zeros(len(shared.groups), *shape, dtype=torch.float64)
        power = torch.zeros_like(cross)
        for number, (group, films) in enumerate(zip(shared.groups, shared.others, strict=True)):
            library = self._shelve(films)
            for run in group:
                self._try_run(run, library, cross[number], power[number])
        return cross, power

    def _try_run(self, run: ResidualRun, library: FilmLibrary, cross: Tensor, power: Tensor) -> None:
        """Add one run's sums to `cross` and `power`, in place."""
        queries = pad(run.scores * self._scale, (0, 0, self.window - 1, 0))
        seen = pad(torch.ones(run.n_frames), (self.window - 1, 0))
        stride = -(-run.n_frames // _ROWS)
        hidden = [library.film < 0]
        if run.stimulus in library.stimuli and len(library.stimuli) > 1:
            hidden.append(hidden[0] | (library.film == library.stimuli.index(run.stimulus)))
        for start in range(0, run.n_frames, _BLOCK_FRAMES):
            stop = min(start + _BLOCK_FRAMES, run.n_frames)
            some = slice(start, stop + self.window - 1)
            rows = slice(start + -start % stride, stop, stride)
            matches = match(queries[some], seen[some], library.keys, self.window)[-start % stride :: stride]
            targets = run.targets[rows][:, :, None]
            for mask in hidden:
                candidates = matches.masked_fill(mask, -torch.inf)
                for index, choice in enumerate(self._attention.choices):
                    weights, belief = self._attention(candidates, choice, THRESHOLDS)
                    read = (weights @ library.values).reshape(*targets.shape[:2], -1) * targets
                    cross[index] += _weigh(belief, read * run.residuals[rows])
                    power[index] += _weigh(belief.square(), read.square())

    def _choose(self, cross: Tensor, power: Tensor) -> None:
        change = held_out_change(cross, power)
        options = []
        for index in range(len(self.horizons)):
            best = int(change[:, :, index].argmin())
            choice, threshold = divmod(best, len(THRESHOLDS))
            options.append((self._attention.choices[choice], THRESHOLDS[threshold]))
            if change[choice, threshold, index] < 0:
                gain = shrunk_gain(cross[:, choice, threshold, index], power[:, choice, threshold, index])
                self.gain[index] = gain.float()
        self.options = tuple(options)


def _weigh(belief: Tensor, products: Tensor) -> Tensor:
    """Sum over time, for each threshold: ``(thresholds, horizons, n_residuals)``."""
    return (belief.T @ products.flatten(1)).reshape(-1, *products.shape[1:])


class SoftAttention:
    """Softmax over all moments. The match that is not believed is one moment more, at which nothing follows."""

    choices = TEMPERATURES

    def __call__(self, matches: Tensor, temperature: float, thresholds: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Return the weights of the moments, ``(time, moments)``, and the belief, ``(time, thresholds)``."""
        logits = matches / temperature
        evidence = logits.logsumexp(dim=1, keepdim=True)
        return logits.softmax(dim=1), torch.sigmoid(evidence - torch.tensor(thresholds) / temperature)


class BestMoments:
    """The best few moments, all alike; believed if the best is."""

    choices = COUNTS

    def __call__(self, matches: Tensor, count: float, thresholds: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Return the weights of the moments, ``(time, moments)``, and the belief, ``(time, thresholds)``."""
        best = matches.topk(min(int(count), matches.shape[1]), dim=1)
        share = torch.isfinite(best.values).float()
        share = share / share.sum(dim=1, keepdim=True)
        weights = torch.zeros_like(matches).scatter_(1, best.indices, share)
        return weights, (best.values[:, :1] > torch.tensor(thresholds)).float()
