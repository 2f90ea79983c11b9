"""A control for every probe: the same model, with what training has put into it taken away again."""

from __future__ import annotations

import torch

from titan_neuro.forecaster.forecaster import Forecaster


def untrained_like(model: Forecaster, *, seed: int) -> Forecaster:
    """Build a model's like anew, with random weights and an empty stimulus; the linear skip and the basis stay.

    The memory that learns at test time learns in it, too, from keys that are drawn at random: what such a memory holds
    of a stimulus, any mixing of the past would.

    Parameters
    ----------
    model : Forecaster
    seed : int

    Returns
    -------
    Forecaster
        In evaluation mode, where `model` is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mask = getattr(model.tokenizer, "mask", None)
        fresh = model.config.build(n_features=model.n_features, mask=None if mask is None else mask.cpu())
        fresh.linear_skip.load_state_dict(model.linear_skip.state_dict())
        if fresh.recall is not None and model.recall is not None:
            fresh.recall.basis.copy_(model.recall.basis)
            fresh.recall.innovation_directions.copy_(model.recall.innovation_directions)
            fresh.recall.autoregression.directions.copy_(model.recall.autoregression.directions)
            keys = fresh.recall.memory.key_map
            keys.copy_(torch.randn(keys.shape) / keys.shape[-1] ** 0.5)
    return fresh.to(model.linear_skip.coefficients.device).eval()
