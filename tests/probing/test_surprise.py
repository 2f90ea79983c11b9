"""Surprise must be the memory's gradient, boundaries must be those that were planted, and chance must stay chance."""

import dataclasses

import numpy as np
import pytest
import torch
from brainiak.eventseg.event import EventSegment
from recall_runs import N_FEATURES, small_forecaster
from recall_runs import RECALL as RECALL_SIZE
from scipy.stats import binomtest
from stimulus_runs import ar1_noise

from titan_neuro.errors import MismatchError
from titan_neuro.forecaster import ForecasterConfig
from titan_neuro.forecaster.decoders import LowRankConfig
from titan_neuro.forecaster.recall.recall import RecallConfig
from titan_neuro.forecaster.tokenizers import ParcelTokenizerConfig
from titan_neuro.probing import ProbeContext, ProbedFold, SurpriseConfig, SurpriseProbe, make_probe, untrained_like
from titan_neuro.probing.config import ProbeConfig
from titan_neuro.probing.surprise import ANNOTATED, OTHERS
from titan_neuro.probing.tools.boundaries import (
    MarkedRun,
    average_time_points,
    boundary_contrast,
    events_within,
    find_events,
)
from titan_neuro.probing.tools.recording import (
    BACKBONE,
    GLOBAL,
    MEASURES,
    PREDICTION,
    RECALL,
    TIME_POINT,
    block_time_points,
    prediction_pair,
    trace_time_points,
    watch,
)
from titan_neuro.probing.tools.results import SCORES
from titan_neuro.runs import InMemoryRun
from titan_neuro.titans.layers import NeuralMemoryConfig
from titan_neuro.titans.models import GRUConfig, MACConfig

N_TIME_POINTS, EVENT = 240, 24
SIZE = {"tokens_per_time_point": 1, "dim": 8, "n_layers": 1}
# Models with long chunks are fed long blocks: fewer steps for the tests.
LONG_CHUNKS = dataclasses.replace(RECALL_SIZE, chunk_time_points=40)
STARTS = np.array([20, 47, 66, 95, 120, 141, 170, 190, 216])


def stimulus_of(seed=0, starts=STARTS):
    """A pattern that stays from one start to the next, and then is another."""
    patterns = np.random.default_rng([7, seed]).normal(size=(len(starts) + 1, N_FEATURES))
    return patterns[np.searchsorted(starts, np.arange(N_TIME_POINTS), side="right")]


def viewer(subject, *, seed=0, lead=0, stimulus="task-movie", noise=0.5, series=None, scored_from=8):
    """A subject who sees the stimulus from time point `lead` on."""
    rng = np.random.default_rng([subject, seed])
    shown = stimulus_of(seed) if series is None else series
    shown = np.concatenate([np.zeros((lead, N_FEATURES)), shown])
    series = shown + noise * rng.normal(size=shown.shape)
    scored = np.arange(len(series)) >= lead + scored_from
    key = f"sub-{subject:02}_{stimulus}"
    return InMemoryRun(
        torch.tensor(series, dtype=torch.float32), scored, key, f"{subject:02}", stimulus, stimulus_start=lead
    )


def metadata(**other):
    given = {"repetition_time": 1.0, "horizons": (1, 3), "n_features": N_FEATURES, "n_permutations": 500, **other}
    return ProbeContext(n_resamples=500, seed=0, **given)


def fold(model, tests, others):
    return ProbedFold(model=model, untrained=untrained_like(model, seed=0), tests=tests, others=others)


def asked(tests, others, *, model=None, config=None, **other):
    probe = SurpriseProbe(config or SurpriseConfig(event_s=EVENT, window_s=1), metadata(**other))
    asked_fold = fold(model or persistent(), tests, others)
    for run in tests:
        probe.add(asked_fold, run)
    return probe.results()


def persistent(*, recall=LONG_CHUNKS, horizons=(1, 3), backbone=None):
    """A forecaster that says the next time points are as this one; its memories read, and were never trained."""
    torch.manual_seed(0)
    config = ForecasterConfig(
        tokenizer=ParcelTokenizerConfig(n_tokens=1),
        backbone=backbone
        or MACConfig(**SIZE, n_heads=2, segment_time_points=40, memory=NeuralMemoryConfig(chunk_time_points=40)),
        recall=recall,
        horizons=horizons,
        decoder=LowRankConfig(rank=4),
    )
    model = config.build(n_features=N_FEATURES).eval()
    with torch.no_grad():
        model.linear_skip.coefficients[:, 0] = 1
        if model.recall is not None:
            model.recall.basis.copy_(torch.eye(N_FEATURES))
            model.recall.innovation_directions.copy_(torch.eye(N_FEATURES)[: model.recall.sizes.n_components])
            model.recall.autoregression.directions.copy_(torch.eye(N_FEATURES)[: model.recall.sizes.n_components])
            keys = model.recall.memory.key_map
            keys.copy_(torch.randn(keys.shape) / keys.shape[-1] ** 0.5)
    return model


