import numpy as np
import pytest
import torch
from stimulus_runs import HORIZONS, stream

from titan_neuro.baselines import make_baselines, make_oracle_references
from titan_neuro.evaluation.causality import check_causal, first_leak

ROWS = [model.name for model in make_baselines(HORIZONS)]
REFERENCES = [reference.name for reference in make_oracle_references(HORIZONS)]


def test_rows_are_in_the_order_of_the_table():
    assert [
        *("mean", "persistence", "damped", "ar", "var", "var-online"),
        *("analog-20", "analog-80", "analog-160", "soft-analog-20", "soft-analog-80", "soft-analog-160"),
    ] == ROWS
    assert REFERENCES == ["intersubject-average", "intersubject-average+ar"]


@pytest.mark.parametrize("name", [*ROWS, *REFERENCES])
def test_every_row_is_causal(fitted_on_stimulus, shown_to_all, name):
    run = shown_to_all[1][0]
    model = fitted_on_stimulus[name]
    if name in REFERENCES:
        model = model.bind(run, 0)
    check_causal(model, run, 64)
    for last, block_time_points in [(0, 64), (17, 300), (170, 300), (298, 300), (170, 7)]:
        assert first_leak(model, run.series, last, block_time_points) is None


@pytest.mark.parametrize("name", [*ROWS, *REFERENCES])
def test_block_lengths_change_forecasts_by_rounding_only(fitted_on_stimulus, shown_to_all, name):
    run = shown_to_all[1][1]
    model = fitted_on_stimulus[name]
    if name in REFERENCES:
        model = model.bind(run, 0)
    whole = stream(model, run.series)
    for cuts in [(1,), (64, 128, 192), (3, 4, 5, 290), tuple(range(1, 300, 2))]:
        np.testing.assert_allclose(stream(model, run.series, cuts), whole, atol=2e-4)


@pytest.mark.parametrize("name", ["var", "var-online", "analog-160", "soft-analog-20"])
def test_fitting_again_gives_the_same_bits(fitted_on_stimulus, shown_to_all, name):
    model = next(model for model in make_baselines(HORIZONS) if model.name == name)
    model.fit(shown_to_all[0])
    series = shown_to_all[1][0].series
    assert torch.equal(stream(model, series), stream(fitted_on_stimulus[name], series))
