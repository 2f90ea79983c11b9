"""Titans: a memory that learns at test time, and models built on it (Behrouz et al. 2025, arXiv:2501.00663).

`memory` is the operation, `layers` the modules built on it, `models` the variants LMM, MAC, MAG and MAL and the
language model `TitansLM`. The package needs torch, jaxtyping, pydantic and safetensors (which saves with NumPy), and of
the rest of Titan-Neuro only its errors, settings and lazy names.

One word is used throughout: a **time point** is the group of ``tokens_per_time_point`` tokens that belong together in
time. In text it is a single token (the default), in fMRI all tokens of one volume. Tokens of one time point may see
each other; no token sees a later time point. Chunks, segments and windows are counted in time points.

>>> from titan_neuro.titans import MACConfig, TitansLM, TitansLMConfig
>>> model = TitansLM(TitansLMConfig(vocab_size=256, backbone=MACConfig(dim=64)))
>>> logits = model(input_ids)
>>> ids = model.generate(prompt, 50)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from titan_neuro.lazy import lazy_names

if TYPE_CHECKING:
    from titan_neuro.titans.layers import NeuralMemory, NeuralMemoryConfig
    from titan_neuro.titans.models import (
        LMM,
        MAC,
        MAG,
        MAL,
        LMMConfig,
        MACConfig,
        MAGConfig,
        MALConfig,
        TitansLM,
        TitansLMConfig,
    )

_HOMES = {
    "LMM": "models",
    "LMMConfig": "models",
    "MAC": "models",
    "MACConfig": "models",
    "MAG": "models",
    "MAGConfig": "models",
    "MAL": "models",
    "MALConfig": "models",
    "NeuralMemory": "layers",
    "NeuralMemoryConfig": "layers",
    "TitansLM": "models",
    "TitansLMConfig": "models",
}

__all__ = [
    "LMM",
    "MAC",
    "MAG",
    "MAL",
    "LMMConfig",
    "MACConfig",
    "MAGConfig",
    "MALConfig",
    "NeuralMemory",
    "NeuralMemoryConfig",
    "TitansLM",
    "TitansLMConfig",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
