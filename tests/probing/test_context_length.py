"""The curve must show a memory of known reach, and agree with streaming the model."""

import json

import numpy as np
import pytest
import torch
from delay_memory import (
    N_FEATURES,
    delay_forecaster,
    delayed_run,
    fold_of,
    forecasting_mac,
    mac_forecaster,
    probe_setup,
    run_probe,
)

from titan_neuro.data.space import Space
from titan_neuro.errors import NoMatchError
from titan_neuro.probing.context_length import AGREEMENT, GAIN, GAIN_MAP, MODEL, UNTRAINED, WINDOW, SquaredErrors
from titan_neuro.probing.probe_settings import ContextLengthConfig
from titan_neuro.probing.tools.results import SCORES
from titan_neuro.runs import InMemoryRun


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


def test_long_context_pays_where_there_is_a_memory():
    runs = [delayed_run(f"{n:02}", n) for n in range(5)]
    for run in runs:
        # Nothing recurs in the last two features.
        run.series[:, 4:] = torch.from_numpy(np.random.default_rng(int(run.subject)).normal(size=(240, 2)))
    probe = make_probe()
    results = run_probe(probe, fold_of(delay_forecaster(), runs, untrained_model=mac_forecaster()))
    gain, q = results.maps["gain"][0], results.maps["gainq"][0]
    assert (gain[:4] > 0.6).all() and (gain[4:] < 0).all()
    assert (q[:4] < 0.05).all() and (q[4:] > 0.9).all()
    scores = results.tables["scores"]
    assert tuple(scores.columns) == SCORES
    gains = scores[scores.measure == GAIN].set_index(["condition", "x"])
    # One-sided, of five subjects, over two lead times; at the second one the memory forecasts nothing.
    assert gains.value[MODEL, 1] > 0.2 and gains.p[MODEL, 1] == 2 / 2**5 and gains.value[MODEL, 2] == 0
    assert (gains.value[UNTRAINED] == 0).all() and gains.is_control[UNTRAINED].all()
    assert "4 of 6 features" in results.summary
    # Six features are too few for two maps to agree.
    assert scores[scores.measure == AGREEMENT].value.isna().all() and "could not be compared" in results.summary
    assert any("too few features" in reason for reason in results.metadata["NotTested"])


def slow_where_remembered(subject, n_features, *, related):
    """Forecast errors that end after the reach of a feature's memory, in a recording whose timescale follows it."""
    rng = np.random.default_rng(int(subject))
    coefficient = np.linspace(0, 0.9, n_features) if related else np.random.default_rng(99).uniform(0, 0.9, n_features)
    series = rng.normal(size=(400, n_features))
    for t in range(1, len(series)):
        series[t] += coefficient * series[t - 1]
    return InMemoryRun(torch.from_numpy(series.astype(np.float32)), key=f"sub-{subject}_task-x", subject=subject)


@pytest.mark.parametrize("related", [True, False])
def test_windows_are_compared_with_intrinsic_timescales(related):
    mask, affine = np.ones((4, 4, 5), bool), np.diag([3.0, 3.0, 3.0, 1.0])
    n_features = int(mask.sum())
    probe = ContextLengthConfig(longest_s=64, origins_per_run=2).build(
        probe_setup(n_features=n_features, n_permutations=500)
    )
    # By feature: the number of contexts that are too short for it grows along x, where timescales do so, too.
    too_short = np.linspace(1, 5.99, n_features).astype(int)
    errors = np.where(np.arange(7)[:, None] < too_short, 1.0, 0.5)
    for number in range(5):
        run = slow_where_remembered(f"{number:02}", n_features, related=related)
        run.space = Space(kind="volume", name="x", mask=mask, affine=affine)
        probe.add(fold_of(mac_forecaster(n_features)), run)
        linear = probe._errors[run.subject].by_feature[-1:]
        by_feature = np.concatenate([errors * linear, linear])
        probe._errors[run.subject] = SquaredErrors(np.repeat(by_feature.sum(1)[:, None], 2, axis=1), by_feature)
    results = probe.results()
    rows = results.tables["scores"].set_index("condition")
    assert (rows.value[WINDOW] > 0.9 and rows.p[WINDOW] < 0.01) if related else rows.p[WINDOW] > 0.05
    assert rows.null_low[WINDOW] < rows.null[WINDOW] < rows.null_high[WINDOW]
    assert f"rho = {rows.value[WINDOW]:.2f} (p = " in results.summary
    # Without a memory the gain is 0 everywhere.
    assert all(reason.startswith(GAIN_MAP) for reason in results.metadata["NotTested"])
    np.testing.assert_allclose(results.maps["timescale"][0], 2.0 ** (too_short + 1))
    json.dumps(results.metadata, allow_nan=False)
    probe._centers_mm = None
    results = probe.results()
    assert np.isnan(results.tables["scores"].set_index("condition").p[WINDOW])
    assert "not tested: no positions" in results.summary
    assert any("image of their atlas" in reason for reason in results.metadata["NotTested"])


def test_whole_run_agrees_with_streaming():
    model, run = forecasting_mac(), delayed_run()
    probe = make_probe(longest_s=4)
    probe.add(fold_of(model), run)
    forecasts, _ = model.step(run.series, model.init_state())
    origins = probe._origins(run)
    (_, by_feature), (_, pooled) = probe.skill(), probe.skill(pooled=True)
    for index, horizon in enumerate((1, 2)):
        targets = run.series[origins + horizon]
        errors, power = (targets - forecasts[origins, index]).square().sum(0), targets.square().sum(0)
        np.testing.assert_allclose(pooled[0, -1, index], 1 - errors.sum() / power.sum(), atol=1e-4)
        if index == 0:
            np.testing.assert_allclose(by_feature[0, -1], 1 - errors / power, atol=1e-4)


def test_context_is_read_by_empty_memory():
    model, run = forecasting_mac(), delayed_run()
    probe = make_probe(longest_s=4, origins_per_run=5)
    probe.add(fold_of(model), run)
    errors, linear_errors = 0, 0
    for origin in probe._origins(run).tolist():
        forecasts, _ = model.step(run.series[origin - 3 : origin + 1], model.init_state())
        errors += (run.series[origin + 1] - forecasts[-1, 0]).square()
        linear_errors += run.series[origin + 1].square()
    np.testing.assert_allclose(probe.skill()[1][0, 1], 1 - errors / linear_errors, atol=1e-4)


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
