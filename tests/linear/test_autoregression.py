import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from titan_neuro.errors import ConfigError, MismatchError, TrainingError
from titan_neuro.linear.autoregression import autoregress, fit_autoregression
from titan_neuro.runs import InMemoryRun

HORIZONS = (1, 2, 5)


def ar2_run(subject, run, n_time_points=220, n_features=6):
    """AR(2) noise with a mean, and unscored time points in the middle and at both ends."""
    rng = np.random.default_rng([int(subject), run])
    noise = rng.normal(size=(n_time_points, n_features))
    series = np.zeros_like(noise)
    for t in range(2, n_time_points):
        series[t] = 0.3 + 0.9 * series[t - 1] - 0.4 * series[t - 2] + noise[t]
    scored = np.ones(n_time_points, dtype=bool)
    scored[:4] = scored[100:110] = scored[-3:] = False
    return InMemoryRun(torch.tensor(series, dtype=torch.float32), scored, f"sub-{subject}_run-{run}", subject)


@pytest.fixture(scope="module")
def three_subjects():
    return [ar2_run(subject, run) for subject in ("1", "2", "3") for run in (1, 2)]


def rows(runs, horizon, order, most_lags, feature):
    """Design and target of one feature, written out row by row."""
    design, target = [], []
    for run in runs:
        series = run.series[:, feature].double().numpy()
        for t in range(most_lags - 1, run.n_time_points - horizon):
            if run.scored[t + horizon]:
                design.append(series[t - np.arange(order)])
                target.append(series[t + horizon])
    return np.array(design), np.array(target)


def ridge(runs, horizon, order, most_lags, feature, penalty):
    design, target = rows(runs, horizon, order, most_lags, feature)
    return Ridge(alpha=penalty * len(target), solver="cholesky").fit(design, target)


@pytest.mark.parametrize("order", [1, 3, 8])
def test_weights_are_those_of_ridge_regression(three_subjects, order):
    fitted = fit_autoregression(three_subjects, HORIZONS, orders=(order,), penalties=(0.05,))
    for index, horizon in enumerate(HORIZONS):
        for feature in range(6):
            expected = ridge(three_subjects, horizon, order, order, feature, 0.05)
            np.testing.assert_allclose(fitted.coefficients[index, :, feature], expected.coef_, atol=1e-6)
            np.testing.assert_allclose(fitted.intercept[index, feature], expected.intercept_, atol=1e-6)


def test_runs_longer_than_a_block_lose_no_row():
    runs = [ar2_run("1", 1, n_time_points=700, n_features=2), ar2_run("2", 1, n_time_points=513, n_features=2)]
    fitted = fit_autoregression(runs, (1, 20), orders=(4,), penalties=(1e-6,))
    for index, horizon in enumerate((1, 20)):
        expected = ridge(runs, horizon, 4, 4, 1, 1e-6)
        np.testing.assert_allclose(fitted.coefficients[index, :, 1], expected.coef_, atol=1e-6)


def held_out_error(groups, horizon, order, penalty):
    error = 0.0
    for held_out, test in groups.items():
        train = [run for label, runs in groups.items() if label != held_out for run in runs]
        for feature in range(6):
            model = ridge(train, horizon, order, 4, feature, penalty)
            design, target = rows(test, horizon, order, 4, feature)
            error += np.square(target - model.predict(design)).sum()
    return error


def test_choices_equal_brute_force_cross_validation(three_subjects):
    orders, penalties = (1, 2, 4), (1e-6, 0.03, 0.5, 20.0)
    fitted = fit_autoregression(three_subjects, HORIZONS, orders=orders, penalties=penalties)
    groups = {label: [run for run in three_subjects if run.subject == label] for label in ("1", "2", "3")}
    for index, horizon in enumerate(HORIZONS):
        errors = {(p, k): held_out_error(groups, horizon, p, k) for p in orders for k in penalties}
        assert (fitted.order[index], fitted.penalty[index]) == min(errors, key=errors.get)
    assert fitted.order[0] == 2
    assert not fitted.coefficients[0, 2:].any()


