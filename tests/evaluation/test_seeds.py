"""Seeds are scored apart and then averaged; runs begin at offsets that all rows share."""

from dataclasses import replace

import numpy as np
import pytest

from titan_neuro.baselines import Persistence
from titan_neuro.errors import ConfigError
from titan_neuro.evaluation import combine, comparisons_table, draw_offset, score_fold, scores_table, subjects_table
from titan_neuro.evaluation.summary import comparisons
from titan_neuro.metrics.measures import fisher_z


@pytest.fixture(scope="module")
def runs(make_run):
    return [make_run(s, 1) for s in ("01", "02", "03")], [make_run(s, n) for s in ("11", "12", "13") for n in (1, 2)]


@pytest.fixture(scope="module")
def models(oracle, runs):
    """Two seeds of a model, one better than the other, and a comparison model that is always the same."""
    comparison_model = oracle(runs[1], 0.3, name="var")
    return {seed: [oracle(runs[1], share, name="titan-mac"), comparison_model] for seed, share in ((4, 0.5), (9, 0.7))}


@pytest.fixture(scope="module")
def config(quick):
    return replace(quick, max_offset_time_points=10)


@pytest.fixture(scope="module")
def benchmark(score, models, runs, config):
    return score(models, *runs, config)


def test_each_seed_is_scored_for_itself(benchmark):
    # Of persistence's error 0.5 and 0.3 are left. An ensemble of the two would have 0.4, and a skill of 0.84.
    for seed, expected in ((4, 0.75), (9, 0.91)):
        values = benchmark.scores.by_seed[seed].subject_values("skill", "titan-mac", 3)
        np.testing.assert_allclose(values, expected, atol=1e-6)
    np.testing.assert_allclose(benchmark.scores.subject_values("skill", "titan-mac", 3), 0.83, atol=1e-6)
    r = benchmark.scores.seed_values("r", "titan-mac", 3)
    np.testing.assert_allclose(
        benchmark.scores.subject_values("r", "titan-mac", 3), np.tanh(fisher_z(r).mean(axis=0)), rtol=1e-12
    )


def test_the_table_tells_the_spread_over_seeds(benchmark):
    table = scores_table(benchmark, repetition_time_s=1.0, n_resamples=1000).query("lead_time_points == 1")
    assert (table["n_seeds"] == 2).all()
    row = table[table.model == "titan-mac"].iloc[0]
    by_seed = [scores.subject_values("skill_ar", "titan-mac", 1).mean() for scores in benchmark.scores.by_seed.values()]
    assert row["skill_ar_seed_sd"] == pytest.approx(np.std(by_seed, ddof=1))
    assert row["skill_ar_seed_sd"] > 0.05
    assert table[table.model == "ar"]["skill_ar_seed_sd"].item() == 0
    assert (subjects_table(benchmark)["n_seeds"] == 2).all()


def test_with_one_seed_there_is_no_spread(score, oracle, runs, config):
    table = scores_table(score([oracle(runs[1], 0.5)], *runs, config), repetition_time_s=1.0, n_resamples=1000)
    assert table["skill_ar_seed_sd"].isna().all()


def test_offsets_are_drawn_for_run_and_seed(benchmark, runs, config):
    assert benchmark.offsets == {seed: {run.key: draw_offset(run, seed, config) for run in runs[1]} for seed in (4, 9)}
    drawn = [offset for by_run in benchmark.offsets.values() for offset in by_run.values()]
    assert len(set(drawn)) > 4 and min(drawn) >= 0 and max(drawn) <= 10
    # Time points before the offset are not scored; the first five are not anyway.
    for seed, offsets in benchmark.offsets.items():
        sums = benchmark.scores.by_seed[seed].subjects["11"]
        expected = sum(160 - max(5, offsets[run] + 3) for run in sums.runs)
        assert sums.n_time_points[1] == expected


def test_a_short_run_loses_a_tenth_at_most(make_run, quick):
    run = make_run("01", 1, n_time_points=40)
    assert {draw_offset(run, seed, replace(quick, max_offset_time_points=30)) for seed in range(200)} == set(range(5))


def test_it_is_all_the_same_the_second_time(benchmark, score, models, runs, config):
    again = score(models, *runs, config)
    for metric in ("skill_ar", "pattern_r"):
        for model in again.kinds:
            np.testing.assert_array_equal(
                again.scores.seed_values(metric, model, 1), benchmark.scores.seed_values(metric, model, 1)
            )


