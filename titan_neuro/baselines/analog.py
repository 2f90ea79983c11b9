"""Analogs: find the moments of the stimulus at which the training subjects were as this one is, and read on from there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from titan_neuro.baselines.shared_fits import ResidualRun, ResidualSpace, SharedFits, SharedStimuli
from titan_neuro.baselines.sharing import choose_option, held_out_change, shrunk_gain
from titan_neuro.baselines.stimulus_bank import StimulusBank, concatenate, match
from titan_neuro.linear.stimulus_average import StimulusAverage
from titan_neuro.typing import RunData

TEMPERATURES = (0.01, 0.02, 0.03, 0.05, 0.1)
COUNTS = (1, 2, 4, 8)
# Match below which a moment is not believed; the first: believe all.
THRESHOLDS = (-float("inf"), 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
# Share of the components' mean variance that is added before they are scaled to one size.
_SHRINKAGE = 0.1
_BLOCK_TIME_POINTS = 256
# Rows of a run, evenly spread, on which gains are fitted.
_ROWS = 512


class AnalogBaseline:
    """Autoregression, plus what followed it at the moments of the training subjects' stimuli that match best.

    ``forecast = AR_h(y)[t] + gain_h * sum_j attention[t, j] residual_h[j]``. The stimuli are the averages of the
    training subjects, stimulus by stimulus, side by side; ``residual_h[j]`` is their time point ``j + h`` less the
    autoregression of their time points up to ``j``. The last `window` time points are matched with the stimuli' on
    principal components, scaled to one variance and weighted by their leave-one-out inter-subject correlation.

    Everything that is chosen is chosen on training subjects left out in turn, of stimuli and gain alike (runs, where
    there is one subject), for each horizon: the sharpness, the match below which nothing is believed, and the gain per
    feature (per component, beyond 512 features). Where stimuli are several, each subject is also tried without the
    stimulus it saw, so that a stimulus nobody has seen does not call up another. Where nothing helps by more than a
    standard error between subjects, the gain is 0 and the forecast that of the autoregression; so it is with one
    training run.

    Parameters
    ----------
    horizons : tuple of int
        Time points ahead, ascending.
    window : int
        Time points of history that are matched.
    is_soft : bool
        Softmax over all moments, its temperature chosen; else the mean of the best few, their number chosen.
    shared_fits : SharedFits, optional
        Shared with other rows of the table.

    Attributes
    ----------
    space : ResidualSpace
        The axes; there once `fit` was called, as all that follows.
    bank : StimulusBank
        The stimuli: scaled components, and residuals for all horizons.
    options : tuple of (float, float)
        For each horizon, the temperature or count, and the threshold.
    gain : torch.Tensor
        float32, ``(horizons, n_residuals)``.
    """

    space: ResidualSpace
    bank: StimulusBank
    options: tuple[tuple[float, float], ...]
    gain: Tensor

    def __init__(
        self, horizons: tuple[int, ...], window: int, *, is_soft: bool, shared_fits: SharedFits | None = None
    ) -> None:
        self.name = f"{'soft-' if is_soft else ''}analog-{window}"
        self.horizons, self.window = horizons, window
        self._attention = SoftAttention() if is_soft else BestMatches()
        self._shared_fits = shared_fits or SharedFits(horizons)

    def fit(self, runs: Sequence[RunData]) -> None:
        """Fit to the training runs; see :meth:`SharedFits.residuals` for what it raises."""
        self.space, _ = self._shared_fits.residuals(runs)
        shared = self._shared_fits.shared(runs)
        spread = self.space.variance + _SHRINKAGE * (self.space.variance.mean() - self.space.variance)
        self._scale = (shared.weights / spread).sqrt()
        self.bank = self._concatenate(shared.stimuli)
        self.options = ((self._attention.choices[0], THRESHOLDS[0]),) * len(self.horizons)
        self.gain = torch.zeros(len(self.horizons), self.space.n_residuals)
        if len(shared.groups) > 1:
            self._choose(*self._try_out(shared))

    def init_state(self) -> tuple[Tensor, Tensor, Tensor]:
        """No past: no history for the autoregression, no components, and no time point seen."""
        past = torch.zeros(self.window - 1, self.space.components.shape[1])
        return self.space.init_state(), past, torch.zeros(self.window - 1)

    def step(
        self, series: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Forecast from every time point: ``(time, horizons, features)``; the state is the last time points on
        components.
        """
        history, past, seen = state
        forecasts, history = self.space.autoregress(series, history)
        queries = torch.cat([past, self.space.score(series) * self._scale])
        seen = torch.cat([seen, torch.ones(len(series))])
        if bool(self.gain.any()):
            for start in range(0, len(series), _BLOCK_TIME_POINTS):
                stop = min(start + _BLOCK_TIME_POINTS, len(series))
                some = slice(start, stop + self.window - 1)
                matches = match(queries[some], seen[some], self.bank.keys, self.window)
                forecasts[start:stop] += self.space.to_features(self.gain * self._read_on(matches))
        return forecasts, (history, queries[len(series) :].clone(), seen[len(series) :].clone())

    def _concatenate(self, stimuli: Sequence[StimulusAverage]) -> StimulusBank:
        return concatenate(stimuli, self._scale, self.window)

    def _read_on(self, matches: Tensor) -> Tensor:
        """What followed at the moments that match: ``(time, horizons, n_residuals)``."""
        matches = matches.masked_fill(self.bank.stimulus < 0, -torch.inf)
        values = self.bank.values.reshape(-1, len(self.horizons), self.space.n_residuals)
        read = torch.empty(len(matches), *values.shape[1:])
        for option in set(self.options):
            which = [index for index, other in enumerate(self.options) if other == option]
            weights, belief = self._attention(matches, option[0], option[1:])
            some = (weights @ values[:, which].flatten(1)).reshape(len(matches), len(which), -1)
            read[:, which] = belief[:, :, None] * some
        return read

    def _try_out(self, shared: SharedStimuli) -> tuple[Tensor, Tensor]:
        """Forecast each subject from the others, in every way there is to choose from.

        Returns
        -------
        cross, power : torch.Tensor
            float64 ``(groups, choices, thresholds, horizons, n_residuals)``; see :func:`shrunk_gain`.
        """
        shape = (len(self._attention.choices), len(THRESHOLDS), len(self.horizons), self.space.n_residuals)
        cross = torch.zeros(len(shared.groups), *shape, dtype=torch.float64)
        power = torch.zeros_like(cross)
        for number, (group, stimuli) in enumerate(zip(shared.groups, shared.others, strict=True)):
            bank = self._concatenate(stimuli)
            for run in group:
                self._try_run(run, bank, cross[number], power[number])
        return cross, power

    def _try_run(self, run: ResidualRun, bank: StimulusBank, cross: Tensor, power: Tensor) -> None:
        """Add one run's sums to `cross` and `power`, in place."""
        queries = pad(run.scores * self._scale, (0, 0, self.window - 1, 0))
        seen = pad(torch.ones(run.n_time_points), (self.window - 1, 0))
        stride = -(-run.n_time_points // _ROWS)
        hidden = [bank.stimulus < 0]
        if run.stimulus in bank.stimuli and len(bank.stimuli) > 1:
            hidden.append(hidden[0] | (bank.stimulus == bank.stimuli.index(run.stimulus)))
        for start in range(0, run.n_time_points, _BLOCK_TIME_POINTS):
            stop = min(start + _BLOCK_TIME_POINTS, run.n_time_points)
            some = slice(start, stop + self.window - 1)
            rows = slice(start + -start % stride, stop, stride)
            matches = match(queries[some], seen[some], bank.keys, self.window)[-start % stride :: stride]
            targets = run.targets[rows][:, :, None]
            for mask in hidden:
                candidates = matches.masked_fill(mask, -torch.inf)
                for index, choice in enumerate(self._attention.choices):
                    weights, belief = self._attention(candidates, choice, THRESHOLDS)
                    read = (weights @ bank.values).reshape(*targets.shape[:2], -1) * targets
                    cross[index] += _weigh(belief, read * run.residuals[rows])
                    power[index] += _weigh(belief.square(), read.square())

    def _choose(self, cross: Tensor, power: Tensor) -> None:
        changes = held_out_change(cross, power)
        options = list(self.options)
        for index in range(len(self.horizons)):
            best = choose_option(changes[..., index].flatten(1))
            if best is not None:
                choice, threshold = divmod(best, len(THRESHOLDS))
                options[index] = self._attention.choices[choice], THRESHOLDS[threshold]
                where = (slice(None), choice, threshold, index)
                self.gain[index] = shrunk_gain(cross[where], power[where]).float()
        self.options = tuple(options)


def _weigh(belief: Tensor, products: Tensor) -> Tensor:
    """Sum over time, for each threshold: ``(thresholds, horizons, n_residuals)``."""
    return (belief.T @ products.flatten(1)).reshape(-1, *products.shape[1:])


class SoftAttention:
    """Softmax over all moments. The match that is not believed is one moment more, at which nothing follows."""

    choices = TEMPERATURES

    def __call__(self, matches: Tensor, temperature: float, thresholds: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Return the weights of the moments, ``(time, statistics)``, and the belief, ``(time, thresholds)``."""
        logits = matches / temperature
        evidence = logits.logsumexp(dim=1, keepdim=True)
        return logits.softmax(dim=1), torch.sigmoid(evidence - torch.tensor(thresholds) / temperature)


class BestMatches:
    """The best few moments, all alike; believed if the best is."""

    choices = COUNTS

    def __call__(self, matches: Tensor, count: float, thresholds: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Return the weights of the moments, ``(time, statistics)``, and the belief, ``(time, thresholds)``."""
        best = matches.topk(min(int(count), matches.shape[1]), dim=1)
        share = torch.isfinite(best.values).float()
        share = share / share.sum(dim=1, keepdim=True)
        weights = torch.zeros_like(matches).scatter_(1, best.indices, share)
        return weights, (best.values[:, :1] > torch.tensor(thresholds)).float()
