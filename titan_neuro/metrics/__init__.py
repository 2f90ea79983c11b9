"""How good a forecast is, and how sure we are: sums over frames, measures from the sums, intervals over subjects."""

from titan_neuro.metrics.intervals import bootstrap_interval
from titan_neuro.metrics.measures import fisher_mean, pearson, pooled_skill, skill
from titan_neuro.metrics.moments import ForecastAccumulator, ForecastMoments
from titan_neuro.metrics.streaming import score_run, stream_forecasts
from titan_neuro.metrics.whiteness import ljung_box

__all__ = [
    "ForecastAccumulator",
    "ForecastMoments",
    "bootstrap_interval",
    "fisher_mean",
    "ljung_box",
    "pearson",
    "pooled_skill",
    "score_run",
    "skill",
    "stream_forecasts",
]
