"""Training runs as the memory that looks ahead reads them, and what its output is worth there."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from titan_neuro.forecaster.fit.components import ComponentRun, residual_errors
from titan_neuro.forecaster.recall.recall import Recalled
from titan_neuro.forecaster.titan.forecast_memory import ForecastMemory
from titan_neuro.forecaster.titan.lookahead_memory import LookaheadMemory

AnyOption = TypeVar("AnyOption", bound=tuple[Tensor, ...])


class Example(NamedTuple):
    """A training run, and what the recall forecasts of it."""

    memory: LookaheadMemory
    run: ComponentRun
    recalled: Recalled

    def features(self) -> Tensor:
        """Key features, ``(time, horizons, features)``; see :meth:`LookaheadMemory.key_features`.

        They are made again for each pass: of all runs together they would be the largest tensor of the fit.
        """
        recalled = Recalled(*(part[None] for part in self.recalled))
        stream = self.run.series[None], self.run.innovations[None], recalled
        return self.memory.key_features(*stream, self.memory.init_state(1))[0][0]

    def missed(self) -> Tensor:
        """What the memory learns: the errors that the recall leaves, ``(time, horizons, width)``."""
        return residual_errors(self.run, self.recalled.total, self.memory.horizons)

    def without_stimulus(self) -> Example:
        """The same run, with a recall that knows nothing of the stimulus."""
        return self._replace(recalled=self.recalled._replace(stimulus=torch.zeros_like(self.recalled.stimulus)))


class OutputSums(NamedTuple):
    """Sums over all scored time points, for each unit, horizon and component: ``(units, horizons, components)``.

    Attributes
    ----------
    product, square : torch.Tensor
        Of the memory's output with the error, and with itself.
    power : torch.Tensor
        ``(horizons, components)``: mean square of the error.
    """

    product: Tensor
    square: Tensor
    power: Tensor

    def reliability(self) -> Tensor:
        """Shrinkage weight of the output, 0 to 1: the least-squares weight less half a standard error.

        The standard error is that between units, or that of independent time points where it is larger: few units may
        agree by chance.

        Returns
        -------
        torch.Tensor
            float64 ``(horizons, components)``.
        """
        product, square = self.product.sum(dim=0), self.square.sum(dim=0)
        weight = product / square.clamp_min(1e-12)
        variance = square * self.power
        n_units = len(self.product)
        if n_units > 1:
            between = (self.product - weight * self.square).square().sum(dim=0) * n_units / (n_units - 1)
            variance = torch.maximum(variance, between)
        return ((product - 0.5 * variance.sqrt()) / square.clamp_min(1e-12)).clamp(0, 1)

    def error_removed(self) -> Tensor:
        """Squared error that the output times its reliability removes, ``(horizons,)``."""
        weight, product, square = self.reliability(), self.product.sum(dim=0), self.square.sum(dim=0)
        return (2 * weight * product - weight.square() * square).sum(dim=1)


def run_memory(memory: ForecastMemory[Any], sample: Sequence[Example]) -> OutputSums:
    """Run a memory through each run, from empty."""

    def outputs() -> Iterator[tuple[Tensor, Tensor]]:
        for one in sample:
            missed = one.missed()
            read, _ = memory(one.features()[None], missed[None], memory.init_state(1))
            yield read[0].detach(), missed

    return sum_outputs([one.run for one in sample], memory.horizons, outputs())


def sum_outputs(
    runs: Sequence[ComponentRun], horizons: Sequence[int], outputs: Iterable[tuple[Tensor, Tensor]]
) -> OutputSums:
    """Sum up what a memory gives for each run; a unit is a subject, or a run where there is one subject.

    Parameters
    ----------
    runs : sequence of ComponentRun
    horizons : sequence of int
        Lead times in time points.
    outputs : iterable of tuple of torch.Tensor
        Of each run: what the memory reads at its time points, ``(time, horizons, width)``, which may end early; and
        what it learns there, the errors at each time point.

    Returns
    -------
    OutputSums
    """
    subjects = sorted({run.subject for run in runs})
    n_units = len(subjects) if len(subjects) > 1 else len(runs)
    product = torch.zeros(n_units, len(horizons), runs[0].series.shape[1], dtype=torch.float64)
    square, power = torch.zeros_like(product), torch.zeros(product.shape[1:], dtype=torch.float64)
    n_targets = torch.zeros(len(horizons), 1)
    for place, (run, (found, missed)) in enumerate(zip(runs, outputs, strict=True)):
        unit = subjects.index(run.subject) if len(subjects) > 1 else place
        for index, horizon in enumerate(horizons):
            scored = run.scored[horizon : len(found)]
            output = found[: len(scored), index][scored].double()
            target = missed[horizon : len(found), index][scored].double()
            product[unit, index] += (output * target).sum(0)
            square[unit, index] += output.square().sum(0)
            power[index] += target.square().sum(0)
            n_targets[index] += len(target)
    return OutputSums(product, square, power / n_targets.clamp_min(1))


def choose_options(options: Iterable[AnyOption]) -> AnyOption:
    """Put together, for each horizon, the option that removed most error; the first of equal ones.

    Parameters
    ----------
    options : iterable of NamedTuple
        Of tensors whose first dimension is that of the horizons; the first one is the squared error that was removed,
        ``(horizons,)``.

    Returns
    -------
    NamedTuple
    """

    def choose(one: AnyOption, other: AnyOption) -> AnyOption:
        is_better = other[0] > one[0]
        pairs = zip(one, other, strict=True)
        return type(one)(*(torch.where(is_better.view(-1, *[1] * (a.ndim - 1)), b, a) for a, b in pairs))

    return functools.reduce(choose, options)
