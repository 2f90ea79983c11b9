"""A forecast for `t + h` is compared with time point `t + h`, at run ends, in batches and across blocks too."""

from __future__ import annotations

import pytest
import torch

from titan_neuro.linear.lead_time import at_forecast_time, at_target_time, scored_targets, wait_for_targets

HORIZONS = (1, 3, 12)


@pytest.mark.parametrize("n_forecasts", [1, 4, 10])
def test_targets_lie_one_lead_time_after_their_forecast(n_forecasts: int) -> None:
    observed = torch.arange(10.0)[:, None].expand(-1, 2)
    scored = torch.arange(10) % 3 != 0
    pairs = list(scored_targets(observed, scored, HORIZONS, n_forecasts))
    for horizon, (has_target, targets) in zip(HORIZONS, pairs, strict=True):
        expected = [t for t in range(n_forecasts) if t + horizon < 10 and (t + horizon) % 3]
        assert has_target.nonzero()[:, 0].tolist() == expected
        assert targets[:, 0].tolist() == [t + horizon for t in expected]


def test_targets_of_a_batch_follow_its_mask() -> None:
    observed, scored = torch.randn(3, 9, 4), torch.rand(3, 9) < 0.5
    [(has_target, targets)] = scored_targets(observed, scored, (2,), 7)
    forecasts = observed[:, 2:]
    assert torch.equal(targets, forecasts[has_target])


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_values_stand_at_forecast_time(shape: tuple[int, ...]) -> None:
    values = torch.randn(10, *shape)
    ahead = at_forecast_time(values, HORIZONS)
    assert ahead.shape == (10, 3, *shape)
    for index, horizon in enumerate(HORIZONS):
        for t in range(10):
            expected = values[t + horizon] if t + horizon < 10 else torch.zeros(shape)
            assert torch.equal(ahead[t, index], expected)


def test_mask_stays_boolean_at_forecast_time() -> None:
    assert at_forecast_time(torch.ones(4, dtype=torch.bool), (1, 3)).tolist() == [
        [True, True],
        [True, False],
        [True, False],
        [False, False],
    ]


@pytest.mark.parametrize("block", [1, 5, 40])
def test_forecasts_fall_due_alike_in_any_blocks(block: int) -> None:
    forecasts = torch.randn(2, 40, 3, 4)
    pending = torch.zeros(2, 12, 3, 4)
    due = []
    for part in forecasts.split(block, dim=1):
        one, pending = wait_for_targets(pending, part, HORIZONS, dim=1)
        due.append(one)
    whole = torch.cat(due, dim=1)
    for index, horizon in enumerate(HORIZONS):
        assert torch.equal(whole[:, horizon:, index], forecasts[:, :-horizon, index])
        assert not whole[:, :horizon, index].any()


def test_forecasts_of_a_run_move_to_their_targets():
    forecasts = torch.randn(9, 2, 3)
    due = at_target_time(forecasts, (2, 12))
    assert torch.equal(due[2:, 0], forecasts[:-2, 0])
    assert not due[:2, 0].any() and not due[:, 1].any()