def test_one_subject_is_cross_validated_over_its_runs():
    runs = [ar2_run("1", run) for run in (1, 2, 3)]
    fitted = fit_autoregression(runs, (5,), orders=(1, 2, 4), penalties=(1e-6, 0.5, 20.0), n_folds=3)
    errors = {
        (p, k): held_out_error({run.key: [run] for run in runs}, 5, p, k) for p in (1, 2, 4) for k in (1e-6, 0.5, 20.0)
    }
    assert (fitted.order[0], fitted.penalty[0]) == min(errors, key=errors.get)


def test_one_run_is_cross_validated_over_stretches():
    run = ar2_run("1", 1, n_time_points=900)
    fitted = fit_autoregression([run], (1,), orders=(1, 2), penalties=(1e-6,))
    assert fitted.order == (2,)
    expected = ridge([run], 1, 2, 2, 0, 1e-6)
    np.testing.assert_allclose(fitted.coefficients[0, :, 0], expected.coef_, atol=1e-6)


def test_white_noise_gets_the_strongest_penalty():
    rng = np.random.default_rng(0)
    runs = [
        InMemoryRun(torch.tensor(rng.normal(size=(150, 400)), dtype=torch.float32), np.ones(150, bool), f"{s}", f"{s}")
        for s in range(3)
    ]
    fitted = fit_autoregression(runs, (1, 3))
    assert set(fitted.penalty) == {10.0}


def test_a_small_memory_budget_changes_nothing(three_subjects):
    whole = fit_autoregression(three_subjects, HORIZONS)
    by_feature = fit_autoregression(three_subjects, HORIZONS, memory_bytes=1)
    assert (whole.order, whole.penalty) == (by_feature.order, by_feature.penalty)
    torch.testing.assert_close(whole.coefficients, by_feature.coefficients, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(whole.intercept, by_feature.intercept, atol=1e-6, rtol=1e-6)


def test_choices_of_many_features_are_those_of_a_sample(three_subjects, monkeypatch):
    every_third = [dataclasses.replace(run, series=run.series[:, ::3].clone()) for run in three_subjects]
    sample, whole = (fit_autoregression(runs, HORIZONS) for runs in (every_third, three_subjects))
    monkeypatch.setattr("titan_neuro.linear.autoregression._CHOICE_FEATURES", 2)
    fitted = fit_autoregression(three_subjects, HORIZONS)
    assert (fitted.order, fitted.penalty) == (sample.order, sample.penalty)
    torch.testing.assert_close(fitted.coefficients[..., ::3], sample.coefficients, rtol=0, atol=1e-6)
    # No feature is left out of the fit itself.
    for index in range(len(HORIZONS)):
        if (fitted.order[index], fitted.penalty[index]) == (whole.order[index], whole.penalty[index]):
            torch.testing.assert_close(fitted.coefficients[index], whole.coefficients[index], rtol=0, atol=1e-6)
    assert fitted.coefficients.abs().sum(dim=(0, 1)).min() > 0.5


def test_a_constant_feature_is_forecast_by_its_value(three_subjects):
    runs = []
    for run in three_subjects:
        series = run.series.clone()
        series[:, 2] = 0.75
        runs.append(InMemoryRun(series, run.scored, run.key, run.subject))
    fitted = fit_autoregression(runs, (1,))
    forecasts, _ = autoregress(runs[0].series, torch.zeros(7, 6), fitted.coefficients, fitted.intercept)
    np.testing.assert_allclose(forecasts[:, 0, 2], 0.75, atol=1e-6)


def weights(n_horizons, order, n_features):
    generator = torch.Generator().manual_seed(n_features)
    return (
        torch.randn(n_horizons, order, n_features, generator=generator),
        torch.randn(n_horizons, n_features, generator=generator),
    )


@pytest.mark.parametrize("order", [1, 2, 8])
def test_forecasts_are_weighted_sums_of_the_lags(order):
    series = torch.randn(20, 5)
    coefficients, intercept = weights(2, order, 5)
    forecasts, history = autoregress(series, torch.zeros(order - 1, 5), coefficients, intercept)
    for t in range(20):
        for k in range(2):
            lags = [series[t - i].double() if t >= i else torch.zeros(5).double() for i in range(order)]
            expected = intercept[k].double() + sum(coefficients[k, i] * lags[i] for i in range(order))
            np.testing.assert_allclose(forecasts[t, k], expected, atol=1e-5)
    assert torch.equal(history, series[20 - (order - 1) :])


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 99), max_size=12, unique=True),
    n_features=st.sampled_from([1, 7, 64, 1025]),
    order=st.sampled_from([1, 3, 8]),
)
def test_forecasts_have_the_same_bits_in_any_blocks(cuts, n_features, order):
    series = torch.randn(100, n_features, generator=torch.Generator().manual_seed(1))
    coefficients, intercept = weights(3, order, n_features)
    start = torch.zeros(order - 1, n_features)
    whole, last = autoregress(series, start, coefficients, intercept)
    parts, history = [], start
    edges = [0, *sorted(cuts), 100]
    for a, b in itertools.pairwise(edges):
        part, history = autoregress(series[a:b], history, coefficients, intercept)
        parts.append(part)
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(history, last)


