"""Moments that subjects share are found, moments that they don't share are found as often as chance has it."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from titan_neuro.forecaster import ForecasterConfig, RecallConfig
from titan_neuro.forecaster.decoders import LowRankConfig
from titan_neuro.forecaster.tokenizers import ParcelTokenizerConfig
from titan_neuro.metrics import p_of_null
from titan_neuro.probing import (
    ProbeContext,
    ProbedFold,
    TimeSegmentMatchingConfig,
    TimeSegmentMatchingProbe,
    untrained_like,
)
from titan_neuro.probing.tools.results import SCORES
from titan_neuro.probing.tools.stimulus_traces import StimulusTraces
from titan_neuro.probing.tools.time_segments import (
    match_segments,
    segments,
    shifted_means,
    shifts_allowed,
    standardized,
)
from titan_neuro.probing.tools.trace import count_sketch, drawn, trace_run
from titan_neuro.titans.models import GRUConfig, MACConfig

N_FEATURES = 12
SMALL = TimeSegmentMatchingConfig(begun_late_time_points=40, window_time_points=(1, 5))


@dataclasses.dataclass(eq=False)
class Run:
    """A stimulus that is the same for all, if `shared`, in a subject's noise."""

    subject: str
    stimulus: str = "stimulus"
    n_time_points: int = 120
    stimulus_start: int = 0
    shared: float = 1.0
    n_features: int = N_FEATURES

    def __post_init__(self):
        self.key = f"sub-{self.subject}_task-{self.stimulus}"
        stimulus = np.random.default_rng(len(self.stimulus)).normal(size=(400, self.n_features))
        own = np.random.default_rng([int(self.subject), len(self.stimulus)]).normal(size=(400, self.n_features))
        series = self.shared * stimulus + 0.4 * own
        series = np.concatenate([own[: self.stimulus_start], series])[: self.n_time_points]
        self.series = torch.from_numpy((series / series.std()).astype(np.float32))
        self.scored = np.arange(self.n_time_points) >= self.stimulus_start + 10
        self.high_motion = np.zeros(self.n_time_points, dtype=bool)

    def read(self, start, stop):
        return self.series[start:stop]


def forecaster(backbone=None, recall=None):
    torch.manual_seed(0)
    backbone = backbone or MACConfig(dim=16, n_layers=1, n_heads=2, tokens_per_time_point=1, segment_time_points=8)
    config = ForecasterConfig(
        tokenizer=ParcelTokenizerConfig(n_tokens=1),
        backbone=backbone,
        recall=recall,
        horizons=(1, 2),
        decoder=LowRankConfig(rank=4),
    )
    return config.build(n_features=N_FEATURES).eval()


def fold_of(tests, others, model=None):
    model = model or forecaster()
    return ProbedFold(model=model, untrained=untrained_like(model, seed=1), tests=tests, others=others)


def asked(*folds, config=SMALL):
    metadata = ProbeContext(
        repetition_time=2.0, horizons=(1, 2), n_features=N_FEATURES, n_permutations=200, n_resamples=200, seed=0
    )
    probe = TimeSegmentMatchingProbe(config, metadata)
    for fold in folds:
        for run in fold.tests:
            probe.add(fold, run)
    return probe.results()


def runs_of(subjects, **given):
    return [Run(str(subject), **given) for subject in subjects]


def value(scores, measure, condition, x=2.0):
    found = scores[(scores.measure == measure) & (scores.condition == condition) & (scores.x == x)]
    assert len(found) == 1
    return found.iloc[0]


def test_a_film_that_subjects_share_is_found():
    found = asked(fold_of(runs_of(range(4), n_time_points=240), runs_of(range(4, 7), n_time_points=240)))
    scores = found.tables["scores"]
    assert tuple(scores) == SCORES
    for measure, kind in (
        ("accuracy", "time_point"),
        ("accuracy", "encoded"),
        ("accuracy", "memory"),
        ("accuracy", "memory begun late"),
        ("accuracy, one time point in 8", "state"),
        ("accuracy, one time point in 8", "state begun late"),
    ):
        row = value(scores, measure, kind)
        assert row.value > (row.null_high if "late" in kind else 0.5), (kind, row)
        assert row.p < 0.05 and row.null_high < 0.3, (kind, row)
        assert row.low <= row.value <= row.high and row.n_subjects == 4
    assert value(scores, "accuracy", "time_point", 10.0).value > 0.98
    # A clock finds every moment of runs that begin together.
    assert value(scores, "accuracy", "polynomial of time").value == 1
    assert set(scores[scores.is_control].condition) == {
        *("time_point", "encoded", "untrained memory", "untrained state", "polynomial of time")
    }
    lags = found.tables["lags"]
    np.testing.assert_allclose(lags.groupby("condition").share.sum(), 1)
    assert lags.loc[lags[lags.condition == "state"].share.idxmax(), "lag_s"] == 0
    assert "n = 4" in found.sentence and found.metadata["NotAsked"] == []


