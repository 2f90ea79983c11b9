"""Rollouts are scored against targets that are counted by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from titan_neuro.baselines import AutoregressionBaseline, Persistence, TrainingMean
from titan_neuro.evaluation import combine, residuals_table, rollouts_table
from titan_neuro.evaluation.controls import controls_of
from titan_neuro.evaluation.rollouts import SLOW_STRIDE, RunRollouts
from titan_neuro.evaluation.streaming import score_run

HORIZONS = (1, 2, 5)


@pytest.fixture(scope="module")
def train_runs(make_run):
    return [make_run(s, 1, n_features=6) for s in ("01", "02", "03")]


@pytest.fixture(scope="module")
def baselines(train_runs):
    rows = [TrainingMean(HORIZONS), Persistence(HORIZONS), AutoregressionBaseline(HORIZONS)]
    for row in rows:
        row.fit(train_runs)
    return rows


class Halves:
    """Forecasts half of the time point for the next one, and nothing further ahead: its rollout decays by halves."""

    name, horizons = "halves", HORIZONS

    def init_state(self):
        return None

    def step(self, series, state):
        return torch.stack([series / 2, 0 * series, 0 * series], dim=1), None


def roll_run(forecasters, run, first_time_point, every, block_time_points=7):
    """Roll out through a run that is read in blocks which don't end at the origins."""
    rollouts = RunRollouts(forecasters, run, first_time_point, every)
    score_run(rollouts.models, run, block_time_points, first_time_point)
    return rollouts.scores()


def origins_of(run, first_time_point, every):
    return range(first_time_point + every - 1, run.n_time_points - 1, every)[::SLOW_STRIDE]


def test_a_rollout_reads_its_own_forecasts(make_run, baselines):
    run = make_run("11", 1, n_features=6)
    run.high_motion[[60, 61]] = True
    scores = roll_run([Halves(), *baselines], run, 3, 2)
    sums = scores.subjects["11"]
    series = run.series.double()
    for at, horizon in enumerate(HORIZONS):
        targets = [
            (t, t + horizon)
            for t in origins_of(run, 3, 2)
            if t + horizon < 160 and run.scored[t + horizon] and not run.high_motion[t + horizon]
        ]
        assert sums.n_targets[at, 0] == len(targets) > 7
        rolled = torch.stack([series[t] / 2**horizon for t, _ in targets])
        truth = torch.stack([series[s] for _, s in targets])
        assert sums.squared_error[at, 0] == pytest.approx(float((rolled - truth).square().sum()), rel=1e-5)
        assert sums.measure("bias")[at, 0] == pytest.approx(float((rolled - truth).mean()), abs=1e-6)
        ratio = rolled.var(dim=0).sum() / truth.var(dim=0).sum()
        assert sums.measure("variance_ratio")[at, 0] == pytest.approx(float(ratio), rel=1e-5)
        # The reference is the direct forecast of AR on the same targets.
        baseline = baselines[2]
        direct, _ = baseline.step(run.series[3:], baseline.init_state())
        reference = sum((direct[t - 3, at].double() - series[s]).square().sum() for t, s in targets)
        expected = 1 - float((rolled - truth).square().sum() / reference)
        assert sums.measure("skill_ar")[at, 0] == pytest.approx(expected, abs=1e-5)


def test_one_step_rollouts_equal_direct_forecasts(make_run, baselines):
    sums = roll_run(baselines, make_run("11", 1, n_features=6), 0, 4).subjects["11"]
    np.testing.assert_allclose(sums.measure("skill_ar")[0, 2], 0, atol=1e-9)
    # Rollouts of the mean stay at the mean.
    np.testing.assert_allclose(sums.measure("r2")[:, 0], 0, atol=1e-9)
    np.testing.assert_allclose(sums.measure("variance_ratio")[:, 0], 0, atol=1e-9)


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag"])
@pytest.mark.parametrize("which", [0, 1, 2, 3, 4])
def test_batched_rollouts_equal_single_ones(make_run, baselines, variant, which, make_forecaster, monkeypatch):
    monkeypatch.setattr("titan_neuro.evaluation.rollouts.SLOW_STRIDE", 1)
    model = make_forecaster(variant, horizons=HORIZONS)
    run = make_run("11", 1, n_features=6)
    forecaster = [model, *controls_of(model, [run])][which]
    batched = roll_run([forecaster, *baselines], run, 2, 5).subjects["11"]
    single = roll_run([Unbatched(forecaster), *baselines], run, 2, 5).subjects["11"]
    assert batched.n_targets[0, 0] == 31
    for name in ("skill_ar", "variance_ratio", "bias", "portmanteau"):
        np.testing.assert_allclose(batched.measure(name), single.measure(name), rtol=1e-4, atol=1e-5)


