"""Choose how long the parts of the keys are: how far what they tell is trusted after how many time points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from titan_neuro.forecaster.fit.memory_runs import Example, sum_outputs
from titan_neuro.forecaster.titan.lookahead_memory import LookaheadMemory

# Mean squared length of the part of a key that each kind of feature makes: about how much of it is learned from one
# time point. Rounded from what gradients through the memory gave on four subjects of one recording (docs/log.md).
_TRUST = {
    "time point": 0.1,
    "average 5": 0.08,
    "average 15": 0.2,
    "average 40": 0.01,
    "average 100": 1.5,
    "innovation 0": 0.1,
    "innovation 1": 0.04,
    "stimulus": 0.15,
    "own": 0.01,
}
_TRUST_IN_EARLIER_INNOVATIONS = 0.01
# Factors from which the fit chooses, for each horizon: first that of what the person's own brain does, then that of
# what the stimulus memory forecasts.
_OWN_FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_STIMULUS_FACTORS = (1.0, 0.2, 0.5, 2.0)
# Kinds with less than this fraction of the time points' power are left out: scaled up they were noise.
_LEAST_POWER = 1e-6
# Time points at the beginning of a run by which the factors are chosen; the cost grows with their cube.
_CHOICE_TIME_POINTS = 1200


def choose_scales(sample: Sequence[Example], features: Tensor) -> Tensor:
    """Choose what each key feature is multiplied by, for each horizon.

    Each kind of feature has the length that `_TRUST` gives it, times a factor: one for what the person's own brain
    does, then one for what the stimulus memory forecasts. A factor is chosen by the error that a memory removes whose
    keys are all features, unreduced. It needs no more than the products of the keys with one another, which are sums
    of those of the two sorts of features: an option costs one factorization of them.

    Parameters
    ----------
    sample : sequence of Example
    features : torch.Tensor
        Key features of some time points, ``(samples, horizons, features)``.

    Returns
    -------
    torch.Tensor
        ``(horizons, features)``.
    """
    memory = sample[0].memory
    trusted, is_stimulus = _trusted_scales(memory, features)
    ones = torch.ones(len(memory.horizons))
    options = torch.stack([torch.stack([factor * ones, ones]) for factor in _OWN_FACTORS])
    own = _best_option(sample, trusted, is_stimulus, options)[0]
    stimulus = ones
    if any(bool(one.recalled.stimulus.any()) for one in sample):
        options = torch.stack([torch.stack([own, factor * ones]) for factor in _STIMULUS_FACTORS])
        stimulus = _best_option(sample, trusted, is_stimulus, options)[1]
    return trusted * torch.where(is_stimulus, stimulus[:, None], own[:, None]).sqrt()


def _trusted_scales(memory: LookaheadMemory, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Scales with which each kind of feature has the length of `_TRUST`, ``(horizons, features)``.

    And which features are forecasts by the stimulus memory, bool ``(features,)``.
    """
    kinds = memory.config.feature_sizes(width=memory.width)
    sizes = torch.tensor([*kinds.values()])
    trust = torch.tensor([_TRUST.get(kind, _TRUST_IN_EARLIER_INNOVATIONS) for kind in kinds])
    # Mean squared length of each kind of feature, ``(horizons, kinds)``.
    parts = torch.split(samples, sizes.tolist(), dim=2)
    power = torch.stack([part.square().sum(2).mean(0) for part in parts], dim=1)
    scale = torch.where(power > _LEAST_POWER * power[:, :1], trust / power.clamp_min(1e-12), 0.0).sqrt()
    is_stimulus = torch.tensor([kind.startswith("stimulus") for kind in kinds])
    return scale.repeat_interleave(sizes, dim=1), is_stimulus.repeat_interleave(sizes)


def _best_option(sample: Sequence[Example], scales: Tensor, is_stimulus: Tensor, options: Tensor) -> Tensor:
    """For each horizon, the factors that remove most error, ``(2, horizons)``; of ``(options, 2, horizons)``."""
    horizons = sample[0].memory.horizons

    def outputs(one: Example, missed: Tensor) -> Tensor:
        features, missed = one.features()[:_CHOICE_TIME_POINTS], missed[:_CHOICE_TIME_POINTS]
        found = missed.new_empty(len(missed), len(options), *missed.shape[1:])
        for index, horizon in enumerate(horizons):
            keys = features[:, index] * scales[index]
            products = [part @ part.T for part in (keys[:, ~is_stimulus], keys[:, is_stimulus])]
            for place, (own, stimulus) in enumerate(options[:, :, index].tolist()):
                gram = own * products[0] + stimulus * products[1]
                found[:, place, index] = _read_and_write(gram, missed[:, index], horizon)
        return found.flatten(1, 2)

    removed = sum_outputs(sample, horizons * len(options), outputs).error_removed()
    best = removed.view(len(options), -1).argmax(dim=0)
    return options[best, :, torch.arange(len(horizons))].T


def _read_and_write(gram: Tensor, missed: Tensor, horizon: int) -> Tensor:
    """What the exact memory gives at each time point of a run, ``(time, width)``.

    `gram` are the products of the keys, ``(time, time)``. The leading rows of its factor are the factor of the pairs
    until then, so that one factorization serves all time points.
    """
    factor = torch.linalg.cholesky(gram + torch.eye(len(gram)))
    # The value of a key comes `horizon` time points later; the last ones never come, and are not read.
    values = pad(missed[horizon:], (0, 0, 0, min(horizon, len(missed))))
    read: Tensor = factor.tril(-horizon) @ torch.linalg.solve_triangular(factor, values, upper=False)
    return read
