import numpy as np
import pytest
import torch
from stimulus_runs import HORIZONS, ar1_noise, as_run, r2, stimulus_runs, stream

from titan_neuro.baselines import make_oracle_references

LEAD = 10


@pytest.mark.parametrize(("name", "base"), [("intersubject-average", "mean"), ("intersubject-average+ar", "ar")])
def test_forecasts_equal_the_definition(fitted_on_stimulus, shown_to_all, name, base):
    train, (run, _) = shown_to_all
    stimulus = torch.stack([other.series for other in train]).mean(0)
    # There is no stimulus before it begins.
    stimulus[:LEAD] = 0
    reference = fitted_on_stimulus[name]
    forecasts = stream(reference.bind(run, 0), run.series, cuts=(50, 51, 200))
    own, of_stimulus = (stream(fitted_on_stimulus[base], series) for series in (run.series, stimulus))
    for index, horizon in enumerate(HORIZONS):
        beyond = stimulus[horizon:] - of_stimulus[:-horizon, index]
        beyond[: max(0, LEAD - horizon)] = 0
        expected = own[:-horizon, index] + reference.weights[index] * beyond
        np.testing.assert_allclose(forecasts[:-horizon, index], expected, atol=1e-4)
        assert torch.equal(forecasts[-horizon:, index], own[-horizon:, index])


def test_weights_fit_each_subject_on_the_others(fitted_on_stimulus, shown_to_all):
    """Least-squares weights, reduced by the James-Stein factor."""
    series = np.stack([run.series.numpy() for run in shown_to_all[0]]).astype(float)
    mean = series[:, 10:].mean((0, 1))
    others = (series.sum(0) - series) / 5
    left, right = (others - mean)[:, 10:].reshape(-1, 20), (series - mean)[:, 10:].reshape(-1, 20)
    plain = (left * right).sum(0) / (left**2).sum(0)
    weights = fitted_on_stimulus["intersubject-average"].weights[0].numpy()
    assert plain.mean() > 0.4
    assert (weights <= plain + 1e-4).all()
    assert weights.mean() == pytest.approx(plain.mean(), rel=0.1)


def test_r2_approaches_the_stimulus_variance(fitted_on_stimulus, shown_to_all):
    run = shown_to_all[1][0]
    # The average of six subjects with a third of shared variance each.
    true = 0.33**2 / (0.33 + 0.67 / 6)
    assert r2(fitted_on_stimulus["intersubject-average"], [run], 10) == pytest.approx(true, abs=0.06)


@pytest.mark.parametrize("first_time_point", [0, 3, 40])
def test_runs_are_aligned_where_their_stimulus_begins(fitted_on_stimulus, shown_to_all, first_time_point):
    run = shown_to_all[1][0]
    late = as_run(np.concatenate([np.zeros((25, 20)), run.series.numpy()]), run.key, lead=35)
    reference = fitted_on_stimulus["intersubject-average"]
    expected = stream(reference.bind(run, 0), run.series)
    forecasts = stream(reference.bind(late, 25 + first_time_point), run.series[first_time_point:])
    assert torch.equal(forecasts, expected[first_time_point:])
    before = stream(reference.bind(late, 0), late.series)
    assert torch.equal(before[25:], expected)


def test_the_average_is_read_before_the_run_begins(fitted_on_stimulus, shown_to_all):
    run = shown_to_all[1][0]
    reference = fitted_on_stimulus["intersubject-average+ar"]
    forecasts = stream(reference.bind(run, 100), run.series[100:])
    # After eight time points, the autoregression has all its lags.
    np.testing.assert_allclose(forecasts[8:], stream(reference.bind(run, 0), run.series)[108:], atol=1e-5)


@pytest.mark.parametrize(("name", "base"), [("intersubject-average", "mean"), ("intersubject-average+ar", "ar")])
def test_an_unknown_stimulus_gets_the_baseline(fitted_on_stimulus, name, base):
    run = as_run(ar1_noise(np.random.default_rng(9), 100, 20, 0.7), "sub-20_task-other")
    forecasts = stream(fitted_on_stimulus[name].bind(run, 0), run.series)
    assert torch.equal(forecasts, stream(fitted_on_stimulus[base], run.series))


def test_stimuli_of_one_subject_get_no_weight():
    runs = stimulus_runs(4, 4, 0.5)
    seen_by_one = [run for run in runs if run.stimulus == f"task-movie{int(run.subject)}"]
    for reference in make_oracle_references(HORIZONS):
        reference.fit(seen_by_one)
        assert torch.equal(reference.weights, torch.zeros(3, 20))


def test_runs_of_different_lengths_are_averaged(shown_to_all):
    train, (run, _) = shown_to_all
    short = [
        as_run(other.series[:250].numpy(), other.key) if number % 2 else other for number, other in enumerate(train)
    ]
    reference = make_oracle_references(HORIZONS)[0]
    reference.fit(short)
    stimulus = torch.stack([other.series[250:] for other in short[::2]]).mean(0)
    forecasts = stream(reference.bind(run, 0), run.series)
    expected = reference.base.mean + reference.weights[0] * (stimulus - reference.base.mean)
    np.testing.assert_allclose(forecasts[249:-1, 0], expected, atol=1e-5)


class ReadOnceMore:
    """A training run that counts what is read of it."""

    def __init__(self, run):
        self.run, self.n_reads = run, 0

    def __getattr__(self, name):
        return getattr(self.run, name)

    def read(self, start, stop):
        self.n_reads += 1
        return self.run.read(start, stop)


def test_averages_that_nobody_reads_are_not_made(shown_to_all):
    train, (run, _) = shown_to_all
    for stimuli, is_read in (({"task-other"}, False), ({run.stimulus, "task-other"}, True)):
        reads = []
        for reference in make_oracle_references(HORIZONS):
            counted = [ReadOnceMore(other) for other in train]
            reference.base.fit(counted)
            for other in counted:
                other.n_reads = 0
            reference.base.fit = lambda runs: None
            reference.fit(counted, stimuli)
            reads.append(sum(other.n_reads for other in counted))
            assert bool(reference.averages) == bool(reference.weights.any()) == is_read
            other = as_run(run.series.numpy(), "sub-20_task-other")
            assert torch.equal(stream(reference.bind(other, 0), run.series), stream(reference.base, run.series))
        assert [n > 0 for n in reads] == [is_read, is_read]
