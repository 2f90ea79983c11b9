import pytest

from titan_neuro.baselines import make_baselines, make_oracle_references
from titan_neuro.evaluation.metrics_and_rows import (
    GRU,
    METRICS,
    METRICS_BY_NAME,
    REFERENCES,
    RESIDUAL_METRICS,
    ROLLOUT_METRICS,
    ROWS,
    TRANSFORMER_20,
    Kind,
    describe_column,
    interval_columns,
    lead_time_in_words,
    row_of,
)
from titan_neuro.forecaster.comparison_models import match_comparison_models
from titan_neuro.titans import LMMConfig, MACConfig, MAGConfig, MALConfig


def names_of(kind):
    return [row.name for row in ROWS.values() if row.kind == kind]


def test_baselines_and_oracle_references_have_their_rows():
    assert [row.name for row in make_baselines((1,))] == names_of(Kind.BASELINE)
    assert [row.name for row in make_oracle_references((1,))] == names_of(Kind.ORACLE_REFERENCE)


def test_comparison_models_have_their_rows(make_forecaster):
    config = make_forecaster("mac").config
    assert [one.backbone.name for one in match_comparison_models(config, n_features=6)] == [GRU, TRANSFORMER_20]


@pytest.mark.parametrize("config", [LMMConfig, MACConfig, MAGConfig, MALConfig])
def test_titans_have_a_label(config):
    row = row_of(config(dim=8).name)
    assert row.kind == Kind.MODEL
    assert row.label.startswith("Titans, ")


def test_controls_are_described_whatever_the_model():
    assert row_of("titan-mal-frozen").label == "test-time learning off"
    assert row_of("titan-mac-reset20").label == "memory reset every 20 time points"
    assert row_of("titan-mac-reset20").kind == Kind.CONTROL


def test_skills_are_measured_against_baselines():
    assert REFERENCES == {"skill_ar": "ar", "skill": "persistence", "r2": "mean"}
    assert {ROWS[name].kind for name in REFERENCES.values()} == {Kind.BASELINE}


def test_every_metric_column_is_described():
    for column in interval_columns((*METRICS, *ROLLOUT_METRICS, *RESIDUAL_METRICS)):
        assert describe_column(column)["Description"].endswith(".")
    assert describe_column("skill_ar")["LongName"] == "error removed beyond linear autoregression (skill)"
    assert describe_column("bias")["Description"].endswith("mean (f - y); best at 0.")
    assert {metric.direction for metric in METRICS_BY_NAME.values()} == {"higher", "lower", "target"}


def test_an_unknown_column_is_refused():
    with pytest.raises(KeyError):
        describe_column("something")


def test_lead_times_are_in_time_points_and_seconds():
    assert lead_time_in_words(1, 1.5) == "1 time point (1.5 s)"
    assert lead_time_in_words(6, 9.0) == "6 time points (9 s)"
