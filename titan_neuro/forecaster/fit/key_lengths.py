"""Choose how long the parts of the keys are: how far what they tell is trusted after how many time points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from titan_neuro.forecaster.fit.memory_runs import Example, sum_outputs
from titan_neuro.forecaster.titan.lookahead_memory import LookaheadMemory

# Mean squared length of the part of a key that each kind of feature makes, from which the choice starts: about how much
# of it is learned from one time point. Rounded from what gradients through the memory gave on four subjects of one
# recording (docs/log.md).
_TRUST = {
    "time point": 0.1,
    "average 5": 0.08,
    "average 15": 0.2,
    "average 40": 0.01,
    "average 100": 1.5,
    "innovation 0": 0.1,
    "innovation 1": 0.04,
    "earlier innovations": 0.01,
    "stimulus": 0.15,
    "own": 0.01,
}
# The steps start from the best of these factors of all kinds but the stimulus, then of the stimulus.
_OWN_FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_STIMULUS_FACTORS = (1.0, 0.2, 0.5, 2.0)
# Then each kind's factor goes up or down in such steps, while that removes at least so much more error.
_STEP = 4.0
_LEAST_GAIN = 0.001
_N_ROUNDS = 2
# Largest mean squared length of a key. A memory with longer keys trusts a single time point wholly, and its inverse
# needs more digits than float32 has. Real recordings ask for 0.1 to 10 (docs/log.md).
_LONGEST = 100.0
# Kinds with less than this fraction of the time points' power are left out: scaled up they were noise.
_LEAST_POWER = 1e-6
# Time points at the beginning of a run by which the factors are chosen; the cost grows with their cube.
_CHOICE_TIME_POINTS = 800


def choose_scales(sample: Sequence[Example], features: Tensor) -> Tensor:
    """Choose what each key feature is multiplied by, for each horizon.

    Each kind of feature has the length that `_TRUST` gives it, times a factor. The factors are chosen by the error that
    a memory removes whose keys are all features, unreduced: first one for all kinds that tell of the person's own
    brain and one for the stimulus, then, in steps, that of each kind. This needs no more than the products of the keys
    with one another, which are sums of those of the kinds: an option costs one factorization of them.

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
    trusted, sizes = _trusted_scales(memory, features)
    products = [_KindProducts(one, trusted, list(sizes.values())) for one in sample]
    has_stimulus = any(bool(one.recalled.stimulus.any()) for one in sample)
    factors = torch.stack(
        [_choose_factors(products, index, list(sizes), has_stimulus) for index in range(len(memory.horizons))]
    )
    return trusted * factors.sqrt().repeat_interleave(torch.tensor([*sizes.values()]), dim=1)


def _trusted_scales(memory: LookaheadMemory, samples: Tensor) -> tuple[Tensor, dict[str, int]]:
    """Scales with which each kind of feature has the length of `_TRUST`, ``(horizons, features)``.

    And the number of features of each kind of `_TRUST` that there is.
    """
    kinds = memory.config.feature_sizes(width=memory.width)
    # Mean squared length of each kind of feature, ``(horizons, kinds)``.
    parts = torch.split(samples, [*kinds.values()], dim=2)
    power = torch.stack([part.square().sum(2).mean(0) for part in parts], dim=1)
    names = [kind if kind in _TRUST else "earlier innovations" for kind in kinds]
    trust = torch.tensor([_TRUST[name] for name in names])
    scale = torch.where(power > _LEAST_POWER * power[:, :1], trust / power.clamp_min(1e-12), 0.0).sqrt()
    sizes = dict.fromkeys(names, 0)
    for name, size in zip(names, kinds.values(), strict=True):
        sizes[name] += size
    return scale.repeat_interleave(torch.tensor([*kinds.values()]), dim=1), sizes


class _KindProducts:
    """Products of the keys of one run with one another, kind by kind.

    All kinds but the last two, which are forecasts of one lead time each, are the same at all horizons.

    Attributes
    ----------
    example : Example
    missed : torch.Tensor
        What the memory learns, ``(time, horizons, width)``.
    """

    def __init__(self, example: Example, scales: Tensor, sizes: Sequence[int]) -> None:
        self.example, self.missed = example, example.missed()[:_CHOICE_TIME_POINTS]
        keys = example.features()[:_CHOICE_TIME_POINTS] * scales
        *common, stimulus, own = torch.split(keys, list(sizes), dim=2)
        self._common = torch.stack([part[:, 0] @ part[:, 0].T for part in common])
        self._of_horizons = [stimulus.clone(), own.clone()]

    def at(self, index: int) -> Tensor:
        """Products at one horizon, ``(kinds, time, time)``."""
        return torch.cat([self._common, torch.stack([part[:, index] @ part[:, index].T for part in self._of_horizons])])


def _choose_factors(runs: Sequence[_KindProducts], index: int, kinds: Sequence[str], has_stimulus: bool) -> Tensor:
    """Factor of each kind at one horizon, ``(kinds,)``."""
    component_runs = [run.example.run for run in runs]
    horizon = runs[0].example.memory.horizons[index]
    of_runs = [(run.at(index), run.missed[:, index]) for run in runs]
    # Mean squared length of each kind in each run.
    lengths = [products.diagonal(dim1=1, dim2=2).mean(dim=1) for products, _ in of_runs]

    def removed(factors: Tensor) -> float:
        if max(float(factors @ length) for length in lengths) > _LONGEST:
            return -math.inf
        grams = ((torch.tensordot(factors, products, dims=1), missed) for products, missed in of_runs)
        outputs = ((_read_and_write(gram, missed, horizon)[:, None], missed[:, None]) for gram, missed in grams)
        return float(sum_outputs(component_runs, [horizon], outputs).error_removed())

    is_stimulus = torch.tensor([kind == "stimulus" for kind in kinds])
    ones = torch.ones(len(kinds))
    options = [factor * ones for factor in _OWN_FACTORS]
    best = max(options, key=removed)
    if has_stimulus:
        best = max((torch.where(is_stimulus, factor, best) for factor in _STIMULUS_FACTORS), key=removed)
    most = removed(best)
    for _ in range(_N_ROUNDS):
        at_first = most
        for kind in torch.eye(len(kinds), dtype=torch.bool):
            before = most
            for step in (_STEP, 1 / _STEP):
                while (found := removed(other := torch.where(kind, step * best, best))) > most * (1 + _LEAST_GAIN):
                    most, best = found, other
                # What has grown was shorter before, and removed less.
                if most > before:
                    break
        if most == at_first:
            break
    return best


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
