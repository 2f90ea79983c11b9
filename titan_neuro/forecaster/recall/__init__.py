"""The recall: stimulus memory, vector autoregression, delayed responses, and a memory that learns at test time."""

from titan_neuro.forecaster.recall.fit import fit_recall
from titan_neuro.forecaster.recall.recall import Recall, RecallConfig, RecallFit, RecallState

__all__ = ["Recall", "RecallConfig", "RecallFit", "RecallState", "fit_recall"]
