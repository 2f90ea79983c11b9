"""Train a forecaster on streams: windows of every run in order, the memory carried from one to the next.

What is imported from here is loaded when it is first used: the settings and a trained model need no Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from titan_neuro.lazy import lazy_names

if TYPE_CHECKING:
    from titan_neuro.training.checkpoint import load_forecaster, require_match, require_record, save_forecaster
    from titan_neuro.training.config import PretrainingConfig, TrainingConfig, require_pretraining
    from titan_neuro.training.fit import train_fold
    from titan_neuro.training.fold import FoldData, run_digest, trained_result
    from titan_neuro.training.resume import expect_time_limit, ignore_time_limit
    from titan_neuro.training.start import require_unseen
    from titan_neuro.training.trainer import Processes, find_processes

_HOMES = {
    "FoldData": "fold",
    "PretrainingConfig": "config",
    "Processes": "trainer",
    "TrainingConfig": "config",
    "expect_time_limit": "resume",
    "find_processes": "trainer",
    "ignore_time_limit": "resume",
    "load_forecaster": "checkpoint",
    "require_match": "checkpoint",
    "require_pretraining": "config",
    "require_record": "checkpoint",
    "require_unseen": "start",
    "run_digest": "fold",
    "save_forecaster": "checkpoint",
    "train_fold": "fit",
    "trained_result": "fold",
}

__all__ = [
    "FoldData",
    "PretrainingConfig",
    "Processes",
    "TrainingConfig",
    "expect_time_limit",
    "find_processes",
    "ignore_time_limit",
    "load_forecaster",
    "require_match",
    "require_pretraining",
    "require_record",
    "require_unseen",
    "run_digest",
    "save_forecaster",
    "train_fold",
    "trained_result",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
