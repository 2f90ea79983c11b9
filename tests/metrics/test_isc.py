import numpy as np
import pytest
import torch
from brainiak.isc import isc as brainiak_isc

from titan_neuro.errors import MismatchError, NoMatchError
from titan_neuro.metrics import bootstrap_interval, inter_subject, interval_of_related, leave_one_out_isc
from titan_neuro.runs import InMemoryRun

N_TIME_POINTS, N_FEATURES = 120, 7


def run_of(subject, series, scored=None, stimulus="task-movie_run-01"):
    scored = np.ones(len(series), dtype=bool) if scored is None else scored
    series = torch.as_tensor(np.asarray(series), dtype=torch.float32)
    return InMemoryRun(series, scored, f"sub-{subject}_{stimulus}", str(subject), stimulus)


def responses(n_subjects, seed, n_time_points=N_TIME_POINTS, n_features=N_FEATURES, shared=0.4):
    """A response that all share beside what is each one's own: float32 ``(subjects, time, features)``."""
    rng = np.random.default_rng(seed)
    stimulus = rng.normal(size=(n_time_points, n_features))
    own = rng.normal(size=(n_subjects, n_time_points, n_features))
    return (np.sqrt(shared) * stimulus + np.sqrt(1 - shared) * own).astype(np.float32)


@pytest.mark.parametrize("n_subjects", [2, 3, 8])
def test_correlations_are_those_of_brainiak(n_subjects):
    data = responses(n_subjects, seed=n_subjects)
    found = leave_one_out_isc([run_of(subject, series) for subject, series in enumerate(data)])
    # brainiak makes one number of two subjects; ours has it for each of them.
    expected = np.atleast_2d(brainiak_isc(data.transpose(1, 2, 0).astype(float)))
    for subject in range(n_subjects):
        np.testing.assert_allclose(found[str(subject)], expected[subject % len(expected)], atol=1e-6)


def test_runs_are_aligned_where_the_film_begins_and_only_scored_frames_count():
    data = responses(5, seed=0)
    runs = []
    for subject, series in enumerate(data):
        lead, tail = 3 + subject, 2 * subject
        padded = np.concatenate([np.full((lead, N_FEATURES), 50.0), series, np.full((tail, N_FEATURES), -50.0)])
        scored = np.zeros(len(padded), dtype=bool)
        scored[lead : lead + N_TIME_POINTS] = True
        runs.append(run_of(subject, padded, scored))
    expected = brainiak_isc(data.transpose(1, 2, 0).astype(float))
    for subject, found in leave_one_out_isc(runs).items():
        np.testing.assert_allclose(found, expected[int(subject)], atol=1e-6)
    # Nobody's stimulus moves where the first time points of one subject are not scored for head motion.
    runs[2].scored[5:8] = False
    expected = brainiak_isc(data[:, 3:].transpose(1, 2, 0).astype(float))
    np.testing.assert_allclose(leave_one_out_isc(runs)["2"], expected[2], atol=1e-6)


def test_a_frame_counts_where_it_is_scored_and_its_mean_is_of_those_in_whom_it_is():
    data = responses(4, seed=3).astype(float)
    scored = np.random.default_rng(4).random((4, N_TIME_POINTS)) > 0.3
    scored[:, 0] = True
    # Nobody but the first saw this.
    scored[1:, 40:50], scored[0, 40:50] = False, True
    found = inter_subject([run_of(s, data[s].astype(np.float32), scored[s]) for s in range(4)])
    for subject in range(4):
        others = [other for other in range(4) if other != subject]
        rows = scored[subject] & scored[others].any(axis=0)
        hidden = np.where(scored[others][:, rows, None], data[others][:, rows], np.nan)
        mean = np.nanmean(hidden, axis=0)
        for feature in range(N_FEATURES):
            expected = np.corrcoef(data[subject][rows, feature], mean[:, feature])[0, 1]
            assert found[str(subject)].r[feature] == pytest.approx(expected, abs=1e-6)
        assert found[str(subject)].n_others == pytest.approx(scored[others][:, rows].sum(axis=0).mean())


def test_small_blocks_and_runs_of_different_length_change_nothing():
    data = responses(4, seed=5)
    runs = [run_of(subject, series[: N_TIME_POINTS - 11 * subject]) for subject, series in enumerate(data)]
    whole, cut = (inter_subject(runs, memory_bytes=size) for size in (2**28, 4 * N_FEATURES * 8 * 7))
    for subject in whole:
        np.testing.assert_allclose(cut[subject].r, whole[subject].r, atol=1e-12)
        assert cut[subject].n_others == whole[subject].n_others
    assert whole["3"].n_others == 3
    assert whole["0"].n_others < 3


