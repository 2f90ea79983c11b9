"""The recall: stimulus memory, vector autoregression, delayed responses; fitted in closed form."""

from titan_neuro.forecaster.recall.recall import Recall, RecallConfig, Recalled, RecallFit, RecallState

__all__ = ["Recall", "RecallConfig", "RecallFit", "RecallState", "Recalled"]
