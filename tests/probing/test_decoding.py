"""The probe must find labels that history alone gives, and nothing in noise; its scores are scikit-learn's."""

import json

import numpy as np
import pytest
import torch
from delay_memory import Delay
from scipy.stats import binom, pearsonr
from sklearn.metrics import balanced_accuracy_score

from titan_neuro.errors import InputNotFoundError, MetadataError
from titan_neuro.forecaster import ForecasterConfig
from titan_neuro.forecaster.decoders import LowRankConfig
from titan_neuro.forecaster.tokenizers import ParcelTokenizerConfig
from titan_neuro.metrics import p_of_null
from titan_neuro.probing import DecodingConfig, DecodingProbe, ProbeContext, ProbedFold
from titan_neuro.probing.tools.annotations import Annotation, label_time_points, read_annotations
from titan_neuro.probing.tools.linear_decoder import (
    draw_shifts,
    fit_decoder,
    fit_reduction,
    narrowed,
    shifted_scores,
)
from titan_neuro.probing.tools.results import SCORES
from titan_neuro.titans.models import MACConfig

REACH, N_FEATURES = 12, 6


class Run:
    """What is shown at a time point, one of two things, stands in its first feature; the label says it REACH time
    points late.
    """

    n_features, stimulus_start = N_FEATURES, 0

    def __init__(self, subject, *, stimulus=0, own_stimulus=False, n_time_points=160, run="01", labels=True):
        self.key, self.subject, self.n_time_points = f"sub-{subject}_task-x_run-{run}", subject, n_time_points
        self.stimulus = f"film-{subject}-{run}" if own_stimulus else f"film-{stimulus}"
        shown = np.random.default_rng([stimulus, int(subject) if own_stimulus else 0, int(run)]).choice(
            (-1, 1), size=n_time_points
        )
        series = np.random.default_rng([7, stimulus, int(subject), int(run)]).normal(size=(n_time_points, N_FEATURES))
        series[:, 0] += 3 * shown
        self.series = torch.from_numpy(series.astype(np.float32))
        self.scored, self.high_motion = np.ones(n_time_points, dtype=bool), np.zeros(n_time_points, dtype=bool)
        self.high_motion[50:53] = True
        kinds = ["face" if sign > 0 else "house" for sign in shown[: n_time_points - REACH]]
        self.events = ((0.0, float(n_time_points), "movie"), *((t + REACH, 1.0, kind) for t, kind in enumerate(kinds)))
        if not labels:
            self.events = self.events[:1]

    def read(self, start, stop):
        return self.series[start:stop]


def forecaster():
    torch.manual_seed(0)
    return ForecasterConfig(
        tokenizer=ParcelTokenizerConfig(n_tokens=1),
        backbone=MACConfig(dim=16, n_layers=1, n_heads=2, tokens_per_time_point=1, segment_time_points=8),
        recall=None,
        horizons=(1, 2),
        decoder=LowRankConfig(rank=4),
    ).build(n_features=N_FEATURES)


def delay_model():
    model = forecaster()
    model.tokenizer = torch.nn.Module()
    model.tokenizer.forward = lambda series: series[:, :, None]
    model.backbone = Delay(REACH, N_FEATURES)
    return model


def probe(n_permutations=500, repetition_time=1.0, **config):
    metadata = ProbeContext(
        repetition_time=repetition_time,
        horizons=(1, 2),
        n_features=N_FEATURES,
        n_permutations=n_permutations,
        n_resamples=500,
        seed=0,
    )
    return DecodingProbe(DecodingConfig(**{"delay_s": 0.0, **config}), metadata)


def found(asked, tests, others):
    fold = ProbedFold(model=delay_model(), untrained=forecaster(), tests=tests, others=others)
    for run in tests:
        asked.add(fold, run)
    results = asked.results()
    assert list(results.tables["scores"]) == list(SCORES)
    json.dumps(results.metadata, allow_nan=False)
    return results, results.tables["scores"].set_index("condition")