def test_stimuli_are_joined_about_the_mean_of_each_run():
    first, second = responses(3, seed=6), responses(3, seed=7)
    # A level of its own in one run would be a correlation of nearly 1, if runs were strung together.
    runs = [run_of(s, first[s] + 100) for s in range(3)] + [run_of(s, second[s], stimulus="b") for s in range(3)]
    centered = np.concatenate([part - part.mean(axis=1, keepdims=True) for part in (first, second)], axis=1)
    expected = brainiak_isc(centered.transpose(1, 2, 0).astype(float))
    for subject, found in leave_one_out_isc(runs).items():
        np.testing.assert_allclose(found, expected[int(subject)], atol=1e-5)


def test_one_subject_and_a_constant_feature_have_no_correlation():
    data = responses(3, seed=8)
    data[1, :, 2] = 0.5
    alone = inter_subject([run_of(0, data[0]), run_of(1, data[1], stimulus="another")])
    assert np.isnan(alone["0"].r).all()
    assert alone["0"].n_others == 0
    found = leave_one_out_isc([run_of(subject, series) for subject, series in enumerate(data)])
    assert np.isnan(found["1"][2])
    assert np.isfinite(found["0"]).all()


def test_what_does_not_fit_is_refused():
    series = np.zeros((10, 2))
    with pytest.raises(NoMatchError, match="no run"):
        leave_one_out_isc([])
    with pytest.raises(MismatchError, match="3 features, sub-1_task-movie_run-01 has 2"):
        leave_one_out_isc([run_of(1, series), run_of(2, np.zeros((10, 3)))])
    with pytest.raises(MismatchError, match="sub-1 has 2 runs of task-movie_run-01"):
        leave_one_out_isc([run_of(1, series), run_of(1, series)])


def smooth_noise(n_subjects, n_time_points, n_features, seed):
    """AR(1) noise at 0.8, as BOLD is at least: nothing is shared."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n_subjects, n_time_points + 50, n_features))
    for t in range(1, n_time_points + 50):
        noise[:, t] += 0.8 * noise[:, t - 1]
    return noise[:, 50:].astype(np.float32)


@pytest.mark.parametrize("make", ["white", "smooth"])
def test_on_noise_correlations_are_within_their_standard_error_of_0(make):
    n_subjects, n_time_points, n_features = 8, 300, 400
    if make == "white":
        data = responses(n_subjects, 11, n_time_points, n_features, shared=0.0)
    else:
        data = smooth_noise(n_subjects, n_time_points, n_features, 12)
    found = leave_one_out_isc([run_of(subject, series) for subject, series in enumerate(data)])
    r = np.stack(list(found.values()))
    # Bartlett: two AR(1) series of phi 0.8 have (1 + phi^2) / (1 - phi^2) = 4.6 times the variance of white ones.
    spread = np.sqrt((1 if make == "white" else 4.6) / n_time_points)
    assert r.std() == pytest.approx(spread, rel=0.1)
    # Features are independent of each other; a feature's mean over subjects is what varies.
    per_feature = r.mean(axis=0)
    assert abs(per_feature.mean()) < 3 * per_feature.std(ddof=1) / np.sqrt(n_features)


@pytest.mark.parametrize("make", ["white", "smooth"])
def test_on_noise_the_interval_of_correlations_holds_0_as_often_as_it_says(make):
    n_subjects, n_features = 12, 400
    if make == "white":
        data = responses(n_subjects, 14, 200, n_features, shared=0.0)
    else:
        data = smooth_noise(n_subjects, 200, n_features, 13)
    found = leave_one_out_isc([run_of(subject, series) for subject, series in enumerate(data)])
    r = np.stack(list(found.values()))
    held = {bootstrap_interval: [], interval_of_related: []}
    for interval, hits in held.items():
        for feature in range(n_features):
            low, high = interval(r[:, feature], n_resamples=1000, seed=feature)
            hits.append(low <= 0 <= high)
    # 0.94 and 0.83 in a larger simulation; 400 draws: standard error 0.012 and 0.019.
    assert 0.90 <= np.mean(held[interval_of_related]) <= 0.98
    # Why subjects can't be taken for independent here.
    assert np.mean(held[bootstrap_interval]) < 0.88


def test_the_interval_of_related_values_is_the_other_one_widened():
    values = np.random.default_rng(0).normal(size=9)
    narrow, wide = (
        np.array(interval(values, n_resamples=1000, seed=1)) - values.mean()
        for interval in (bootstrap_interval, interval_of_related)
    )
    np.testing.assert_allclose(wide, np.sqrt(2) * narrow)
    assert np.isnan(interval_of_related(values[:2], n_resamples=1000, seed=1)).all()
