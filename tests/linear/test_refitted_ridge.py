import itertools

import numpy as np
import pytest
import torch

from titan_neuro.linear.refitted_ridge import RefittedRidge
from titan_neuro.linear.running_averages import N_LAGS, TIME_CONSTANTS, own_predictors

HORIZONS, PENALTIES = (1, 3), (5.0, 20.0)
N_SERIES, N_TIME_POINTS, N_PREDICTORS = 3, 100, 4


@pytest.fixture(scope="module")
def stream():
    """Predictors, and errors at each time point: those of horizon h follow from the predictors h time points before."""
    random = torch.Generator().manual_seed(0)
    predictors = torch.randn(N_SERIES, N_TIME_POINTS, N_PREDICTORS, generator=random)
    weights = torch.randn(N_SERIES, N_PREDICTORS, len(HORIZONS), generator=random)
    errors = 0.3 * torch.randn(N_SERIES, N_TIME_POINTS, len(HORIZONS), 1, generator=random)
    for index, horizon in enumerate(HORIZONS):
        errors[:, horizon:, index, 0] += (predictors[:, :-horizon] @ weights[..., index, None])[..., 0]
    return predictors, errors


def run(stream, cuts=(), **options):
    ridge = RefittedRidge(HORIZONS, PENALTIES)
    state, read = ridge.init_state(N_SERIES, N_PREDICTORS, 1), []
    edges = [0, *cuts, N_TIME_POINTS]
    for first, last in itertools.pairwise(edges):
        corrections, state = ridge.step(*(part[:, first:last] for part in stream), state, **options)
        read.append(corrections)
    return torch.cat(read, dim=1), state


def test_weights_equal_a_ridge_regression_on_complete_pairs(stream):
    predictors, errors = (part.double().numpy() for part in stream)
    read, _ = run(stream)
    for t in (0, 15, 16, 40, 99):
        # Fitted at the last multiple of 16, to time points whose last target was there by then.
        known = max(0, t // 16 * 16 - max(HORIZONS))
        for index, (horizon, penalty) in enumerate(zip(HORIZONS, PENALTIES, strict=True)):
            for series in range(N_SERIES):
                x = predictors[series, :known]
                y = errors[series, horizon : horizon + known, index, 0]
                weights = np.linalg.solve(x.T @ x + penalty * np.eye(N_PREDICTORS), x.T @ y)
                expected = predictors[series, t] @ weights
                assert float(read[series, t, index, 0]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("cuts", [(1,), (16, 32), (5, 37, 38), tuple(range(1, N_TIME_POINTS))])
def test_calls_may_be_cut_anywhere(stream, cuts):
    whole, state = run(stream)
    parts, state_of_parts = run(stream, cuts)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-4)
    assert state_of_parts.position == state.position == N_TIME_POINTS % 16
    torch.testing.assert_close(state_of_parts.gram, state.gram)


def test_nothing_is_learned_while_it_is_frozen(stream):
    ridge = RefittedRidge(HORIZONS, PENALTIES)
    predictors, errors = stream
    _, before = ridge.step(predictors[:, :60], errors[:, :60], ridge.init_state(N_SERIES, N_PREDICTORS, 1))
    read, after = ridge.step(predictors[:, 60:80], errors[:, 60:80], before, frozen=True)
    # Of all pairs that are complete, read as it was before.
    other, _ = ridge.step(predictors[:, 60:80], 7 * errors[:, 60:80], before, frozen=True)
    assert torch.equal(read, other)
    assert torch.equal(after.gram, before.gram)
    assert read.abs().mean() > 0.1
    # Errors of the frozen time points are not learned from later.
    _, learned = ridge.step(predictors[:, 80:83], errors[:, 80:83], after)
    rows = predictors[:, 79:80]
    torch.testing.assert_close(learned.gram, before.gram + rows.mT @ rows)


def test_the_state_does_not_grow(stream):
    sizes = [
        sum(part.numel() for part in vars(run(stream, cuts)[1]).values() if isinstance(part, torch.Tensor))
        for cuts in [(), (50,)]
    ]
    assert sizes[0] == sizes[1] < 3 * 3 * N_PREDICTORS**2 * N_SERIES


def test_own_predictors_are_lags_and_averages():
    series = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(1))
    start = torch.zeros(2, N_LAGS - 1, 3), torch.zeros(2, len(TIME_CONSTANTS), 3)
    whole, past, averages = own_predictors(series, *start)
    first, *state = own_predictors(series[:, :11], *start)
    second, *state = own_predictors(series[:, 11:], *state)
    torch.testing.assert_close(torch.cat([first, second], dim=2), whole)
    torch.testing.assert_close(state, [past, averages])
    for t in (0, 3, 29):
        expected = [float(series[1, t - lag, 2]) if lag <= t else 0.0 for lag in reversed(range(N_LAGS))]
        for span in TIME_CONSTANTS:
            average = 0.0
            for value in series[1, : t + 1, 2].tolist():
                average += (value - average) / span
            expected.append(average * span**0.5)
        np.testing.assert_allclose(whole[1, 2, t], expected, rtol=1e-4, atol=1e-5)
