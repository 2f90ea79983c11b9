"""Titans: a memory that learns at test time, and models built on it (Behrouz et al. 2025, arXiv:2501.00663).

`memory` is the operation, `layers` the modules made of it, `models` the variants LMM, MAC, MAG and MAL. Nothing here
knows of fMRI, files or studies.
"""

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
