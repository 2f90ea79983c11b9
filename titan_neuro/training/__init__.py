"""Train a forecaster on streams: windows of every run in order, the memory carried from one to the next.

What is imported from here is loaded when it is first used: the settings and a trained model need no Lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from titan_neuro.training.checkpoint import load_forecaster, require_match, require_record, save_forecaster
    from titan_neuro.training.config import PretrainingConfig, TrainingConfig, require_pretraining
    from titan_neuro.training.fit import fold_fingerprint, is_trained, train_fold
    from titan_neuro.training.fold import FoldData
    from titan_neuro.training.resume import expect_time_limit
    from titan_neuro.training.trainer import Processes, find_processes

_HOMES = {
    "FoldData": "fold",
    "PretrainingConfig": "config",
    "Processes": "trainer",
    "TrainingConfig": "config",
    "expect_time_limit": "resume",
    "find_processes": "trainer",
    "fold_fingerprint": "fit",
    "is_trained": "fit",
    "load_forecaster": "checkpoint",
    "require_match": "checkpoint",
    "require_pretraining": "config",
    "require_record": "checkpoint",
    "save_forecaster": "checkpoint",
    "train_fold": "fit",
}

__all__ = [
    "FoldData",
    "PretrainingConfig",
    "Processes",
    "TrainingConfig",
    "expect_time_limit",
    "find_processes",
    "fold_fingerprint",
    "is_trained",
    "load_forecaster",
    "require_match",
    "require_pretraining",
    "require_record",
    "save_forecaster",
    "train_fold",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
