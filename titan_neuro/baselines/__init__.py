"""The simple forecasters that stand beside ours in every table."""

from titan_neuro.baselines.autoregression import AutoregressionBaseline
from titan_neuro.baselines.mean import TrainingMean
from titan_neuro.baselines.persistence import Persistence

__all__ = ["AutoregressionBaseline", "Persistence", "TrainingMean"]
