from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import r2_score

from titan_neuro.baselines import Persistence
from titan_neuro.errors import ConfigError, ImageError, MismatchError, NoMatchError, TrainingError
from titan_neuro.evaluation import combine
from titan_neuro.evaluation.metrics_and_rows import METRICS

HORIZONS = (1, 3)


@pytest.fixture(scope="module")
def runs(make_run):
    return {(s, n): make_run(s, n) for s in ("01", "02", "03", "04", "05") for n in (1, 2)}


@pytest.fixture(scope="module")
def train_runs(runs):
    return [run for (subject, _), run in runs.items() if subject in ("01", "02", "03")]


@pytest.fixture(scope="module")
def held_out_runs(runs):
    return [run for (subject, _), run in runs.items() if subject in ("04", "05")]


@pytest.fixture(scope="module")
def benchmark(oracle, train_runs, held_out_runs, quick, score):
    return score([oracle(held_out_runs, 0.6)], train_runs, held_out_runs, quick)


@pytest.fixture(scope="module")
def scores(benchmark):
    return benchmark.scores


def targets_of(run, horizon):
    return [t for t in range(horizon, run.n_time_points) if run.scored[t]]


def test_rows_and_subjects_are_in_order(benchmark, train_runs, held_out_runs):
    assert list(benchmark.kinds.items()) == [
        ("oracle", "model"),
        *((name, "baseline") for name in ("mean", "persistence", "ar")),
    ]
    assert benchmark.main_model == "oracle"
    subjects = benchmark.scores.first.subjects
    assert {label: sums.runs for label, sums in subjects.items()} == {
        subject: tuple(f"sub-{subject}_task-movie_run-0{number}" for number in (1, 2)) for subject in ("04", "05")
    }
    assert benchmark.folds[0].train == tuple(run.key for run in train_runs)
    assert benchmark.folds[0].test == tuple(run.key for run in held_out_runs)


@pytest.mark.parametrize("horizon", HORIZONS)
def test_skill_of_a_planted_forecast_is_exact(scores, horizon):
    # Its error is 0.4 of persistence's, in every feature and subject.
    assert scores.subject_values("skill", "oracle", horizon) == pytest.approx([0.84, 0.84])
    np.testing.assert_allclose(scores.feature_map("r2", "mean", horizon), 0.0, atol=1e-6)


@pytest.mark.parametrize("horizon", HORIZONS)
def test_r2_agrees_with_scikit_learn(scores, train_runs, held_out_runs, horizon, score):
    mean = np.concatenate([run.series[run.scored].numpy() for run in train_runs]).astype(float).mean(0)
    for position, subject in enumerate(("04", "05")):
        of_subject = [run for run in held_out_runs if run.subject == subject]
        target = np.concatenate([run.series[targets_of(run, horizon)] for run in of_subject]).astype(float)
        forecast = np.concatenate([run.series[np.array(targets_of(run, horizon)) - horizon] for run in of_subject])
        # scikit-learn takes SSE about the test mean; the ratio of two such numbers is about the training mean.
        own = r2_score(target.ravel(), forecast.astype(float).ravel())
        of_mean = r2_score(target.ravel(), np.broadcast_to(mean, target.shape).ravel())
        expected = (own - of_mean) / (1 - of_mean)
        assert scores.subject_values("r2", "persistence", horizon)[position] == pytest.approx(expected, abs=1e-7)


def test_correlations_agree_with_scipy(oracle, train_runs, held_out_runs, quick, score):
    run = held_out_runs[0]
    scores = score([oracle([run], 0.6)], train_runs, [run], quick).scores
    at = np.array(targets_of(run, 3))
    series = run.series.double().numpy()
    r = [pearsonr(series[at, v], series[at - 3, v])[0] for v in range(run.n_features)]
    assert scores.subject_values("r", "persistence", 3)[0] == pytest.approx(np.tanh(np.arctanh(r).mean()), abs=1e-9)
    pattern = [pearsonr(series[t], series[t - 3])[0] for t in at]
    expected = np.tanh(np.arctanh(pattern).mean())
    assert scores.subject_values("pattern_r", "persistence", 3)[0] == pytest.approx(expected, abs=1e-9)


