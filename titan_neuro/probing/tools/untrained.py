"""A control for every probe: the same model without its training."""

from __future__ import annotations

import torch

from titan_neuro.forecaster import Forecaster


def untrained_like(model: Forecaster, *, seed: int) -> Forecaster:
    """Build a model like this one with random weights and an empty stimulus memory.

    The linear skip and the components are copied from `model`. The memories that learn at test time learn in
    the untrained model, too, from random keys: what they contain of a stimulus, any mixture of past time points would.

    Parameters
    ----------
    model : Forecaster
    seed : int
        Seed of the random weights.

    Returns
    -------
    Forecaster
        In evaluation mode, on the device of `model`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mask = getattr(model.tokenizer, "mask", None)
        untrained = model.config.build(n_features=model.n_features, mask=None if mask is None else mask.cpu())
        untrained.linear_skip.load_state_dict(model.linear_skip.state_dict())
        if untrained.components is not None and model.components is not None:
            untrained.components.load_state_dict(model.components.state_dict())
        if untrained.recall is not None and model.recall is not None:
            untrained.recall.innovation_directions.copy_(model.recall.innovation_directions)
            untrained.recall.autoregression.directions.copy_(model.recall.autoregression.directions)
        if untrained.backbone.memory is not None and model.backbone.memory is not None:
            untrained.backbone.memory.directions.copy_(model.backbone.memory.directions)
            keys = untrained.backbone.memory.associations.key_map
            keys.copy_(torch.randn(keys.shape) / keys.shape[-1] ** 0.5)
    return untrained.to(model.linear_skip.coefficients.device).eval()


def untrained_name(name: str) -> str:
    """Return the row name of a measure or readout of the untrained model."""
    return f"{name}, untrained model"
