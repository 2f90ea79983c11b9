import numpy as np
import pytest
import torch
from film_runs import HORIZONS, stream

from titan_neuro.baselines import make_baselines, make_references
from titan_neuro.evaluation.causality import check_causal, first_leak

ROWS = [model.name for model in make_baselines(HORIZONS)]
LINES = [reference.name for reference in make_references(HORIZONS)]


def test_rows_stand_in_the_order_of_the_table():
    assert [
        *("mean", "persistence", "damped", "ar", "var", "var-online"),
        *("analog-20", "analog-80", "analog-160", "soft-analog-20", "soft-analog-80", "soft-analog-160"),
    ] == ROWS
    assert LINES == ["others", "others+ar"]


@pytest.mark.parametrize("name", [*ROWS, *LINES])
def test_no_row_sees_what_comes(fitted_on_film, shown_to_all, name):
    run = shown_to_all[1][0]
    model = fitted_on_film[name]
    if name in LINES:
        model = model.follow(run, 0)
    check_causal(model, run, 64)
    for last, block_frames in [(0, 64), (17, 300), (170, 300), (298, 300), (170, 7)]:
        assert first_leak(model, run.frames, last, block_frames) is None


@pytest.mark.parametrize("name", [*ROWS, *LINES])
def test_forecasts_are_the_same_to_rounding_however_the_run_is_cut(fitted_on_film, shown_to_all, name):
    run = shown_to_all[1][1]
    model = fitted_on_film[name]
    if name in LINES:
        model = model.follow(run, 0)
    whole = stream(model, run.frames)
    for cuts in [(1,), (64, 128, 192), (3, 4, 5, 290), tuple(range(1, 300, 2))]:
        np.testing.assert_allclose(stream(model, run.frames, cuts), whole, atol=2e-4)


@pytest.mark.parametrize("name", ["var", "var-online", "analog-160", "soft-analog-20"])
def test_fitting_again_gives_the_same_bits(fitted_on_film, shown_to_all, name):
    model = next(model for model in make_baselines(HORIZONS) if model.name == name)
    model.fit(shown_to_all[0])
    frames = shown_to_all[1][0].frames
    assert torch.equal(stream(model, frames), stream(fitted_on_film[name], frames))
