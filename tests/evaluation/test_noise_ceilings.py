import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from titan_neuro.errors import MismatchError
from titan_neuro.evaluation.intersubject import intersubject_correlations
from titan_neuro.evaluation.noise_ceilings import retest_ceiling, stimulus_locked_ceiling
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
def test_ceiling_equals_r2_of_the_shared_response(n_subjects, shared):
    stimulus, data = brains(n_subjects, shared)
    ceiling = stimulus_locked_ceiling([run_of(s, series) for s, series in enumerate(data)])
    assert ceiling.reason is None
    estimate = np.mean([values.mean() for values in ceiling.values.values()])
    truth = np.mean(
        [r2_score(data[s], np.sqrt(shared) * stimulus, multioutput="variance_weighted") for s in range(n_subjects)]
    )
    # Standard error over 40 features of 1,500 time points: at most 0.006.
    assert estimate == pytest.approx(truth, abs=0.02)


def test_average_of_the_others_stays_below_the_ceiling():
    _, data = brains(12, 0.3)
    runs = [run_of(s, series) for s, series in enumerate(data)]
    ceiling = np.mean([values.mean() for values in stimulus_locked_ceiling(runs).values.values()])
    r2_of_average = np.mean([(isc.r**2).mean() for isc in intersubject_correlations(runs).values()])
    assert 0.8 * ceiling < r2_of_average < ceiling


def test_one_subject_has_no_ceiling_but_a_reason():
    ceiling = stimulus_locked_ceiling([run_of("07", np.random.default_rng(0).normal(size=(50, 3)))])
    assert not ceiling.values
    assert ceiling.reason == "no stimulus was seen by two subjects (subjects: 07)"


def test_lone_viewers_of_a_stimulus_are_left_out():
    _, data = brains(3, 0.5, n_time_points=100)
    runs = [run_of(0, data[0]), run_of(1, data[1]), run_of(2, data[2], "another")]
    assert set(stimulus_locked_ceiling(runs).values) == {"0", "1"}


def test_showings_are_correlated_about_their_own_means():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 30, 5))
    second = second + first
    # Levels differ between the two segments; that must not count as agreement.
    first[15:] += 40
    second[15:] += 40
    runs = [run_of("1", first, "a"), run_of("1", second, "b")]
    pairs = [tuple(Stretch(run, *span) for run in runs) for span in ((0, 15), (15, 30))]
    r = retest_ceiling(pairs).values["1"]
    centered = [
        np.concatenate([part[:15] - part[:15].mean(0), part[15:] - part[15:].mean(0)]) for part in (first, second)
    ]
    for feature in range(5):
        expected = np.corrcoef(centered[0][:, feature], centered[1][:, feature])[0, 1]
        assert r[feature] == pytest.approx(expected, abs=1e-5)


def test_retest_ceiling_equals_the_repeated_variance():
    rng = np.random.default_rng(2)
    own = rng.normal(size=(53, 4000))
    runs = [run_of("1", np.sqrt(0.3) * own + np.sqrt(0.7) * rng.normal(size=own.shape), name) for name in "ab"]
    r = retest_ceiling([(Stretch(runs[0], 0, 53), Stretch(runs[1], 0, 53))]).values["1"]
    # 4,000 features with a standard error of 0.13 each.
    assert r.mean() == pytest.approx(0.3, abs=0.01)
    assert r.std() == pytest.approx(0.91 / np.sqrt(51), rel=0.1)


def test_missing_or_short_repeats_have_no_ceiling():
    assert retest_ceiling([]).reason == "no segment was shown twice to one subject"
    run = run_of("1", np.random.default_rng(3).normal(size=(30, 2)))
    ceiling = retest_ceiling([(Stretch(run, 0, 5), Stretch(run, 10, 15))])
    assert not ceiling.values
    assert "4 degrees of freedom, 8 needed" in ceiling.reason


def test_mismatched_showings_are_refused():
    run, other = run_of("1", np.zeros((30, 2))), run_of("2", np.zeros((30, 2)))
    for pair in ((Stretch(run, 0, 9), Stretch(run, 10, 20)), (Stretch(run, 0, 10), Stretch(other, 0, 10))):
        with pytest.raises(MismatchError, match="of one subject and one length"):
            retest_ceiling([pair])