def rows(found, condition, measure=None):
    table = found.tables["scores"]
    table = table[table.condition.str.startswith(condition)]
    return table if measure is None else table[table.measure == measure]


@pytest.mark.parametrize("n_heads, depth", [(1, 1), (2, 2)])
def test_the_surprise_of_a_layer_is_what_it_writes(n_heads, depth):
    torch.manual_seed(0)
    config = NeuralMemoryConfig(n_heads=n_heads, depth=depth, chunk_time_points=4, max_delta_norm=None)
    memory = config.build(dim=8, tokens_per_time_point=1)
    before = memory.init_state(3)
    x = torch.randn(3, 1, 8)
    _, after = memory(x, before)
    _, _, theta = memory.gate_values(x)
    # The first token's momentum is its gradient, times the step.
    norms = [(part.flatten(2).norm(dim=2) / theta[..., 0]).square().sum(1) for part in after.memory.momentum]
    torch.testing.assert_close(memory.surprise(x, before)[:, 0], sum(norms).sqrt())
    with pytest.raises(MismatchError, match="up to the end of the chunk"):
        memory.surprise(torch.randn(3, 4, 8), after)


def test_the_surprise_of_the_recall_is_the_error_of_its_forecasts():
    memory = persistent().recall.memory
    torch.manual_seed(1)
    features, errors = torch.randn(1, 8, 2, memory.key_map.shape[-1]), torch.randn(1, 8, 2, N_FEATURES)
    context = torch.randn(1, 8, 8)
    surprise = memory.surprise(features, errors, context, memory.init_state(1))
    # An empty memory forecasts 0; the keys are the queries of one time point ago and of three.
    queries, _, _ = memory._queries_and_keys(features, context, memory.init_state(1).pending)
    expected = sum(
        (4 * errors[0, 4, k].square().sum() * queries[0, 4 - h, k].square().sum()) for k, h in enumerate((1, 3))
    )
    torch.testing.assert_close(surprise[0, 4], expected.sqrt())
    assert surprise[0, 0] == 0, "nothing was forecast of the first time point"
    with pytest.raises(MismatchError, match="up to the end of the chunk"):
        memory.surprise(*(torch.cat([part] * 6, dim=1) for part in (features, errors, context)), memory.init_state(1))


def test_watching_is_the_same_in_other_blocks(monkeypatch):
    model, run = persistent(), viewer(1)
    at_once = watch(model, run)
    assert block_time_points(model) == 40
    monkeypatch.setattr("titan_neuro.probing.tools.recording.block_time_points", lambda _: 5)
    in_parts = watch(model, run)
    for name in MEASURES:
        np.testing.assert_allclose(at_once[name], in_parts[name], rtol=2e-3, atol=1e-4, err_msg=name)
        assert at_once[name].shape == (N_TIME_POINTS,)
    assert not model.recall.memory._forward_pre_hooks, "the model is left as it was"


def test_the_change_of_the_prediction_compares_two_forecasts_of_one_frame():
    assert prediction_pair((1, 2, 3, 6, 10)) == (0, 1, 1)
    assert prediction_pair((1, 4, 6)) == (1, 2, 2)
    assert prediction_pair((5,)) == (0, 0, 1)
    model, run = persistent(), viewer(1)
    forecasts, _ = model.step(run.series, model.init_state())
    expected = (forecasts[2:, 0] - forecasts[:-2, 1]).square().mean(1).sqrt()
    found = watch(model, run)[PREDICTION]
    assert np.isnan(found[:2]).all()
    np.testing.assert_allclose(found[2:], expected, rtol=1e-3, atol=1e-5)


def test_frames_change_by_what_numpy_says():
    run = viewer(1)
    found, series = trace_time_points(run), run.series.numpy().astype(float)
    np.testing.assert_allclose(found[TIME_POINT][1:], np.sqrt((np.diff(series, axis=0) ** 2).mean(1)), rtol=1e-5)
    np.testing.assert_allclose(found[GLOBAL][1:], np.abs(np.diff(series.mean(1))), rtol=1e-3, atol=1e-6)


