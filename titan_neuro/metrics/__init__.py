"""How good a forecast is, and how sure we are: sums over time points, measures from the sums, intervals over subjects."""

from titan_neuro.metrics.ceilings import Ceiling, ceiling_on_skill, retest_ceiling, stimulus_locked_ceiling
from titan_neuro.metrics.forecast_statistics import ForecastAccumulator, ForecastStatistics
from titan_neuro.metrics.intervals import bootstrap_interval, interval_of_related
from titan_neuro.metrics.isc import InterSubject, inter_subject, leave_one_out_isc
from titan_neuro.metrics.measures import fisher_mean, pearson, pooled_skill, skill
from titan_neuro.metrics.permutation import corrected_over_map, p_of_null, sign_flip_test, sign_flips
from titan_neuro.metrics.streaming import score_run, stream_forecasts
from titan_neuro.metrics.whiteness import ljung_box

__all__ = [
    "Ceiling",
    "ForecastAccumulator",
    "ForecastStatistics",
    "InterSubject",
    "bootstrap_interval",
    "ceiling_on_skill",
    "corrected_over_map",
    "fisher_mean",
    "inter_subject",
    "interval_of_related",
    "leave_one_out_isc",
    "ljung_box",
    "p_of_null",
    "pearson",
    "pooled_skill",
    "retest_ceiling",
    "score_run",
    "sign_flip_test",
    "sign_flips",
    "skill",
    "stimulus_locked_ceiling",
    "stream_forecasts",
]