def test_comparisons_are_paired_over_subjects(benchmark):
    table = comparisons_table(benchmark, repetition_time_s=1.5, n_resamples=1000)
    pair = table[(table["model"] == "titan-mac") & (table["compared_with"] == "var")]
    assert pair["lead_time_points"].tolist() == [1, 3]
    assert pair["lead_time_s"].tolist() == [1.5, 4.5]
    for (_, row), horizon in zip(pair.iterrows(), (1, 3), strict=True):
        difference = benchmark.scores.subject_values("skill_ar", "titan-mac", horizon)
        difference = difference - benchmark.scores.subject_values("skill_ar", "var", horizon)
        assert row["difference"] == pytest.approx(difference.mean())
        assert (row["difference_low"], row["difference_high"]) == pytest.approx((difference.min(), difference.max()))


def test_comparison_models_are_compared_with_linear_autoregression(make_run, oracle, score, runs, quick):
    comparison_model = oracle(runs[1], 0.5, name="transformer-20")
    benchmark = score([oracle(runs[1], 0.5), comparison_model], *runs, quick)
    options = {"repetition_time_s": 1.0, "n_resamples": 1000}
    table, scores = comparisons_table(benchmark, **options), scores_table(benchmark, **options)
    first = table[table["compared_with"] == "ar"]
    expected = scores[scores["model"] == "transformer-20"]
    assert first["model"].unique().tolist() == ["transformer-20"]
    for end in ("", "_low", "_high"):
        np.testing.assert_array_equal(first[f"difference{end}"], expected[f"skill_ar{end}"])
    above_ar, same = comparisons(table)
    assert above_ar.startswith("transformer-20 is on average above ar (linear autoregression")
    assert same.startswith("oracle is on average level with transformer-20 (Transformer")


def test_seeds_must_have_the_same_models(score, oracle, runs, quick):
    with pytest.raises(ConfigError, match=r"Seeds differ.*'titan-mac'.*seed 1 \['other'\]"):
        score({0: [oracle(runs[1], 0.5, name="titan-mac")], 1: [oracle(runs[1], 0.5, name="other")]}, *runs, quick)


class KnowsThePosition:
    """A reference line: knows the run, and hence what will come."""

    name, horizons = "intersubject-average", (1, 3)

    def __init__(self, oracle):
        self.oracle, self.fitted, self.asked = oracle, None, []

    def fit(self, runs, stimuli=None):
        self.fitted = [run.key for run in runs]

    def bind(self, run, first_time_point):
        self.asked.append((run.key, first_time_point))
        return self.oracle([run], 0.8, name="intersubject-average")


def test_references_follow_each_run_from_where_it_begins(score, oracle, models, runs, config):
    reference = KnowsThePosition(oracle)
    benchmark = score(models, *runs, config, references=[reference])
    assert reference.fitted == [run.key for run in runs[0]]
    offsets = [item for by_run in benchmark.offsets.values() for item in by_run.items()]
    # Once more before, to see whether it looks ahead.
    assert reference.asked == [(runs[1][0].key, 0), *offsets]
    assert benchmark.kinds["intersubject-average"] == "oracle_reference"
    np.testing.assert_allclose(benchmark.scores.subject_values("skill", "intersubject-average", 3), 0.96, atol=1e-6)


def test_reference_baselines_are_required(oracle, runs, quick):
    with pytest.raises(ConfigError, match="measured against ar, mean, not among"):
        score_fold({0: [oracle(runs[1], 0.5)]}, [Persistence((1, 3))], [], *runs, quick, protocol="subject")


def test_moving_frames_have_a_table_of_their_own(make_run, oracle, score, quick):
    train = [make_run(s, 1) for s in ("01", "02")]
    test = [make_run(s, 1) for s in ("21", "22")]
    test[0].high_motion[[3, 40, 41, 90]] = True
    benchmark = score([oracle(test, 0.6)], train, test, quick)
    high_motion = benchmark.high_motion_scores()
    assert list(high_motion.first.subjects) == ["21"]
    assert high_motion.first.subjects["21"].n_time_points.tolist() == [3, 3]
    assert benchmark.scores.n_time_points(1).tolist() == [152, 155]
    table = scores_table(benchmark, repetition_time_s=1.0, n_resamples=1000, scores=high_motion)
    assert (table["n_time_points"] == 3).all()
    assert table[table.model == "oracle"]["skill"].tolist() == pytest.approx([0.84, 0.84])
    assert combine([score([oracle(train, 0.6)], test, train, quick)]).high_motion_scores() is None
