"""The lengths of the keys are chosen by a memory of all key features, from the products of the keys alone."""

import dataclasses

import pytest
import torch
from own_dynamics import HORIZONS, WIDTH, own_dynamics

from titan_neuro.forecaster import LookaheadConfig
from titan_neuro.forecaster.fit import key_lengths
from titan_neuro.forecaster.fit.key_lengths import choose_scales
from titan_neuro.forecaster.fit.memory_runs import Example, run_memory
from titan_neuro.forecaster.titan.forecast_memory import ForecastMemoryFit

CONFIG = LookaheadConfig(n_components=WIDTH, n_lags=1)


def examples(runs):
    memory = CONFIG.build(horizons=HORIZONS, width=WIDTH)
    memory.directions.copy_(torch.eye(WIDTH))
    return [Example(memory, *run) for run in runs]


def sampled(sample):
    return torch.cat([one.features()[::7] for one in sample])


def removed_by(sample, scales):
    """Error that the exact memory of a stream removes, its keys being all features at full length."""
    n_features = scales.shape[1]
    config = dataclasses.replace(CONFIG, key_width=n_features)
    memory = config.build(horizons=HORIZONS, width=WIDTH).associations
    memory.load(ForecastMemoryFit(torch.diag_embed(scales), torch.ones_like(memory.reliability)))
    return run_memory(memory, sample).error_removed()


@torch.no_grad()
def test_the_chosen_factor_removes_most_error_in_a_stream(monkeypatch):
    """The factorization of a whole run stands for a memory that reads it time point by time point."""
    sample = examples(own_dynamics(3, n_time_points=200))
    of_each_kind = removed_by(sample, choose_scales(sample, sampled(sample)))
    monkeypatch.setattr(key_lengths, "_N_ROUNDS", 0)
    chosen = choose_scales(sample, sampled(sample))
    by_factor = []
    for factor in key_lengths._OWN_FACTORS:
        monkeypatch.setattr(key_lengths, "_OWN_FACTORS", (factor,))
        by_factor.append(removed_by(sample, choose_scales(sample, sampled(sample))))
    best = torch.stack(by_factor).max(dim=0).values
    torch.testing.assert_close(removed_by(sample, chosen), best)
    # Steps of each kind remove more.
    assert bool((of_each_kind > 1.01 * best).all())
    # The choice matters: with the worst factor, less than nine tenths of that are removed.
    assert bool((torch.stack(by_factor).min(dim=0).values < 0.9 * best).all())


@torch.no_grad()
@pytest.mark.parametrize("horizon", [1, 3])
def test_a_key_is_read_before_its_value_has_come(horizon):
    keys = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    values = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    found = key_lengths._read_and_write(keys @ keys.T, values, horizon)
    for t in (0, horizon, 20, 39):
        known = max(0, t + 1 - horizon)
        gram = keys[:known].T @ keys[:known] + torch.eye(5)
        expected = keys[t] @ torch.linalg.solve(gram, keys[:known].T @ values[horizon : horizon + known])
        torch.testing.assert_close(found[t], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_runs_are_read_to_the_limit_of_a_choice(monkeypatch):
    runs = own_dynamics(2, n_time_points=150)
    monkeypatch.setattr(key_lengths, "_CHOICE_TIME_POINTS", 100)
    cut = [
        (dataclasses.replace(run, **cut_to(run, 100)), type(told)(*(part[:100] for part in told))) for run, told in runs
    ]
    features = sampled(examples(runs))
    torch.testing.assert_close(choose_scales(examples(runs), features), choose_scales(examples(cut), features))


def cut_to(run, stop):
    return {name: getattr(run, name)[:stop] for name in ("series", "errors", "scored")}
