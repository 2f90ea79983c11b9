import numpy as np
import pytest
import torch
from stimulus_viewers import isc_by_definition

from titan_neuro.errors import MismatchError, NoMatchError
from titan_neuro.evaluation.intersubject import intersubject_correlations
from titan_neuro.metrics import bootstrap_interval, leave_one_out_interval
from titan_neuro.runs import InMemoryRun

N_TIME_POINTS, N_FEATURES = 120, 7


def run_of(subject, series, scored=None, stimulus="task-movie_run-01"):
    scored = np.ones(len(series), dtype=bool) if scored is None else scored
    series = torch.as_tensor(np.asarray(series), dtype=torch.float32)
    return InMemoryRun(series, scored, f"sub-{subject}_{stimulus}", str(subject), stimulus)


def isc_of(data):
    """Leave-one-out correlations of ``(subjects, time, features)``, by subject."""
    return r_by_subject([run_of(subject, series) for subject, series in enumerate(data)])


def r_by_subject(runs):
    return {subject: correlation.r for subject, correlation in intersubject_correlations(runs).items()}


def responses(n_subjects, seed, n_time_points=N_TIME_POINTS, n_features=N_FEATURES, shared=0.4):
    """A shared response plus independent noise in each subject: float32 ``(subjects, time, features)``."""
    rng = np.random.default_rng(seed)
    stimulus = rng.normal(size=(n_time_points, n_features))
    own = rng.normal(size=(n_subjects, n_time_points, n_features))
    return (np.sqrt(shared) * stimulus + np.sqrt(1 - shared) * own).astype(np.float32)


@pytest.mark.parametrize("n_subjects", [2, 3, 8])
def test_correlations_are_those_of_the_definition(n_subjects):
    data = responses(n_subjects, seed=n_subjects)
    isc = isc_of(data)
    for subject, expected in enumerate(isc_by_definition(data.astype(float))):
        np.testing.assert_allclose(isc[str(subject)], expected, atol=1e-6)


def test_runs_are_aligned_where_their_stimulus_begins():
    data = responses(5, seed=0)
    runs = []
    for subject, series in enumerate(data):
        lead, tail = 3 + subject, 2 * subject
        padded = np.concatenate([np.full((lead, N_FEATURES), 50.0), series, np.full((tail, N_FEATURES), -50.0)])
        scored = np.zeros(len(padded), dtype=bool)
        scored[lead : lead + N_TIME_POINTS] = True
        runs.append(run_of(subject, padded, scored))
    expected = isc_by_definition(data.astype(float))
    for subject, r in r_by_subject(runs).items():
        np.testing.assert_allclose(r, expected[int(subject)], atol=1e-6)
    # Unscored time points at the start of one run don't shift its alignment.
    runs[2].scored[5:8] = False
    expected = isc_by_definition(data[:, 3:].astype(float))
    np.testing.assert_allclose(r_by_subject(runs)["2"], expected[2], atol=1e-6)


def test_only_scored_time_points_enter_run_and_average():
    data = responses(4, seed=3).astype(float)
    scored = np.random.default_rng(4).random((4, N_TIME_POINTS)) > 0.3
    scored[:, 0] = True
    # Scored in the first subject alone.
    scored[1:, 40:50], scored[0, 40:50] = False, True
    correlations = intersubject_correlations([run_of(s, data[s].astype(np.float32), scored[s]) for s in range(4)])
    for subject in range(4):
        others = [other for other in range(4) if other != subject]
        rows = scored[subject] & scored[others].any(axis=0)
        counted = np.where(scored[others][:, rows, None], data[others][:, rows], np.nan)
        average = np.nanmean(counted, axis=0)
        for feature in range(N_FEATURES):
            expected = np.corrcoef(data[subject][rows, feature], average[:, feature])[0, 1]
            assert correlations[str(subject)].r[feature] == pytest.approx(expected, abs=1e-6)
        assert correlations[str(subject)].n_others == pytest.approx(scored[others][:, rows].sum(axis=0).mean())


def test_block_length_changes_no_correlation():
    data = responses(4, seed=5)
    runs = [run_of(subject, series[: N_TIME_POINTS - 11 * subject]) for subject, series in enumerate(data)]
    whole, cut = (intersubject_correlations(runs, memory_bytes=size) for size in (2**28, 4 * N_FEATURES * 8 * 7))
    for subject in whole:
        np.testing.assert_allclose(cut[subject].r, whole[subject].r, atol=1e-12)
        assert cut[subject].n_others == whole[subject].n_others
    assert whole["3"].n_others == 3
    assert whole["0"].n_others < 3


