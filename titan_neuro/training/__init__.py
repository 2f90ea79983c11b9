"""Train a forecaster on streams: windows of every run in order, the memory carried from one to the next."""

from titan_neuro.training.checkpoint import load_forecaster, require_match, require_record, save_forecaster
from titan_neuro.training.fit import TrainingConfig, train_fold, trained_result
from titan_neuro.training.fold import FoldData, run_digest
from titan_neuro.training.masked_volumes import PretrainingConfig
from titan_neuro.training.pretrain import require_pretraining
from titan_neuro.training.resume import expect_time_limit
from titan_neuro.training.trainer import Processes, find_processes

__all__ = [
    "FoldData",
    "PretrainingConfig",
    "Processes",
    "TrainingConfig",
    "expect_time_limit",
    "find_processes",
    "load_forecaster",
    "require_match",
    "require_pretraining",
    "require_record",
    "run_digest",
    "save_forecaster",
    "train_fold",
    "trained_result",
]
