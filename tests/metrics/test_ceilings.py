import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from titan_neuro.errors import MismatchError
from titan_neuro.metrics import (
    ForecastAccumulator,
    ceiling_on_skill,
    leave_one_out_isc,
    pooled_skill,
    retest_ceiling,
    stimulus_locked_ceiling,
)
from titan_neuro.metrics.ceilings import shared_variance
from titan_neuro.runs import InMemoryRun
from titan_neuro.typing import Stretch


def run_of(subject, series, stimulus="stimulus"):
    series = torch.as_tensor(np.asarray(series), dtype=torch.float32)
    return InMemoryRun(series, np.ones(len(series), dtype=bool), f"sub-{subject}_{stimulus}", str(subject), stimulus)


def brains(n_subjects, shared, n_time_points=1500, n_features=40, seed=0):
    rng = np.random.default_rng([seed, n_subjects])
    stimulus = rng.normal(size=(n_time_points, n_features))
    own = rng.normal(size=(n_subjects, n_time_points, n_features))
    return stimulus, np.sqrt(shared) * stimulus + np.sqrt(1 - shared) * own


@pytest.mark.parametrize("n_subjects", [2, 3, 12])
@pytest.mark.parametrize("shared", [0.0, 0.1, 0.5])
def test_ceiling_is_the_r2_of_who_knows_what_the_film_does(n_subjects, shared):
    stimulus, data = brains(n_subjects, shared)
    ceiling = stimulus_locked_ceiling([run_of(s, series) for s, series in enumerate(data)])
    assert ceiling.reason is None
    found = np.mean([values.mean() for values in ceiling.values.values()])
    truth = np.mean(
        [r2_score(data[s], np.sqrt(shared) * stimulus, multioutput="variance_weighted") for s in range(n_subjects)]
    )
    # Standard error over 40 features of 1,500 time points: at most 0.006.
    assert found == pytest.approx(truth, abs=0.02)


def test_the_others_mean_itself_does_no_better_than_the_ceiling_and_nearly_reaches_it():
    _, data = brains(12, 0.3)
    runs = [run_of(s, series) for s, series in enumerate(data)]
    ceiling = np.mean([values.mean() for values in stimulus_locked_ceiling(runs).values.values()])
    best_of_the_mean = np.mean([(r**2).mean() for r in leave_one_out_isc(runs).values()])
    assert 0.8 * ceiling < best_of_the_mean < ceiling


@pytest.mark.parametrize("n_others", [1, 4, 11.5])
def test_shared_variance_inverts_what_noise_does_to_the_correlation(n_others):
    share = np.linspace(0, 1, 11)
    with np.errstate(invalid="ignore"):
        r = share / np.sqrt(share + (1 - share) / n_others)
    np.testing.assert_allclose(shared_variance(r, n_others), share, atol=1e-12)
    np.testing.assert_allclose(shared_variance(-r, n_others), -share, atol=1e-12)
    np.testing.assert_allclose(shared_variance(r, 1e9), r**2, atol=1e-6)
    np.testing.assert_allclose(shared_variance(r, 1), r, atol=1e-12)


def test_one_subject_has_no_ceiling_and_the_reason_is_told():
    ceiling = stimulus_locked_ceiling([run_of("07", np.random.default_rng(0).normal(size=(50, 3)))])
    assert not ceiling.values
    assert ceiling.reason == "no stimulus was seen by two subjects (subjects: 07)"


def test_who_saw_the_film_alone_is_left_out():
    _, data = brains(3, 0.5, n_time_points=100)
    runs = [run_of(0, data[0]), run_of(1, data[1]), run_of(2, data[2], "another")]
    assert set(stimulus_locked_ceiling(runs).values) == {"0", "1"}


def test_both_showings_are_correlated_about_the_mean_of_each():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 30, 5))
    second = second + first
    # Levels differ between the two segments, which is no agreement.
    first[15:] += 40
    second[15:] += 40
    runs = [run_of("1", first, "a"), run_of("1", second, "b")]
    pairs = [tuple(Stretch(run, *span) for run in runs) for span in ((0, 15), (15, 30))]
    found = retest_ceiling(pairs).values["1"]
    centered = [
        np.concatenate([part[:15] - part[:15].mean(0), part[15:] - part[15:].mean(0)]) for part in (first, second)
    ]
    for feature in range(5):
        expected = np.corrcoef(centered[0][:, feature], centered[1][:, feature])[0, 1]
        assert found[feature] == pytest.approx(expected, abs=1e-5)


def test_retest_is_the_share_of_variance_that_comes_again():
    rng = np.random.default_rng(2)
    own = rng.normal(size=(53, 4000))
    runs = [run_of("1", np.sqrt(0.3) * own + np.sqrt(0.7) * rng.normal(size=own.shape), name) for name in "ab"]
    found = retest_ceiling([(Stretch(runs[0], 0, 53), Stretch(runs[1], 0, 53))]).values["1"]
    # 4,000 features with a standard error of 0.13 each.
    assert found.mean() == pytest.approx(0.3, abs=0.01)
    assert found.std() == pytest.approx(0.91 / np.sqrt(51), rel=0.1)


def test_no_repeat_and_too_short_ones_have_no_ceiling():
    assert retest_ceiling([]).reason == "no segment was shown twice to one subject"
    run = run_of("1", np.random.default_rng(3).normal(size=(30, 2)))
    found = retest_ceiling([(Stretch(run, 0, 5), Stretch(run, 10, 15))])
    assert not found.values
    assert "4 degrees of freedom, 8 needed" in found.reason


def test_showings_that_do_not_fit_are_refused():
    run, other = run_of("1", np.zeros((30, 2))), run_of("2", np.zeros((30, 2)))
    for pair in ((Stretch(run, 0, 9), Stretch(run, 10, 20)), (Stretch(run, 0, 10), Stretch(other, 0, 10))):
        with pytest.raises(MismatchError, match="one subject, one length"):
            retest_ceiling([pair])


def test_a_ceiling_on_r2_becomes_one_on_the_skill_over_a_reference():
    rng = np.random.default_rng(4)
    target, locked, reference = rng.normal(size=(3, 500, 6))
    locked, reference = 0.3 * locked + 0.5 * target, 0.2 * target + 0.1 * reference
    sums = ForecastAccumulator(1, 3, 6)
    mean = np.broadcast_to(target.mean(0), target.shape).copy()
    sums.add(0, torch.as_tensor(target), [torch.as_tensor(forecast) for forecast in (mean, locked, reference)])
    error = sums.finish().squared_error[0]
    r2_locked, r2_reference = (r2_score(target, x, multioutput="variance_weighted") for x in (locked, reference))
    assert pooled_skill(error[1], error[0]) == pytest.approx(r2_locked, rel=1e-6)
    assert pooled_skill(error[2], error[0]) == pytest.approx(r2_reference, rel=1e-6)
    expected = pooled_skill(error[1], error[2])
    assert ceiling_on_skill(np.array(r2_locked), np.array(r2_reference)) == pytest.approx(expected, rel=1e-6)
    assert np.isnan(ceiling_on_skill(np.array(0.3), np.array(1.0)))
