"""The curve must show a memory of known reach, and agree with streaming the model."""

import numpy as np
import pytest
from delay_memory import N_FEATURES, delay_forecaster, delayed_run, fold_of, forecasting_mac, probe_setup, run_probe

from titan_neuro.errors import NoMatchError
from titan_neuro.probing.probe_settings import ContextLengthConfig


def make_probe(**settings):
    return ContextLengthConfig(**{"longest_s": 64, "origins_per_run": 60, **settings}).build(probe_setup())


def test_memory_of_known_reach_is_found():
    probe = make_probe()
    results = run_probe(probe, fold_of(delay_forecaster(), [delayed_run(f"{n:02}", n) for n in range(4)]))
    assert probe.contexts == (2, 4, 8, 16, 32, 64)
    curve = results.tables["curve"]
    at_one = curve[curve.lead_time_points == 1].skill_ar.to_numpy()
    # Contexts shorter than the reach recall nothing; longer ones four fifths of the variance.
    np.testing.assert_allclose(at_one[:3], 0, atol=1e-6)
    assert (at_one[3:] > 0.6).all()
    assert (curve[curve.lead_time_points == 2].skill_ar.abs() < 1e-6).all()
    assert (curve.skill_ar_low <= curve.skill_ar).all() and (curve.skill_ar <= curve.skill_ar_high).all()
    assert (results.maps["timescale"][0] == 16).all()
    assert f"{at_one[-1]:.3f} with the whole run" in results.summary and "n = 4" in results.summary


def test_whole_run_agrees_with_streaming():
    model, run = forecasting_mac(), delayed_run()
    probe = make_probe(longest_s=4)
    probe.add(fold_of(model), run)
    forecasts, _ = model.step(run.series, model.init_state())
    origins = probe._origins(run)
    _, skill = probe.skill()
    for index, horizon in enumerate((1, 2)):
        targets = run.series[origins + horizon]
        error_ratio = (targets - forecasts[origins, index]).square().sum(0) / targets.square().sum(0)
        np.testing.assert_allclose(skill[0, -1, index], 1 - error_ratio, atol=1e-4)


def test_context_is_read_by_empty_memory():
    model, run = forecasting_mac(), delayed_run()
    probe = make_probe(longest_s=4, origins_per_run=5)
    probe.add(fold_of(model), run)
    errors, linear_errors = 0, 0
    for origin in probe._origins(run).tolist():
        forecasts, _ = model.step(run.series[origin - 3 : origin + 1], model.init_state())
        errors += (run.series[origin + 1] - forecasts[-1, 0]).square()
        linear_errors += run.series[origin + 1].square()
    np.testing.assert_allclose(probe.skill()[1][0, 1, 0], 1 - errors / linear_errors, atol=1e-4)


@pytest.mark.parametrize(
    ("further", "contexts"), [((), (1, 2, 3, 6)), ((20, 5, 2), (1, 2, 3, 5, 6, 20))], ids=["seconds", "time points"]
)
def test_contexts_are_whole_time_points(further, contexts):
    config = ContextLengthConfig(longest_s=16, contexts_time_points=further)
    assert config.build(probe_setup(repetition_time=2.5)).contexts == contexts


def test_run_without_targets_is_refused():
    with pytest.raises(NoMatchError, match="no time point has scored targets"):
        make_probe().add(fold_of(forecasting_mac()), delayed_run(n_unscored=240))


def test_constant_feature_has_no_skill():
    probe, run = make_probe(longest_s=4, origins_per_run=5), delayed_run()
    run.series[:, 0] = 0
    probe.add(fold_of(delay_forecaster()), run)
    _, skill = probe.skill()
    assert np.isnan(skill[..., 0]).all() and np.isfinite(skill[..., 1:]).all()
    assert probe.receptive_window().shape == (N_FEATURES,)
