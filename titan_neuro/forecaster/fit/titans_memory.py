"""Start the memory with the write rule of Titans: keys whitened as a ridge regression would, and the best step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from titan_neuro.forecaster.fit.memory_runs import Example, choose_options, run_memory
from titan_neuro.forecaster.fit.meta_training import meta_train
from titan_neuro.forecaster.titan.titans_memory import TitansForecastMemory, TitansMemoryFit

# Pairs after which a ridge regression has the gain that this memory has from its start: with fewer it learns faster,
# and forgets faster.
_KNOWN_PAIRS = (300.0, 1000.0)
# With more momentum the newest pairs, whose errors resemble the present one's, count less.
_MOMENTA = (0.5, 0.8, 0.88)
_STEP, _FORGETTING = 1.3, 1e-4


class _Option(NamedTuple):
    """A memory as it was run through the training runs; the first dimension of all parts is that of the horizons."""

    removed: Tensor
    key_map: Tensor
    gates: Tensor
    reliability: Tensor


def fit_titans_memory(key_map: Tensor, features: Tensor, examples: Sequence[Example]) -> TitansMemoryFit:
    """Turn the keys of the exact rule into those of the Titans rule, and meta-train them.

    The gain of a ridge regression after ``n`` pairs is ``(1 + n C)^-1 k``, with ``C`` the covariance of the keys. Keys
    times the root of this matrix have that gain as their gradient. ``n`` and the momentum are those that remove most
    error in the training runs, for each horizon.

    Parameters
    ----------
    key_map : torch.Tensor
        Of the exact rule, ``(horizons, key width, features)``, along principal directions.
    features : torch.Tensor
        Key features of some time points, ``(samples, horizons, features)``.
    examples : sequence of Example
        Runs of all training subjects, with the memory that is fitted.

    Returns
    -------
    TitansMemoryFit
    """
    associations = cast("TitansForecastMemory", examples[0].memory.associations)
    empty, n_horizons = associations.fitted(), len(associations.horizons)
    variance = torch.einsum("skf,kdf->skd", features, key_map).square().mean(dim=0)
    error_scale = _error_scale(examples)

    def start(key_map: Tensor, gates: Tensor, reliability: Tensor) -> TitansMemoryFit:
        return TitansMemoryFit(key_map, reliability, error_scale, gates, empty.initial_weights)

    def run_option(n_known: float, momentum: float) -> _Option:
        whitened = key_map / (1 + n_known * variance).sqrt()[..., None]
        limits = torch.tensor((1.0, associations.config.max_momentum, associations.config.max_step))
        gates = torch.logit(torch.tensor((_FORGETTING, momentum, _STEP)) / limits, eps=1e-5).expand(n_horizons, -1)
        associations.load(start(whitened, gates.T, torch.ones_like(empty.reliability)))
        sums = run_memory(associations, examples)
        return _Option(sums.error_removed(), whitened, gates, sums.reliability().float())

    best = choose_options(run_option(*option) for option in itertools.product(_KNOWN_PAIRS, _MOMENTA))
    associations.load(start(best.key_map, best.gates.T, best.reliability))
    return meta_train(examples)


def _error_scale(examples: Sequence[Example]) -> Tensor:
    """Root of the mean squared norm of what the memory learns, ``(horizons,)``."""
    power = torch.cat([one.missed()[one.run.scored].square().sum(dim=2) for one in examples])
    return power.mean(dim=0).sqrt().clamp_min(1e-6)
