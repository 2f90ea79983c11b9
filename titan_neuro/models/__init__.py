"""Models of streams of frames: Titans backbones and the forecaster that is built on one."""

from titan_neuro.models.forecaster import Forecaster, ForecasterConfig, ForecasterState
from titan_neuro.models.mac import MAC, MACConfig, MACState

__all__ = ["MAC", "Forecaster", "ForecasterConfig", "ForecasterState", "MACConfig", "MACState"]