def test_planted_events_are_found_as_brainiak_finds_them():
    others = [viewer(subject, lead=5 * subject) for subject in range(3)]
    average, places = average_time_points(others, None)
    # Time points that half of the viewers at least have scored, counted from the stimulus's beginning.
    assert places[0] == 8 and places[-1] == N_TIME_POINTS - 1
    found = places[find_events(average, n_events=len(STARTS) + 1, n_components=50)]
    np.testing.assert_array_equal(found, STARTS)
    expected = EventSegment(len(STARTS) + 1).fit(average).segments_[0].argmax(axis=1)
    np.testing.assert_array_equal(found, places[np.flatnonzero(np.diff(expected)) + 1])


def test_many_features_are_mixed():
    others = [viewer(1, noise=0.1)]
    series = others[0].series.numpy() @ np.random.default_rng(0).normal(size=(N_FEATURES, 30 * N_FEATURES))
    others[0].series, others[0].n_features = torch.tensor(series, dtype=torch.float32), series.shape[1]
    average, places = average_time_points(others, None)
    assert average.shape[1] == 512
    np.testing.assert_array_equal(places[find_events(average, n_events=10, n_components=50)], STARTS)


def test_the_number_of_events_follows_a_rule():
    assert events_within(300, 30) == 10
    assert events_within(12, 1) == 4
    assert events_within(40, 30) == events_within(5, 1) == 0


def marked(values, starts, subject="01", stimulus="a", usable=None):
    usable = np.ones(len(values), bool) if usable is None else usable
    return MarkedRun(
        key=f"sub-{subject}_{stimulus}",
        subject=subject,
        stimulus=stimulus,
        values=np.asarray(values, float).reshape(len(values), -1),
        usable=usable,
        boundaries={OTHERS: np.asarray(starts)},
    )


def near(n_time_points, starts, width):
    return np.array([np.abs(np.asarray(starts) - time_point).min() <= width for time_point in range(n_time_points)])


def test_the_statistic_and_its_shifts_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    usable = rng.random(80) > 0.2
    usable[[0, -1]] = True
    run = marked(rng.normal(size=(80, 2)), [11, 13, 40, 78], usable=usable)
    observed, by_chance = boundary_contrast([run], OTHERS, "shifts", half_width=2, n_permutations=100, seed=0)
    values = run.values[usable]
    values = (values - values.mean(0)) / values.std(0)
    mask = near(80, [11, 13, 40, 78], 2)[usable]
    expected = [
        np.roll(values, -shift, axis=0)[mask].mean(0) - np.roll(values, -shift, axis=0)[~mask].mean(0)
        for shift in range(len(values))
    ]
    np.testing.assert_allclose(observed[0], expected[0], atol=1e-12)
    np.testing.assert_allclose(by_chance, expected[1:], atol=1e-12)


def test_shuffled_lengths_keep_the_lengths(monkeypatch):
    rng = np.random.default_rng(0)
    run = marked(rng.normal(size=(60, 1)), [3, 20, 24, 41])
    monkeypatch.setattr("titan_neuro.probing.tools.boundaries._PERMUTATIONS_AT_A_TIME", 7)
    observed, by_chance = boundary_contrast([run], OTHERS, "lengths", half_width=2, n_permutations=400, seed=0)
    scaled = run.scaled()[:, 0]

    def contrast(starts):
        mask = near(60, starts, 2)
        return scaled[mask].mean() - scaled[~mask].mean()

    np.testing.assert_allclose(observed[0, 0], contrast([3, 20, 24, 41]))
    orders = [rng.permutation([3, 17, 4, 17, 19]) for _ in range(3000)]
    possible = {round(contrast(np.cumsum(order)[:-1]), 9) for order in orders}
    assert len(by_chance) == 400
    assert {round(value, 9) for value in by_chance[:, 0]} <= possible
    assert len(np.unique(by_chance.round(9))) > 40


def group(rng, n_subjects, *, height=0.0, n_stimuli=1):
    """Subjects whose measures follow an AR(1) that is partly shared, and rise where events begin."""
    runs = []
    for stimulus in range(n_stimuli):
        n_time_points = 200 + 17 * stimulus
        # Lengths that may stand in any order.
        lengths = rng.permutation(rng.integers(8, 40, size=20))
        starts = np.cumsum(lengths)
        starts = starts[starts < n_time_points - 8]
        shared = ar1_noise(rng, n_time_points, 1, 0.8)
        for subject in range(n_subjects):
            values = 0.6 * shared + 0.8 * ar1_noise(rng, n_time_points, 1, 0.8)
            values[starts] += height
            runs.append(marked(values, starts, f"{subject:02}", f"film-{stimulus}"))
    return runs


