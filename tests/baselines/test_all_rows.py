import numpy as np
import pytest
import torch
from stimulus_runs import HORIZONS, stream

from titan_neuro.baselines import make_baselines, make_oracle_references
from titan_neuro.evaluation.causality import check_causal, first_leak

ROWS = [model.name for model in make_baselines(HORIZONS)]
REFERENCES = [reference.name for reference in make_oracle_references(HORIZONS)]


@pytest.fixture(params=[*ROWS, *REFERENCES])
def model_and_run(request, fitted_on_stimulus, shown_to_all):
    """Each fitted row, and a test run to which references are bound."""
    model, run = fitted_on_stimulus[request.param], shown_to_all[1][0]
    return (model.bind(run, 0) if request.param in REFERENCES else model), run


def test_every_row_is_causal(model_and_run):
    model, run = model_and_run
    check_causal(model, run, 64)
    for last, block_time_points in [(0, 64), (17, 300), (170, 300), (298, 300), (170, 7)]:
        assert first_leak(model, run.series, last, block_time_points) is None


def test_block_lengths_change_forecasts_by_rounding_only(model_and_run):
    model, run = model_and_run
    whole = stream(model, run.series)
    for cuts in [(1,), (64, 128, 192), (3, 4, 5, 290), tuple(range(1, 300, 2))]:
        np.testing.assert_allclose(stream(model, run.series, cuts), whole, atol=2e-4)


@pytest.mark.parametrize("name", ["var", "var-online", "linear-online", "analog-160", "soft-analog-20"])
def test_fitting_again_gives_the_same_bits(fitted_on_stimulus, shown_to_all, name):
    model = next(model for model in make_baselines(HORIZONS) if model.name == name)
    model.fit(shown_to_all[0])
    series = shown_to_all[1][0].series
    assert torch.equal(stream(model, series), stream(fitted_on_stimulus[name], series))
