"""Scores, intervals, noise ceilings and permutation tests: arrays in, arrays out."""

from titan_neuro.metrics.ceilings import Ceiling, ceiling_on_skill, shared_variance
from titan_neuro.metrics.forecast_statistics import ForecastAccumulator, ForecastStatistics
from titan_neuro.metrics.intervals import bootstrap_interval, leave_one_out_interval
from titan_neuro.metrics.isc import IntersubjectCorrelation, IscAccumulator, correlate_with_others
from titan_neuro.metrics.measures import fisher_mean, pearson, pooled_skill, skill
from titan_neuro.metrics.permutation import corrected_over_map, p_of_null, sign_flip_test, sign_flips
from titan_neuro.metrics.spatial_nulls import moran_surrogates
from titan_neuro.metrics.whiteness import robust_portmanteau

__all__ = [
    "Ceiling",
    "ForecastAccumulator",
    "ForecastStatistics",
    "IntersubjectCorrelation",
    "IscAccumulator",
    "bootstrap_interval",
    "ceiling_on_skill",
    "corrected_over_map",
    "correlate_with_others",
    "fisher_mean",
    "leave_one_out_interval",
    "moran_surrogates",
    "p_of_null",
    "pearson",
    "pooled_skill",
    "robust_portmanteau",
    "shared_variance",
    "sign_flip_test",
    "sign_flips",
    "skill",
]