def test_a_batch_equals_its_items_alone():
    series, history = torch.randn(2, 3, 11, 5), torch.randn(2, 3, 3, 5)
    coefficients, intercept = weights(2, 4, 5)
    batch, last = autoregress(series, history, coefficients, intercept)
    for a in range(2):
        for b in range(3):
            alone, alone_last = autoregress(series[a, b], history[a, b], coefficients, intercept)
            assert torch.equal(batch[a, b], alone)
            assert torch.equal(last[a, b], alone_last)


def test_gradients_reach_the_weights():
    coefficients, intercept = (w[..., :3].double().requires_grad_() for w in weights(2, 3, 3))
    series = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    history = torch.randn(2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f, c, b: autoregress(f, history, c, b)[0], (series, coefficients, intercept))


def test_later_time_points_change_no_forecast():
    series = torch.randn(50, 9)
    coefficients, intercept = weights(2, 8, 9)
    forecasts, _ = autoregress(series, torch.zeros(7, 9), coefficients, intercept)
    for last in (0, 13, 48):
        altered = series.clone()
        altered[last + 1 :] = torch.randn(49 - last, 9)
        others, _ = autoregress(altered, torch.zeros(7, 9), coefficients, intercept)
        assert torch.equal(others[: last + 1], forecasts[: last + 1])


def test_shapes_that_do_not_fit_are_refused():
    coefficients, intercept = weights(1, 3, 5)
    with pytest.raises(MismatchError, match=r"order 3 on 5 features.*found \(10, 4\)"):
        autoregress(torch.zeros(10, 4), torch.zeros(2, 4), coefficients, intercept)
    with pytest.raises(MismatchError, match=r"history \(\.\.\., 2, 5\)"):
        autoregress(torch.zeros(10, 5), torch.zeros(3, 5), coefficients, intercept)


@pytest.mark.parametrize("choice", [{"orders": (0, 1)}, {"penalties": (0.0,)}, {"n_folds": 1}, {"orders": ()}])
def test_choices_out_of_range_are_refused(three_subjects, choice):
    with pytest.raises(ConfigError):
        fit_autoregression(three_subjects, (1,), **choice)


def test_a_horizon_below_one_is_refused(three_subjects):
    with pytest.raises(ConfigError, match="horizons"):
        fit_autoregression(three_subjects, (0, 1))


def test_non_finite_time_points_are_named(three_subjects):
    broken = ar2_run("9", 7)
    broken.series[42, 3] = float("nan")
    with pytest.raises(TrainingError, match="sub-9_run-7: time point 42"):
        fit_autoregression([*three_subjects, broken], (1,))


def test_runs_that_differ_in_features_are_refused(three_subjects):
    with pytest.raises(MismatchError, match="sub-8_run-1 7"):
        fit_autoregression([*three_subjects, ar2_run("8", 1, n_features=7)], (1,))


def test_no_run_and_too_short_runs_are_refused():
    with pytest.raises(TrainingError, match="no training run"):
        fit_autoregression([], (1,))
    with pytest.raises(TrainingError, match="horizon 200"):
        fit_autoregression([ar2_run("1", 1, n_time_points=120), ar2_run("2", 1, n_time_points=120)], (1, 200))