def test_stimuli_are_joined_about_each_run_mean():
    first, second = responses(3, seed=6), responses(3, seed=7)
    # Concatenated runs of different levels would correlate at nearly 1.
    runs = [run_of(s, first[s] + 100) for s in range(3)] + [run_of(s, second[s], stimulus="b") for s in range(3)]
    centered = np.concatenate([part - part.mean(axis=1, keepdims=True) for part in (first, second)], axis=1)
    expected = isc_by_definition(centered.astype(float))
    for subject, r in r_by_subject(runs).items():
        np.testing.assert_allclose(r, expected[int(subject)], atol=1e-5)


def test_lone_subjects_and_constant_features_are_nan():
    data = responses(3, seed=8)
    data[1, :, 2] = 0.5
    alone = intersubject_correlations([run_of(0, data[0]), run_of(1, data[1], stimulus="another")])
    assert np.isnan(alone["0"].r).all()
    assert alone["0"].n_others == 0
    isc = isc_of(data)
    assert np.isnan(isc["1"][2])
    assert np.isfinite(isc["0"]).all()


def test_mismatched_runs_are_refused():
    series = np.zeros((10, 2))
    with pytest.raises(NoMatchError, match="no run"):
        r_by_subject([])
    with pytest.raises(MismatchError, match="3 features, sub-1_task-movie_run-01 has 2"):
        r_by_subject([run_of(1, series), run_of(2, np.zeros((10, 3)))])
    with pytest.raises(MismatchError, match="sub-1 has 2 runs of task-movie_run-01"):
        r_by_subject([run_of(1, series), run_of(1, series)])


def smooth_noise(n_subjects, n_time_points, n_features, seed):
    """AR(1) noise, phi 0.8, about as smooth as BOLD; independent between subjects."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n_subjects, n_time_points + 50, n_features))
    for t in range(1, n_time_points + 50):
        noise[:, t] += 0.8 * noise[:, t - 1]
    return noise[:, 50:].astype(np.float32)


@pytest.mark.parametrize("make", ["white", "smooth"])
def test_noise_correlates_at_zero_within_its_error(make):
    n_subjects, n_time_points, n_features = 8, 300, 400
    if make == "white":
        data = responses(n_subjects, 11, n_time_points, n_features, shared=0.0)
    else:
        data = smooth_noise(n_subjects, n_time_points, n_features, 12)
    isc = isc_of(data)
    r = np.stack(list(isc.values()))
    # Bartlett: two AR(1) series of phi 0.8 have (1 + phi^2) / (1 - phi^2) = 4.6 times the variance of white ones.
    spread = np.sqrt((1 if make == "white" else 4.6) / n_time_points)
    assert r.std() == pytest.approx(spread, rel=0.1)
    # Features are independent of each other; a feature's mean over subjects is what varies.
    per_feature = r.mean(axis=0)
    assert abs(per_feature.mean()) < 3 * per_feature.std(ddof=1) / np.sqrt(n_features)


@pytest.mark.parametrize("make", ["white", "smooth"])
def test_leave_one_out_interval_has_nominal_coverage(make):
    n_subjects, n_features = 12, 400
    if make == "white":
        data = responses(n_subjects, 14, 200, n_features, shared=0.0)
    else:
        data = smooth_noise(n_subjects, 200, n_features, 13)
    isc = isc_of(data)
    r = np.stack(list(isc.values()))
    hits_by_interval = {bootstrap_interval: [], leave_one_out_interval: []}
    for interval, hits in hits_by_interval.items():
        for feature in range(n_features):
            low, high = interval(r[:, feature], n_resamples=1000, seed=feature)
            hits.append(low <= 0 <= high)
    # 0.94 and 0.83 in a larger simulation; 400 draws: standard error 0.012 and 0.019.
    assert 0.90 <= np.mean(hits_by_interval[leave_one_out_interval]) <= 0.98
    # The plain interval takes subjects for independent and is too short.
    assert np.mean(hits_by_interval[bootstrap_interval]) < 0.88