@pytest.mark.parametrize("null, n_stimuli", [("shifts", 1), ("shifts", 2), ("lengths", 1), ("lengths", 2)])
def test_chance_is_called_a_finding_as_often_as_it_says(null, n_stimuli):
    n_seeds, level, hits = 240, 0.05, 0
    for seed in range(n_seeds):
        runs = group(np.random.default_rng([seed, n_stimuli]), 4, n_stimuli=n_stimuli)
        observed, by_chance = boundary_contrast(runs, OTHERS, null, half_width=2, n_permutations=199, seed=seed)
        hits += (np.sum(by_chance[:, 0] >= observed.mean() - 1e-9) + 1) / (len(by_chance) + 1) <= level
    interval = binomtest(hits, n_seeds).proportion_ci(0.99)
    assert interval.low <= level <= interval.high, f"{hits} of {n_seeds}"


@pytest.mark.parametrize("null", ["shifts", "lengths"])
def test_a_rise_at_boundaries_is_found(null):
    runs = group(np.random.default_rng(1), 4, height=3.0, n_stimuli=2)
    observed, by_chance = boundary_contrast(runs, OTHERS, null, half_width=2, n_permutations=199, seed=0)
    assert observed.shape == (4, 1) and np.mean(by_chance >= observed.mean()) < 0.02


def test_jumps_of_the_film_are_found_by_the_model_and_not_by_a_clock():
    found = asked([viewer(subject, lead=3 * subject) for subject in range(4)], [viewer(9)])
    table = found.tables["scores"]
    assert list(table.columns) == list(SCORES) and not table.is_control[table.measure == RECALL].any()
    assert (table.n_subjects == 4).all()
    for measure in (RECALL, PREDICTION, TIME_POINT):
        assert (rows(found, OTHERS, measure).p < 0.02).all(), measure
        assert (rows(found, OTHERS, measure).low > 0.3).all(), measure
    clock = rows(found, OTHERS, "polynomial of time")
    assert clock.is_control.all() and (clock.p > 0.05).all()
    assert (table.null_low <= table.null).all() and (table.null <= table.null_high).all()
    paired = rows(found, f"{OTHERS}, paired with its control").set_index("measure")
    # Not more than the time points themselves change, which jump there.
    assert not paired.is_control.any() and paired.p[f"{RECALL} less {TIME_POINT}"] > 0.05
    two = table[(table.condition == f"{OTHERS}, circular shifts")].set_index("measure").value
    assert paired.value[f"{RECALL} less {TIME_POINT}"] == pytest.approx(two[RECALL] - two[TIME_POINT])
    for run, part in found.tables["timeseries"].groupby("run"):
        lead = 3 * int(run[4:6])
        np.testing.assert_array_equal(part.time_point[part.boundary == 1], STARTS + lead)
        assert len(part) == N_TIME_POINTS + lead and part.counts.sum() == N_TIME_POINTS - 8
    assert found.metadata["PCorrected"][f"{OTHERS}: {RECALL}"] < 0.05
    assert found.metadata["Subjects"] == ["00", "01", "02", "03"]
    assert "n = 4" in found.sentence and "one-sided" in found.sentence


def test_noise_has_no_surprising_boundaries():
    rng = np.random.default_rng(0)
    noise = [viewer(s, series=ar1_noise(rng, N_TIME_POINTS, N_FEATURES, 0.5)) for s in range(8)]
    found = asked(noise[:4], noise[4:])
    assert min(found.metadata["PCorrected"].values()) > 0.05


def test_annotated_events_are_looked_for_after_a_delay():
    tests = [viewer(subject) for subject in range(3)]
    for run in tests:
        # StimulusAverage, fixation and onsets that are not known are no events; two at once are one.
        run.events = ((0.0, 240.0, "movie"), (5.0, 1.0, "fixation"), (float("nan"), 1.0, "cut"))
        run.events += tuple((start - 4.0, 1.0, kind) for start in STARTS for kind in ("cut", "scene"))
    config = SurpriseConfig(event_s=EVENT, window_s=1, delay_s=4)
    found = asked(tests, [viewer(9)], config=config)
    assert (rows(found, ANNOTATED, RECALL).p < 0.02).all()
    series = found.tables["timeseries"]
    np.testing.assert_array_equal(series.time_point[series.annotated_boundary == 1], np.tile(STARTS, 3))
    missed = asked(tests, [viewer(9)], config=SurpriseConfig(event_s=EVENT, window_s=1, delay_s=9))
    assert (rows(missed, ANNOTATED, RECALL).p > 0.05).all()