def test_differences_are_those_of_the_subjects():
    scores = asked(fold_of(runs_of(range(4)), runs_of(range(4, 6)))).tables["scores"]
    row = value(scores, "accuracy difference", "state less time point", 10.0)
    sparse = "accuracy, one time point in 8"
    expected = value(scores, sparse, "state").value - value(scores, sparse, "time_point", 10.0).value
    assert row.value == pytest.approx(expected) and row.null == 0
    assert row.null_low <= 0 <= row.null_high and 1 / 16 <= row.p <= 1


def test_without_a_shared_film_only_chance_is_left():
    scores = asked(fold_of(runs_of(range(4), shared=0.0), runs_of(range(4, 7), shared=0.0))).tables["scores"]
    for kind in ("time_point", "encoded", "memory"):
        row = value(scores, "accuracy", kind)
        assert row.value < 0.06 and row.null_low <= row.value
    assert value(scores, "accuracy, one time point in 8", "state").value < 0.4


def autocorrelated(rng, n, width):
    noise = rng.normal(size=(n, width))
    for t in range(1, n):
        noise[t] += 0.7 * noise[t - 1]
    return noise


def matched(run, reference, away=5):
    times = np.arange(len(run))
    ours, theirs = standardized(run, reference, times, degree=3)
    rows = (segments(values, times, 1) for values in (ours, theirs))
    return match_segments(*rows, times, np.ones(len(times), dtype=bool), away)


def test_shifts_keep_the_nominal_rate_where_nothing_is_shared():
    p, n_seeds = [], 300
    for seed in range(n_seeds):
        rng = np.random.default_rng(seed)
        # The runs are like each other, and are matched with one reference: only its stimulus is another.
        common, reference = autocorrelated(rng, 100, 6), autocorrelated(rng, 100, 6)
        runs = [("abc"[i], "stimulus", matched(common + autocorrelated(rng, 100, 6), reference)) for i in range(3)]
        by_subject, null = shifted_means(runs, away=5, n_permutations=1000, seed=seed)
        p.append(p_of_null(by_subject.mean() - 1e-12, null))
    for level in (0.05, 0.2):
        interval = binomtest(int(np.sum(np.array(p) <= level)), n_seeds).proportion_ci(0.99)
        # Shares of few moments are often equal, which makes the test conservative, never liberal.
        assert interval.low <= level <= interval.high + 0.05, (level, interval)


def test_matching_is_what_loops_over_correlations_say():
    rng = np.random.default_rng(0)
    run, reference = rng.normal(size=(300, 4)), rng.normal(size=(300, 4))
    run += 0.8 * reference
    window, away = 3, 15
    ends = np.flatnonzero(rng.random(300) > 0.2)
    ends = ends[ends >= window - 1]
    wanted = rng.random(len(ends)) > 0.1
    found = match_segments(segments(run, ends, window), segments(reference, ends, window), ends, wanted, away)
    table = np.array(
        [
            [np.corrcoef(run[t - 2 : t + 1][::-1].ravel(), reference[u - 2 : u + 1][::-1].ravel())[0, 1] for u in ends]
            for t in ends
        ]
    )
    chances, lags = [], []
    hits = np.zeros(len(ends))
    for row in np.flatnonzero(wanted):
        lags.append(ends[table[row].argmax()] - ends[row])
        for column, time in enumerate(ends):
            far = np.abs(ends - time) > away
            hits[(column - row) % len(ends)] += table[row, column] > table[row, far].max()
        chances.append(1 / ((np.abs(ends - ends[row]) > away).sum() + 1))
    np.testing.assert_allclose(found.by_shift, hits / wanted.sum())
    np.testing.assert_array_equal(found.lags, lags)
    assert found.chance == pytest.approx(np.mean(chances))
    assert 0.2 < found.by_shift[0] < 1


def test_a_clock_is_taken_away():
    rng = np.random.default_rng(0)
    times = np.arange(120)
    clock = np.polynomial.polynomial.polyvander(times / 120.0, 3) @ rng.normal(size=(4, 8)) * 50
    run, reference = clock + rng.normal(size=(120, 8)), clock + rng.normal(size=(120, 8))
    ours, theirs = standardized(run, reference, times, degree=3)
    np.testing.assert_allclose(np.polynomial.legendre.legvander(np.linspace(-1, 1, 120), 3).T @ ours, 0, atol=1e-8)
    np.testing.assert_allclose(theirs.std(axis=0), 1)
    assert matched(run, reference).by_shift[0] < 0.1
    constant = standardized(run[:, :1] * 0 + 3, reference[:, :1] * 0 + 3, times, degree=3)
    assert constant[0].shape == (120, 0)


def test_shifts_leave_every_moment_far_behind():
    times = np.arange(7, 400, 8)
    for shift in shifts_allowed(times, 15):
        moved = np.roll(times, -shift)
        assert (np.abs(moved - times) > 15).all()
    assert len(shifts_allowed(times, 15)) == len(times) - 3
    assert not len(shifts_allowed(np.arange(20), 15))