def test_references_score_zero_against_themselves(scores):
    for metric, reference in (("skill_ar", "ar"), ("skill", "persistence"), ("r2", "mean")):
        np.testing.assert_allclose(scores.subject_values(metric, reference, 1), 0, atol=1e-12)
    assert np.isnan(scores.subject_values("r", "mean", 1)).all()


def test_ar_noise_gets_its_theoretical_r2(scores):
    r2 = {model: scores.subject_values("r2", model, 1).mean() for model in ("ar", "persistence")}
    # AR(1) noise, phi 0.7: AR explains 0.49; persistence 1 - 2 (1 - 0.7) = 0.4.
    assert r2["ar"] == pytest.approx(0.49, abs=0.05)
    assert r2["persistence"] == pytest.approx(0.4, abs=0.06)


def test_no_baseline_predicts_white_noise(make_run, quick, score):
    train = [make_run(s, 9, phi=0.0, n_time_points=400) for s in ("11", "12", "13")]
    test = [make_run(s, 9, phi=0.0, n_time_points=400) for s in ("14", "15")]
    scores = score([NamedPersistence(HORIZONS)], train, test, quick).scores
    for model in ("mean", "persistence", "ar"):
        for horizon in HORIZONS:
            assert (scores.subject_values("r2", model, horizon) <= 0.02).all()


class NamedPersistence(Persistence):
    name = "titan-mac"


@pytest.mark.parametrize("block_time_points", [16, 160])
def test_block_length_changes_no_score(oracle, train_runs, held_out_runs, scores, quick, block_time_points, score):
    scored_in_blocks = score(
        [oracle(held_out_runs, 0.6)], train_runs, held_out_runs, replace(quick, block_time_points=block_time_points)
    ).scores
    for metric in METRICS:
        np.testing.assert_allclose(
            scored_in_blocks.subject_values(metric, "ar", 3), scores.subject_values(metric, "ar", 3), rtol=1e-9
        )


def test_joined_folds_equal_one_fold(oracle, train_runs, held_out_runs, scores, quick, score):
    parts = [score([oracle([run], 0.6)], train_runs, [run], quick) for run in held_out_runs]
    joined = combine(parts)
    assert len(joined.folds) == 4
    joined = joined.scores
    for metric in METRICS:
        for model in scores.first.models:
            np.testing.assert_allclose(
                joined.subject_values(metric, model, 3), scores.subject_values(metric, model, 3), rtol=1e-9, atol=1e-12
            )


def test_a_run_tested_twice_is_refused(benchmark):
    with pytest.raises(MismatchError, match="was tested in two folds"):
        combine([benchmark, benchmark])


def test_scores_of_different_models_are_not_joined(oracle, train_runs, held_out_runs, benchmark, quick, score):
    other = score([oracle(held_out_runs, 0.6, name="another")], train_runs, held_out_runs, quick)
    with pytest.raises(MismatchError, match="Folds differ in their kinds of rows"):
        combine([benchmark, other])
    with pytest.raises(NoMatchError):
        combine([])