def test_moving_frames_and_displacement():
    tests = [viewer(subject) for subject in range(3)]
    for run in tests:
        run.displacement = np.full(N_TIME_POINTS, 0.1)
        run.displacement[STARTS] = 0.4
        run.displacement[0] = np.nan
        run.high_motion[100:110] = True
    found = asked(tests, [viewer(9)])
    assert (rows(found, OTHERS, "framewise displacement").p < 0.05).all()
    series = found.tables["timeseries"]
    assert not series.counts[series.time_point.between(100, 109)].any()


def test_events_come_from_other_subjects_alone():
    own, other = viewer(1), viewer(2)
    shuffled = viewer(1, seed=5, stimulus="task-movie")
    # The subject's own run of the stimulus is never used, be it among the others.
    found = asked([own], [shuffled, other]).tables["timeseries"]
    np.testing.assert_array_equal(found.time_point[found.boundary == 1], STARTS)
    # Where nobody else of the training saw it, other held-out subjects did.
    found = asked([own, other], [viewer(3, stimulus="task-else")]).tables["timeseries"]
    np.testing.assert_array_equal(found.time_point[found.boundary == 1], np.tile(STARTS, 2))


def test_parts_of_a_film_and_subjects_who_missed_one():
    parts = [("task-a", 0), ("task-b", 1)]
    tests = [viewer(s, stimulus=name, seed=seed) for s in range(3) for name, seed in parts][:-1]
    others = [viewer(9, stimulus=name, seed=seed) for name, seed in parts]
    found = asked(tests, others)
    assert (rows(found, OTHERS, RECALL).n_subjects == 3).all() and (rows(found, OTHERS, RECALL).p < 0.02).all()


def test_one_subject_has_a_value_and_no_interval():
    found = asked([viewer(1)], [viewer(2)])
    row = rows(found, OTHERS, RECALL).iloc[0]
    assert row.n_subjects == 1 and np.isfinite([row.value, row.p]).all() and np.isnan(row.low)
    assert any("framewise displacement" in sentence for sentence in found.metadata["NotAsked"])


def test_models_without_memories_are_asked_about_their_predictions():
    model = persistent(recall=None, horizons=(1,), backbone=GRUConfig(**SIZE))
    tests = [viewer(1), viewer(3)]
    probe = SurpriseProbe(SurpriseConfig(event_s=EVENT, window_s=1), metadata(horizons=(1,)))
    both = ProbedFold(model=model, untrained=model, tests=tests, others=[viewer(2)])
    for run in tests:
        probe.add(both, run)
    found = probe.results()
    assert block_time_points(model) == 64
    assert (rows(found, OTHERS, PREDICTION).p < 0.05).all()
    assert not set(found.tables["scores"].measure) & {RECALL, BACKBONE}
    assert any(BACKBONE in sentence for sentence in found.metadata["NotAsked"])


def alone():
    return [viewer(1)], [viewer(1, stimulus="task-else"), viewer(2, stimulus="task-else")]


def unscored():
    run = viewer(1)
    run.scored[:] = False
    return [run], [viewer(2)]


def brief():
    runs = [viewer(subject, series=stimulus_of()[:10], scored_from=2) for subject in (1, 2)]
    return runs[:1], runs[1:]


@pytest.mark.parametrize("runs, why", [(alone, "no other subject"), (unscored, "no time point"), (brief, "No run has")])
def test_what_cannot_be_asked_is_said(runs, why):
    found = asked(*runs())
    table = found.tables["scores"]
    assert list(table.columns) == list(SCORES) and len(table) == 1 and np.isnan(table.value[0])
    assert why in " ".join(found.metadata["NotAsked"]) and why in found.sentence


def test_no_runs_at_all():
    found = SurpriseProbe(SurpriseConfig(), metadata()).results()
    assert len(found.tables["scores"]) == 1 and "could not be asked" in found.sentence


def test_it_is_made_by_its_name():
    config = ProbeConfig(surprise=SurpriseConfig(event_s=12))
    assert make_probe("surprise", config, metadata()).config.event_s == 12


def test_a_recall_of_other_chunks_is_streamed_in_blocks_that_fit_both():
    recall = RecallConfig(width=8, n_components=4, key_lags=2, key_components=2, group_width=4, chunk_time_points=12)
    model = small_forecaster(recall=recall).eval()
    assert block_time_points(model) == 4
    assert np.isfinite(watch(model, viewer(1))[BACKBONE]).all()