def test_what_comes_later_changes_nothing_before():
    model, run, other = forecaster(recall=None), Run("1", n_time_points=120), Run("1", n_time_points=120)
    other.series = other.series.clone()
    other.series[100:] += 1
    one, two = (trace_run(model, each) for each in (run, other))
    for kind in ("time_point", "encoded", "memory"):
        np.testing.assert_array_equal(getattr(one, kind)[:100], getattr(two, kind)[:100])
        assert (getattr(one, kind)[100] != getattr(two, kind)[100]).any()
    before = one.state_time_points < 100
    np.testing.assert_array_equal(one.state[before], two.state[before])
    assert (one.state[~before][1:] != two.state[~before][1:]).any(axis=1).all()


@pytest.mark.parametrize("recall", [None, RecallConfig(n_components=4)])
def test_a_trace_says_what_streaming_the_model_says(recall):
    model, run = forecaster(recall=recall), Run("1", n_time_points=83)
    trace = trace_run(model, run, count_from=5)
    assert trace.state_time_points.tolist() == [*range(4, 83, 8), 82]
    with torch.inference_mode():
        _, seen, _ = model.observe(run.series[None], model.init_state().observation)
        held, _ = model.features(seen, model.init_memory(1))
    np.testing.assert_allclose(trace.memory, held[0], atol=1e-4)
    assert len(trace.time_point) == len(trace.encoded) == 83
    late = trace_run(model, run, count_from=5, first_time_point=21)
    assert late.state_time_points.tolist() == [28, *range(36, 83, 8), 82] and len(late.time_point) == 62
    narrow = trace_run(model, run, width=8)
    assert narrow.time_point.shape[1] == narrow.encoded.shape[1] == narrow.memory.shape[1] == 8


def test_a_sketch_keeps_inner_products():
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 20_000)).astype(np.float32))
    values[20:] += values[:20]
    sketched = count_sketch(values, *drawn(20_000, 512), 512)
    true, kept = (torch.corrcoef(each) for each in (values, sketched))
    assert (true - kept).abs().max() < 0.2 and (true - kept).square().mean().sqrt() < 0.05


def test_the_reference_leaves_the_subject_out():
    """Held-out stimuli: others are the other test subjects, whose sum is made once."""
    tests = [*runs_of(range(3)), *runs_of((0,), n_time_points=100)]
    tests[3].key += "_again"
    traces = StimulusTraces(fold_of(tests, runs_of(range(3), stimulus="another")), every_time_points=8, width=64)
    own = traces.own(tests[0])
    found = traces.reference(tests[0], own)
    for kind, values in found.items():
        expected = np.mean([traces.own(run)[kind] for run in tests[1:3]], axis=0)
        np.testing.assert_allclose(values, expected, atol=1e-6)


def test_films_are_aligned_where_they_begin():
    tests, others = (
        runs_of(range(3), stimulus_start=5),
        [*runs_of((4, 5), stimulus_start=12), *runs_of((6,), n_time_points=100)],
    )
    scores = asked(fold_of(tests, others)).tables["scores"]
    assert value(scores, "accuracy", "time_point").value > 0.8
    assert value(scores, "accuracy, one time point in 8", "state").value > 0.4


def test_several_films_and_folds():
    stimuli = [run for stimulus in ("one", "longer") for run in runs_of(range(4), stimulus=stimulus)]
    folds = [
        fold_of(
            [run for run in stimuli if int(run.subject) % 2 == part], [r for r in stimuli if int(r.subject) % 2 != part]
        )
        for part in (0, 1)
    ]
    row = value(asked(*folds).tables["scores"], "accuracy", "time_point")
    assert row.n_subjects == 4 and row.p == pytest.approx(1 / 201) and row.value > 0.8


def test_what_cannot_be_asked_is_said():
    alone = asked(fold_of(runs_of((0,)), runs_of((1,), stimulus="another")))
    assert len(alone.tables["scores"]) == 1 and alone.tables["scores"].value.isna().all()
    assert (
        "no run of another subject" in alone.sentence and "no run of another subject" in alone.metadata["NotAsked"][0]
    )
    short = asked(fold_of(runs_of((0,), n_time_points=20), runs_of((1,), n_time_points=14)))
    assert short.tables["scores"].value.isna().all()
    ended = asked(fold_of(runs_of((0,), n_time_points=20, stimulus_start=30), runs_of((1,))))
    assert "ends before the stimulus" in ended.sentence
    one = asked(fold_of(runs_of((0,)), runs_of((1,)))).tables["scores"]
    assert value(one, "accuracy", "time_point").n_subjects == 1 and np.isnan(value(one, "accuracy", "time_point").low)
    middling = asked(fold_of(runs_of((0,), n_time_points=38), runs_of((1,), n_time_points=38)))
    assert any("40 time points late" in said for said in middling.metadata["NotAsked"])
    assert "state" in middling.sentence or "memory" in middling.sentence


def test_a_model_without_test_time_memory_has_no_state():
    model = forecaster(backbone=GRUConfig(dim=16, tokens_per_time_point=1))
    found = asked(fold_of(runs_of(range(3)), runs_of(range(3, 6)), model))
    assert "no state" in found.metadata["NotAsked"][0] and "state" not in set(found.tables["scores"].condition)
    assert value(found.tables["scores"], "accuracy", "memory").n_subjects == 3
    assert "lags" not in found.tables
