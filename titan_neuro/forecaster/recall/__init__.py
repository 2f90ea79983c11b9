"""The recall: stimulus memory, vector autoregression, delayed responses; fitted in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from titan_neuro.lazy import lazy_names

if TYPE_CHECKING:
    from titan_neuro.forecaster.recall.config import RecallConfig
    from titan_neuro.forecaster.recall.recall import Recall, Recalled, RecallFit, RecallState

_HOMES = {
    "Recall": "recall",
    "RecallConfig": "config",
    "RecallFit": "recall",
    "RecallState": "recall",
    "Recalled": "recall",
}

__all__ = ["Recall", "RecallConfig", "RecallFit", "RecallState", "Recalled"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