def test_what_history_alone_gives_is_read_from_the_memory():
    results, scores = found(probe(), [Run(f"0{n}") for n in (1, 2, 3, 4, 5)], [Run(f"0{n}") for n in (6, 7, 8)])
    for condition in ("memory", "memory, other moments"):
        assert scores.value[condition] > 0.95 and scores.p[condition] < 0.01
        assert scores.low[condition] <= scores.value[condition] <= scores.high[condition]
        assert abs(scores.null[condition] - 0.5) < 0.02 and not scores.is_control[condition]
    for condition in (
        "time point alone",
        "time point alone, other moments",
        "encoded",
        "polynomial of time",
        "untrained memory",
    ):
        assert abs(scores.value[condition] - 0.5) < 0.1 and scores.is_control[condition]
    # Five subjects, one-sided: no smaller p is there.
    assert scores.p["memory - time point alone"] == 1 / 2**5
    assert scores.x["memory, other moments"] == 20 and scores.x["memory"] == 0
    assert results.metadata["Classes"] == {"trial_type": 2} and "n = 5" in results.sentence
    assert results.metadata["Subjects"] == ["01", "02", "03", "04", "05"]


def test_the_label_is_what_was_shown_so_long_before():
    # The label comes REACH time points late: of the time point itself, with a delay of minus that, which is as if of
    # another one.
    _, late = found(probe(delay_s=3.0), [Run("01"), Run("02")], [Run("06"), Run("07")])
    assert abs(late.value["memory"] - 0.5) < 0.12


def test_several_runs_of_several_lengths_and_films_of_ones_own():
    tests = [Run("01", own_stimulus=True, run=run, n_time_points=n) for run, n in (("01", 120), ("02", 75))]
    others = [Run("01", own_stimulus=True, run="03"), Run("01", own_stimulus=True, run="04", n_time_points=90)]
    results, scores = found(probe(), tests, others)
    assert scores.value["memory"] > 0.9 and scores.n_subjects["memory"] == 1
    # Nobody else saw it: every moment is another; one subject has no sign that could be flipped.
    assert "memory, other moments" not in scores.index
    assert np.isnan(scores.low["memory"]) and np.isnan(scores.p["memory - time point alone"])
    assert any("one subject" in why for why in results.metadata["NotAsked"])


@pytest.mark.parametrize("labeled", [(False, False), (True, False)])
def test_where_nothing_can_be_asked_a_row_of_nan_and_the_sentence_say_so(labeled):
    tests, others = ([Run(subject, labels=there)] for subject, there in zip(("01", "02"), labeled, strict=True))
    results, scores = found(probe(), tests, others)
    assert len(scores) == 1 and np.isnan(scores.value.iloc[0])
    assert results.sentence.startswith("Nothing was decoded (n = 0): sub-01_task-x_run-01:")
    results, _ = found(probe(), [], [])
    assert results.sentence.startswith("Nothing was decoded (n = 0)")


def test_a_run_of_one_kind_is_left_out_and_says_why():
    one, other = Run("01"), Run("02")
    one.events = ((0.0, 100.0, "face"),)
    results, scores = found(probe(), [one, other], [Run("06")])
    assert scores.n_subjects["memory"] == 1
    assert any("sub-01" in why and "fewer than two kinds" in why for why in results.metadata["NotAsked"])
    only = Run("06")
    only.events = ((0.0, 100.0, "face"),)
    results, scores = found(probe(), [other], [only])
    assert np.isnan(scores.value).all() and "fewer than two kinds" in results.sentence


def test_scores_are_those_of_scikit_learn_and_scipy_at_every_shift():
    rng = np.random.default_rng(0)
    labels = rng.choice(["", "a", "b", "c"], size=61, p=[0.2, 0.5, 0.2, 0.1])
    predicted, usable = rng.choice(["a", "b", "c"], size=61), rng.random(61) < 0.8
    numbers = np.where(labels == "", np.nan, rng.normal(size=61) + 5)
    forecast = rng.normal(size=61)
    accuracy, r = (shifted_scores(*pair, usable) for pair in ((predicted, labels), (forecast, numbers)))
    for shift in range(61):
        moved, there = np.roll(labels, shift), usable & (np.roll(labels, shift) != "")
        np.testing.assert_allclose(accuracy[shift], balanced_accuracy_score(moved[there], predicted[there]))
        np.testing.assert_allclose(r[shift], pearsonr(np.roll(numbers, shift)[there], forecast[there]).statistic)
    assert np.isnan(shifted_scores(np.ones(61), numbers, usable)).all()