def test_constant_features_are_left_out_and_counted(make_run, train_runs, quick, score):
    run = make_run("07", 1)
    whole = score([NamedPersistence(HORIZONS)], train_runs, [run], quick).scores
    run.series[:, 4] = 100.0
    scores = score([NamedPersistence(HORIZONS)], train_runs, [run], quick).scores
    assert scores.n_constant_features() == {"07": 1}
    skill_map = scores.feature_map("skill_ar", "titan-mac", 1)
    assert np.isnan(skill_map[4])
    assert np.isfinite(np.delete(skill_map, 4)).all()
    # Persistence would be perfect there, and the mean wrong by a hundred standard deviations.
    difference = scores.subject_values("r2", "persistence", 1) - whole.subject_values("r2", "persistence", 1)
    assert abs(difference[0]) < 0.02


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ("run", "on the same runs, 1 of them; the first is sub-02_task-movie_run-02."),
        ("subject", "on the same subjects, 1 of them; the first is 02."),
        ("strict", "on the same stimuli, 2 of them; the first is task-movie_run-01."),
    ],
)
def test_a_split_violating_its_protocol_is_refused(runs, train_runs, held_out_runs, quick, score, protocol, message):
    test_runs = {
        "run": [*held_out_runs, runs["02", 2]],
        "subject": [*held_out_runs, runs["02", 2]],
        "strict": held_out_runs,
    }[protocol]
    train_runs = [run for run in train_runs if protocol != "subject" or run.key != "sub-02_task-movie_run-02"]
    with pytest.raises(MismatchError) as caught:
        score([NamedPersistence(HORIZONS)], train_runs, test_runs, quick, protocol=protocol)
    assert message in str(caught.value)


def test_runs_of_another_feature_count_are_refused(make_run, train_runs, quick, score):
    with pytest.raises(MismatchError, match="sub-08_task-movie_run-01 has 7 features"):
        score([NamedPersistence(HORIZONS)], train_runs, [make_run("08", 1, n_features=7)], quick)


def test_inconsistent_rows_are_refused(train_runs, held_out_runs, quick, oracle, score):
    with pytest.raises(ConfigError, match=r"titan-mac \(1, 3\), oracle \(1, 2\)"):
        models = [NamedPersistence(HORIZONS), oracle(held_out_runs, 0.5, horizons=(1, 2))]
        score(models, train_runs, held_out_runs, quick)
    with pytest.raises(ConfigError, match="a unique name"):
        score([Persistence(HORIZONS)], train_runs, held_out_runs, quick)
    with pytest.raises(ConfigError, match="ascend"):
        score([NamedPersistence((3, 1))], train_runs, held_out_runs, quick)
    with pytest.raises(ConfigError, match="no model"):
        score([], train_runs, held_out_runs, quick)


def test_empty_folds_are_refused(train_runs, held_out_runs, quick, score):
    with pytest.raises(NoMatchError, match="no test run"):
        score([NamedPersistence(HORIZONS)], train_runs, [], quick)
    with pytest.raises(TrainingError, match="no training run"):
        score([NamedPersistence(HORIZONS)], [], held_out_runs, quick)


def test_a_run_too_short_to_score_is_refused(make_run, train_runs, quick, score):
    with pytest.raises(ImageError, match=r"sub-09_task-movie_run-01.*the run has 6 time points"):
        score([NamedPersistence((1, 6))], train_runs, [make_run("09", 1, n_time_points=6)], quick)


def test_blocks_of_many_features_are_short(make_run, oracle, score, quick, monkeypatch):
    runs = [make_run(f"{n:02}", 1, n_features=12) for n in range(1, 4)], [make_run("11", 1, n_features=12)]
    lengths = []

    class Watched(oracle):
        def step(self, series, state):
            lengths.append(len(series))
            return super().step(series, state)

    model = Watched(runs[1], 0.5, horizons=(1, 3))
    whole = score([model], *runs, quick)
    assert max(lengths) == 64
    lengths.clear()
    # Room for the forecasts of 18 time points.
    monkeypatch.setattr("titan_neuro.evaluation.fold._BLOCK_NUMBERS", 18 * 12 * 2)
    cut = score([model], *runs, quick)
    assert max(lengths) == 16
    for name in whole.kinds:
        for metric in ("skill", "pattern_r"):
            np.testing.assert_allclose(
                cut.scores.subject_values(metric, name, 3), whole.scores.subject_values(metric, name, 3), rtol=1e-6
            )
