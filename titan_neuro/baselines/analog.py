"""Analog forecasts: find similar windows in the training subjects' stimuli, and forecast what followed them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from titan_neuro.baselines.base import Baseline
from titan_neuro.baselines.shared_fits import ResidualRun, ResidualSpace, SharedFits, SharedStimuli
from titan_neuro.baselines.shrinkage import held_out_change, shrinkage_weights
from titan_neuro.baselines.stimulus_bank import StimulusBank, concatenate, match_windows
from titan_neuro.linear.ridge import choose_option
from titan_neuro.linear.stimulus_average import StimulusAverage
from titan_neuro.runs import block_slices
from titan_neuro.typing import RunData

TEMPERATURES = (0.01, 0.02, 0.03, 0.05, 0.1)
COUNTS = (1, 2, 4, 8)
# Matches below the threshold have a reliability near 0. With the first, all matches are reliable.
THRESHOLDS = (-float("inf"), 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
# Fraction of the components' mean variance that their own variance is drawn towards before they are scaled.
_VARIANCE_SHRINKAGE = 0.1
# Rows of a run, evenly spread, on which shrinkage weights are fitted.
_ROWS = 512


class AnalogState(NamedTuple):
    """State of a stream.

    Attributes
    ----------
    history : torch.Tensor
        Of the autoregression, ``(order - 1, features)``.
    past : torch.Tensor
        Scaled components of the last time points, ``(window - 1, components)``.
    is_recorded : torch.Tensor
        ``(window - 1,)``: 1, or 0 before the run.
    """

    history: Tensor
    past: Tensor
    is_recorded: Tensor


class AnalogBaseline(Baseline[AnalogState]):
    """Autoregression, plus the residuals that followed the best matching windows of the training subjects' stimuli.

    ``forecast = AR_h(y)[t] + weight_h * reliability[t] * sum_j attention[t, j] residual_h[j]``. The stimuli are the
    averages of the training subjects, concatenated; ``residual_h[j]`` is their time point ``j + h`` minus the
    autoregression of their time points up to ``j``. The last `window` time points of the run are matched with every
    window of the stimuli, on principal components that are scaled to one variance and weighted by their leave-one-out
    intersubject correlation.

    Everything else is chosen for each lead time on training subjects (runs, where there is one subject), each held out
    of stimuli and shrinkage weights in turn: the sharpness of the attention, the threshold below which a match is not
    reliable, and a shrinkage weight per feature (per component beyond 512 features). Where there are several stimuli,
    each subject is also tested without the stimulus it saw, so that an unknown stimulus does not retrieve another one.
    Where nothing lowers the error by more than a standard error between subjects, and with one training run, the
    weights are 0 and the forecast is that of the autoregression.

    Parameters
    ----------
    horizons, shared_fits
        See :class:`Baseline`.
    window : int
        Time points of history that are matched.
    is_soft : bool
        Attention is a softmax over all stimulus positions, whose temperature is chosen; else the mean of the best
        positions, whose number is chosen.

    Attributes
    ----------
    space : ResidualSpace
        The axes; set by `fit`, as all that follows.
    bank : StimulusBank
        The stimuli: scaled components, and residuals for all lead times.
    options : tuple of (float, float)
        For each lead time, the temperature or number, and the threshold.
    weights : torch.Tensor
        Shrinkage weights, float32, ``(horizons, n_residuals)``.
    """

    space: ResidualSpace
    bank: StimulusBank
    options: tuple[tuple[float, float], ...]
    weights: Tensor

    def __init__(
        self, horizons: tuple[int, ...], shared_fits: SharedFits | None = None, *, window: int, is_soft: bool
    ) -> None:
        super().__init__(horizons, shared_fits)
        self.name = f"{'soft-' if is_soft else ''}analog-{window}"
        self.window = window
        self._attention: Attention = SoftAttention() if is_soft else BestMatches()

    def fit(self, runs: Sequence[RunData]) -> None:
        """Fit to the training runs; raises what :meth:`SharedFits.residuals` does."""
        self.space, _ = self.shared_fits.residuals(runs)
        shared = self.shared_fits.stimuli(runs)
        variance = self.space.variance + _VARIANCE_SHRINKAGE * (self.space.variance.mean() - self.space.variance)
        self._scale = (shared.isc_weights / variance).sqrt()
        self.bank = self._concatenate(shared.stimuli)
        self.options = ((self._attention.choices[0], THRESHOLDS[0]),) * len(self.horizons)
        self.weights = torch.zeros(len(self.horizons), self.space.n_residuals)
        if len(shared.groups) > 1:
            self._choose(*self._test_options(shared))
        # Lead times with the same option share its attention.
        values = self.bank.values.reshape(-1, len(self.horizons), self.space.n_residuals)
        self._by_option: dict[tuple[float, float], tuple[list[int], Tensor]] = {}
        for option in dict.fromkeys(self.options):
            which = [index for index, other in enumerate(self.options) if other == option]
            self._by_option[option] = which, values[:, which].flatten(1)

    def init_state(self) -> AnalogState:
        """State before the first time point of a run."""
        past = torch.zeros(self.window - 1, self.space.components.shape[1])
        return AnalogState(self.space.init_state(), past, torch.zeros(self.window - 1))

    def step(self, series: Tensor, state: AnalogState) -> tuple[Tensor, AnalogState]:
        """Forecast from each time point of ``(time, features)``: ``(time, horizons, features)``."""
        forecasts, history = self.space.autoregress(series, state.history)
        queries = torch.cat([state.past, self.space.score(series) * self._scale])
        is_recorded = torch.cat([state.is_recorded, torch.ones(len(series))])
        if bool(self.weights.any()):
            following = [
                self._following_residuals(self._match(queries, is_recorded, block, self.bank))
                for block in block_slices(len(series))
            ]
            # Not in place: other rows share the autoregression's forecasts.
            forecasts = forecasts + self.space.to_features(self.weights * torch.cat(following))
        return forecasts, AnalogState(history, queries[len(series) :].clone(), is_recorded[len(series) :].clone())

    def _concatenate(self, stimuli: Sequence[StimulusAverage]) -> StimulusBank:
        return concatenate(stimuli, self._scale, self.window)

    def _match(self, queries: Tensor, is_recorded: Tensor, block: slice, bank: StimulusBank) -> Tensor:
        """Matches of the time points of `block`; `queries` begin ``window - 1`` time points earlier."""
        rows = slice(block.start, block.stop + self.window - 1)
        return match_windows(queries[rows], is_recorded[rows], bank)

    def _following_residuals(self, matches: Tensor) -> Tensor:
        """Residuals that followed the matching positions, times reliability: ``(time, horizons, n_residuals)``."""
        matches = matches.masked_fill(self.bank.stimulus < 0, -torch.inf)
        following = torch.empty(len(matches), len(self.horizons), self.space.n_residuals)
        for option, (which, values) in self._by_option.items():
            attention, reliability = self._attention(matches, option[0], option[1:])
            average = (attention @ values).reshape(len(matches), len(which), -1)
            following[:, which] = reliability[:, :, None] * average
        return following

    def _test_options(self, shared: SharedStimuli) -> tuple[Tensor, Tensor]:
        """Forecast each subject from the others, with every option.

        Returns
        -------
        cross, power : torch.Tensor
            float64 ``(groups, choices, thresholds, horizons, n_residuals)``; see :func:`shrinkage_weights`.
        """
        shape = (len(self._attention.choices), len(THRESHOLDS), len(self.horizons), self.space.n_residuals)
        cross = torch.zeros(len(shared.groups), *shape, dtype=torch.float64)
        power = torch.zeros_like(cross)
        for number, (group, stimuli) in enumerate(zip(shared.groups, shared.without_group, strict=True)):
            bank = self._concatenate(stimuli)
            for run in group:
                self._add_run(run, bank, cross[number], power[number])
        return cross, power

    def _add_run(self, run: ResidualRun, bank: StimulusBank, cross: Tensor, power: Tensor) -> None:
        """Add one run's sums to `cross` and `power`, in place."""
        queries = pad(run.scores * self._scale, (0, 0, self.window - 1, 0))
        is_recorded = pad(torch.ones(run.n_time_points), (self.window - 1, 0))
        stride = -(-run.n_time_points // _ROWS)
        hidden = [bank.stimulus < 0]
        if run.stimulus in bank.stimuli and len(bank.stimuli) > 1:
            hidden.append(hidden[0] | (bank.stimulus == bank.stimuli.index(run.stimulus)))
        for block in block_slices(run.n_time_points, every=stride):
            rows = slice(block.start, block.stop, stride)
            matches = self._match(queries, is_recorded, block, bank)[::stride]
            targets = run.targets[rows][:, :, None]
            for mask in hidden:
                candidates = matches.masked_fill(mask, -torch.inf)
                for index, choice in enumerate(self._attention.choices):
                    attention, reliability = self._attention(candidates, choice, THRESHOLDS)
                    average = (attention @ bank.values).reshape(*targets.shape[:2], -1) * targets
                    cross[index] += _sum_over_time(reliability, average * run.residuals[rows])
                    power[index] += _sum_over_time(reliability.square(), average.square())

    def _choose(self, cross: Tensor, power: Tensor) -> None:
        changes = held_out_change(cross, power)
        options = list(self.options)
        for index in range(len(self.horizons)):
            best = choose_option(changes[..., index].flatten(1))
            if best is not None:
                choice, threshold = divmod(best, len(THRESHOLDS))
                options[index] = self._attention.choices[choice], THRESHOLDS[threshold]
                where = (slice(None), choice, threshold, index)
                self.weights[index] = shrinkage_weights(cross[where], power[where]).float()
        self.options = tuple(options)


def _sum_over_time(reliability: Tensor, products: Tensor) -> Tensor:
    """Weighted sum over time, for each threshold: ``(thresholds, horizons, n_residuals)``."""
    return (reliability.T @ products.flatten(1)).reshape(-1, *products.shape[1:])


class Attention(Protocol):
    """Weights of the stimulus positions, given how well they match.

    Attributes
    ----------
    choices : tuple of float
        Values of the parameter to choose from.
    """

    choices: ClassVar[tuple[float, ...]]

    def __call__(self, matches: Tensor, choice: float, thresholds: Sequence[float]) -> tuple[Tensor, Tensor]:
        """From ``(time, positions)`` to attention ``(time, positions)`` and reliability ``(time, thresholds)``."""
        ...


class SoftAttention:
    """Softmax over all positions. The threshold acts as a further position, which is followed by zeros."""

    choices: ClassVar[tuple[float, ...]] = TEMPERATURES

    def __call__(self, matches: Tensor, choice: float, thresholds: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Attention at the temperature `choice`; shapes as in :meth:`Attention.__call__`."""
        logits = matches / choice
        evidence = logits.logsumexp(dim=1, keepdim=True)
        return logits.softmax(dim=1), torch.sigmoid(evidence - torch.tensor(thresholds) / choice)


class BestMatches:
    """Equal weights for the best positions; reliable where the best match exceeds the threshold."""

    choices: ClassVar[tuple[float, ...]] = COUNTS

    def __call__(self, matches: Tensor, choice: float, thresholds: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Attention to the `choice` best positions; shapes as in :meth:`Attention.__call__`."""
        best = matches.topk(min(int(choice), matches.shape[1]), dim=1)
        weight = torch.isfinite(best.values).float()
        weight = weight / weight.sum(dim=1, keepdim=True)
        attention = torch.zeros_like(matches).scatter_(1, best.indices, weight)
        return attention, (best.values[:, :1] > torch.tensor(thresholds)).float()