def test_shifts_are_all_that_there_are_or_drawn_and_shared_by_those_who_saw_the_same():
    shares = draw_shifts({"stimulus": 7}, n_permutations=100, seed=0)
    np.testing.assert_allclose(shares["stimulus"] * 7, range(1, 7))
    shares = draw_shifts({"one": 4, "two": 5}, n_permutations=19, seed=0)
    pairs = set(zip((shares["one"] * 4).round(), (shares["two"] * 5).round(), strict=True))
    assert len(pairs) == 19 and (0, 0) not in pairs
    drawn = draw_shifts({"one": 400, "two": 500}, n_permutations=1000, seed=0)
    assert len(drawn["one"]) == 1000 and drawn["two"].min() >= 0 and drawn["two"].max() < 1
    assert draw_shifts({"stimulus": 1}, n_permutations=10, seed=0)["stimulus"].size == 0


def slow(rng, n_series, n_time_points, keep=0.9):
    series = rng.normal(size=(n_series, n_time_points + 100))
    for t in range(1, n_time_points + 100):
        series[:, t] += keep * series[:, t - 1]
    return series[:, 100:]


def within_binomial(n_rejected, n_seeds):
    low, high = binom.interval(0.99, n_seeds, 0.05)
    return low <= n_rejected <= high


@pytest.mark.parametrize("categorical", [False, True])
def test_slow_predictions_of_slow_labels_are_not_taken_for_knowledge(categorical):
    rejected, seeds = 0, 400
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        # What subjects have in common is not independent of each other: the group's null must know it.
        series = slow(rng, 6, 400)
        labels, predicted = series[0], series[1] + series[2:]
        if categorical:
            labels, predicted = (np.where(values > 0, "a", "b") for values in (labels, predicted))
        usable = rng.random((4, 400)) < 0.95
        group = np.mean(
            [
                shifted_scores(*pair, labels_ok)
                for *pair, labels_ok in zip(predicted, [labels] * 4, usable, strict=True)
            ],
            axis=0,
        )
        rejected += p_of_null(group[0], group[1:]) <= 0.05
    assert within_binomial(rejected, seeds), rejected


def test_labels_that_have_nothing_to_do_with_a_film_all_saw_are_read_at_the_same_moments_only(monkeypatch):
    """The whole probe, on slow features that all have in common: a moment can be told, the label can't."""
    monkeypatch.setattr(
        DecodingProbe, "_features", lambda _, fold, run: {"memory": (run.slow, np.arange(run.n_time_points))}
    )
    rejected, seeds = np.zeros(2), 200
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        stimulus, labels = slow(rng, 8, 160, 0.8), slow(rng, 1, 160, 0.8)[0]
        asked = probe(n_permutations=200)
        asked._tables = [
            Annotation(name="x", onsets=np.arange(160.0), durations=np.ones(160), values=labels, entities={})
        ]
        runs = [Run(f"0{n}", labels=False) for n in range(5)]
        for run in runs:
            run.slow = (stimulus + rng.normal(size=stimulus.shape)).T
        fold = ProbedFold(model=None, untrained=None, tests=runs[:3], others=runs[3:])
        for run in fold.tests:
            asked.add(fold, run)
        scores = asked.results().tables["scores"].set_index("condition")
        rejected += [scores.p[name] <= 0.05 for name in ("memory", "memory, other moments")]
    # A decoder of other moments errs to below chance, never above it.
    assert rejected[1] <= binom.ppf(0.995, seeds, 0.05), rejected
    assert rejected[0] > 0.2 * seeds, rejected


