"""Train a forecaster on streams: windows of every run in order, the memory carried from one to the next."""

from titan_neuro.training.checkpoint import load_forecaster, require_match, require_record, save_forecaster
from titan_neuro.training.fit import FoldData, TrainingConfig, fold_fingerprint, train_fold

__all__ = [
    "FoldData",
    "TrainingConfig",
    "fold_fingerprint",
    "load_forecaster",
    "require_match",
    "require_record",
    "save_forecaster",
    "train_fold",
]