def test_forecasts_are_those_of_a_model_that_is_not_rolled_out(make_run, make_forecaster, baselines):
    run = make_run("11", 1, n_features=6)
    rows = [make_forecaster("mac", horizons=HORIZONS), *baselines]
    rolled = score_run(RunRollouts(rows, run, 2, 5).models, run, 16, 2).low_motion
    alone = score_run(rows, run, 16, 2).low_motion
    np.testing.assert_allclose(rolled.squared_error, alone.squared_error, rtol=1e-5)


class Unbatched:
    """A model without its batched path."""

    def __init__(self, model):
        self.name, self.horizons, self.init_state, self.step = (
            model.name,
            model.horizons,
            model.init_state,
            model.step,
        )


def test_autocorrelated_residuals_are_detected(make_run, baselines):
    run = make_run("12", 1, n_time_points=800, n_features=200)
    train = [make_run(s, 1, n_time_points=800, n_features=200) for s in ("01", "02")]
    for row in baselines:
        row.fit(train)
    sums = roll_run(baselines, run, 0, 400).subjects["12"]
    mean, persistence, ar = sums.measure("autocorrelated_fraction")
    # AR(1) noise: the residuals of the mean are all of it, those of AR are white.
    assert mean == persistence == 1
    assert ar < 0.15
    assert sums.measure("portmanteau")[2] == pytest.approx(10, abs=2)


@pytest.fixture(scope="module")
def benchmark(make_run, make_forecaster, train_runs, quick, score):
    test = [make_run(s, n, n_features=6) for s in ("11", "12", "13") for n in (1, 2)]
    config = replace(quick, rollout_every_time_points=10, max_offset_time_points=10)
    models = {seed: [make_forecaster("lmm", horizons=HORIZONS)] for seed in (0, 1)}
    return combine([score(models, train_runs, test[:2], config), score(models, train_runs, test[2:], config)])


def test_tables_have_a_row_per_model(benchmark):
    table = rollouts_table(benchmark, repetition_time_s=1.5, n_resamples=1000)
    assert list(zip(table["model"], table["lead_time_points"], strict=True)) == [
        (model, horizon) for model in benchmark.kinds for horizon in HORIZONS
    ]
    assert (table["n_seeds"] == 2).all() and (table["n_subjects"] == 3).all()
    row = table.query("model == 'ar' and lead_time_points == 5").iloc[0]
    values = np.mean([scores.subject_values("skill_ar")[:, 2, 3] for scores in benchmark.rollouts.values()], axis=0)
    assert row["skill_ar"] == pytest.approx(values.mean())
    assert row["skill_ar_low"] <= row["skill_ar"] <= row["skill_ar_high"]
    residuals = residuals_table(benchmark, n_resamples=1000)
    assert residuals["model"].tolist() == list(benchmark.kinds)
    assert residuals.set_index("model")["autocorrelated_fraction"]["mean"] > 0.9


def test_rollouts_need_one_step_forecasts(make_run, oracle, quick, score, caplog):
    train, test = [make_run(s, 1) for s in ("01", "02")], [make_run("11", 1)]
    benchmark = score([oracle(test, 0.5, horizons=(2, 3))], train, test, replace(quick, rollout_every_time_points=10))
    assert benchmark.rollouts == {}
    assert "the horizons don't begin with 1" in caplog.text