def test_decoders_and_reductions_keep_what_there_is_and_stand_constant_features():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(size=(90, 4)) * [1, 10, 100, 1000] + 5, np.full((90, 2), 3.0)], axis=1)
    reduced = fit_reduction(features, 10)(features)
    np.testing.assert_allclose(np.square(reduced).mean(), 1)
    numbers = features[:, 0] - features[:, 3] / 1000
    groups = np.repeat(["a", "b", "c"], 30)
    assert pearsonr(fit_decoder(reduced, numbers, groups).predict(reduced), numbers).statistic > 0.99
    kinds = np.where(numbers > np.median(numbers), "a", "b")
    assert fit_decoder(reduced, kinds, np.full(90, "one")).score(reduced, kinds) > 0.9
    assert not fit_reduction(np.ones((5, 3)), 2)(np.ones((4, 3))).any()
    wide = rng.normal(size=(5, 3000))
    np.testing.assert_allclose(narrowed(wide)[2:], narrowed(wide[2:]))
    assert narrowed(wide).shape == (5, 1024)


def write(path, text):
    path.write_text(text.replace(" ", "\t"))
    return path


def test_a_table_is_read_column_by_column_for_the_runs_of_its_name(tmp_path):
    path = write(
        tmp_path / "task-x_run-1_desc-faces_events.tsv",
        "onset duration trial_type size\n0 2 face 1.5\n3 1 n/a n/a\n1 2 house 2\n",
    )
    kinds, sizes = read_annotations([str(path)])
    assert (kinds.name, sizes.name) == ("faces trial_type", "faces size")
    assert kinds.applies_to(Run("01")) and not kinds.applies_to(Run("01", run="02"))
    # From 1 to 2 s there are two things at once, from 3 s on nothing is said.
    assert label_time_points(kinds, np.arange(-1.0, 5)).tolist() == ["", "face", "", "house", "", ""]
    np.testing.assert_array_equal(label_time_points(sizes, np.arange(5.0)), [1.5, np.nan, 2, np.nan, np.nan])
    everywhere = write(tmp_path / "desc-all_events.tsv", "onset duration size\n0 n/a 1\nn/a 2 3\n")
    assert read_annotations([everywhere])[0].applies_to(Run("09", run="07"))
    assert np.isnan(label_time_points(read_annotations([everywhere])[0], np.arange(3.0))).all()


def test_a_number_of_a_table_is_decoded(tmp_path):
    shown = [(onset, 1 if kind == "face" else -1) for onset, _, kind in Run("01").events[1:]]
    path = write(
        tmp_path / "task-x_desc-sign_events.tsv",
        "onset duration sign\n" + "".join(f"{t} 1 {sign}\n" for t, sign in shown),
    )
    runs = [Run(f"0{n}", labels=False) for n in range(1, 7)]
    results, scores = found(probe(tables=(str(path),)), runs[:3], runs[3:])
    assert scores.value["memory, other moments"] > 0.9 and abs(scores.value["time point alone"]) < 0.25
    assert set(scores.measure) == {"sign sign: r", "sign sign: r, difference (Fisher z)"}
    assert "sign sign: r 0.9" in results.sentence


def test_what_has_no_labels_at_the_frames_of_the_state_is_read_from_the_rest(tmp_path):
    table = write(tmp_path / "task-x_run-09_desc-other_events.tsv", "onset duration size\n0 1 1\n")
    tests, others = [Run("01"), Run("02")], [Run("06"), Run("07")]
    for run in others:
        run.events = tuple(event for event in run.events if event[0] % 8 != 7)[1:]
    results, scores = found(probe(tables=(str(table),)), tests, others)
    assert "memory" in scores.index and "state" not in scores.index
    assert any(why.startswith("state: ") for why in results.metadata["NotAsked"])
    assert "other size: says nothing of what was read." in results.metadata["NotAsked"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("duration trial_type\n1 a\n", "expected the columns onset, duration and at least one more, found duration"),
        ("onset duration\n1 1\n", "at least one more"),
        ("onset duration size\n1 1 2\n2 1 big\n", r"line 3, column 'size': expected a number or n/a, found 'big'"),
        ("onset duration size\nsoon 1 2\n", "line 2, column 'onset'"),
        ("onset duration\n1 1 2 3\n1 1 2 3 4\n", "not a readable table"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, text, says):
    path = write(tmp_path / "bad_events.tsv", text)
    with pytest.raises(MetadataError, match=says) as error:
        probe(tables=(str(path),))
    assert str(path) in str(error.value)


def test_a_table_that_is_not_there_is_an_error():
    with pytest.raises(InputNotFoundError, match=r"nowhere\.tsv"):
        probe(tables=("nowhere.tsv",))
