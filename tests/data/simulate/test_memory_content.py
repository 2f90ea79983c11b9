"""Associations and delayed responses: a predictor with a memory of the same subject gains from them, others do not."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from titan_neuro.data.simulate import SimulateConfig
from titan_neuro.data.simulate.anatomy import assign_regions
from titan_neuro.data.simulate.config import run_designs
from titan_neuro.data.simulate.memory_content import MemoryContent
from titan_neuro.data.simulate.signal import latents_at_volumes, simulate_run, stimulus_latents
from titan_neuro.errors import ConfigError

LAG, ORDER = 10, 8
ASSOCIATIONS = SimulateConfig(
    n_subjects=10, n_runs=2, volume_scale=1, stimulus_fraction=0.4, association_fraction=0.3, association_lag_s=LAG
)
DELAYED_RESPONSES = SimulateConfig(
    n_subjects=8,
    n_runs=2,
    volume_scale=1,
    stimulus_fraction=0.4,
    delayed_response_fraction=0.3,
    delayed_response_lags_s=(30, 120, 300),
)


def make_content(config: SimulateConfig) -> MemoryContent:
    """Memory content of 600 voxels in a box."""
    coordinates = np.random.default_rng(0).uniform([-60, -100, -60], [60, 60, 70], (600, 3))
    return MemoryContent(config=config, regions=assign_regions(coordinates, config), coordinates_mm=coordinates)


@cache
def recorded(config: SimulateConfig, subject: int, run: int, *, with_content: bool) -> np.ndarray:
    """Standardized volumes of a run's movie, ``(seconds, voxels)``."""
    content, design = make_content(config), run_designs(config)[run]
    stimulus = latents_at_volumes(stimulus_latents(config), design)
    volumes = simulate_run(
        *(config, subject, design),
        stimulus=stimulus,
        regions=content.regions,
        baseline=np.full(600, 1000.0),
        planted=[content] if with_content else [],
    )
    stimulated = np.array(list(volumes), dtype=float)[design.fixation : design.fixation + design.stimulus]
    return (stimulated - stimulated.mean(0)) / stimulated.std(0)


def autoregression(volumes: list[np.ndarray], horizon: int) -> np.ndarray:
    """Weights of a linear AR per voxel, ``(voxels, ORDER)``, for the volume `horizon` ahead."""
    past = np.concatenate([lagged(run)[: len(run) - ORDER - horizon + 1] for run in volumes])
    future = np.concatenate([run[ORDER - 1 + horizon :] for run in volumes])
    return np.stack([np.linalg.lstsq(past[:, v], future[:, v], rcond=None)[0] for v in range(future.shape[1])])


def lagged(volumes: np.ndarray) -> np.ndarray:
    """The volume and the ``ORDER - 1`` before it, ``(seconds - ORDER + 1, voxels, ORDER)``."""
    return np.stack([volumes[ORDER - 1 - k : len(volumes) - k] for k in range(ORDER)], axis=-1)


# ---- associations --------------------------------------------------------------------------------


@cache
def residuals_at_responses(*, with_content: bool) -> tuple[list[list[tuple[int, np.ndarray]]], float]:
    """For each subject (cue, AR's residual at the response's peak), in order; and AR's r2 at those volumes."""
    content = make_content(ASSOCIATIONS)
    voxels = content.voxel_sets["response"]
    runs = run_designs(ASSOCIATIONS)
    volumes = [[recorded(ASSOCIATIONS, s, r, with_content=with_content)[:, voxels] for r in (0, 1)] for s in range(10)]
    weights = autoregression([run for subject in volumes[:5] for run in subject], LAG)
    squared_error, total, of_subjects = 0.0, 0.0, []
    for subject in range(5, 10):
        events = []
        for run in runs:
            of_run = volumes[subject][run.run - 1]
            forecast = np.einsum("tvk,vk->tv", lagged(of_run), weights)
            for volume, cue, _ in content.cues(subject, run):
                peak = volume - run.fixation + 1 + LAG
                if ORDER + LAG <= peak < run.stimulus:
                    residual = of_run[peak] - forecast[peak - LAG - ORDER + 1]
                    events.append((cue, residual))
                    squared_error, total = squared_error + (residual**2).sum(), total + (of_run[peak] ** 2).sum()
        of_subjects.append(events)
    return of_subjects, 1 - squared_error / total


def gain(of_subjects: list[list[tuple[int, np.ndarray]]], memory: str) -> float:
    """Fraction of AR's squared error removed by adding what followed earlier showings of the same cue."""
    before, after = 0.0, 0.0
    for subject, events in enumerate(of_subjects):
        earlier: dict[int, list[np.ndarray]] = {}
        if memory == "of other subjects":
            for others in (*of_subjects[:subject], *of_subjects[subject + 1 :]):
                for cue, residual in others:
                    earlier.setdefault(cue, []).append(residual)
        for cue, residual in events:
            if cue in earlier:
                # Shrinkage of a mean of n showings whose signal and noise have equal variance.
                expected = np.mean(earlier[cue], axis=0) * len(earlier[cue]) / (1 + len(earlier[cue]))
                before, after = before + (residual**2).sum(), after + ((residual - expected) ** 2).sum()
            if memory == "of this subject":
                earlier.setdefault(cue, []).append(residual)
    return 1 - after / before


def test_own_earlier_pairs_predict_responses():
    with_pairs, r2 = residuals_at_responses(with_content=True)
    assert gain(with_pairs, "of this subject") > 0.5
    # Ten seconds ahead, autoregression predicts only the slowest latents of the movie, and no response.
    assert r2 < 0.06


def test_pairs_of_others_do_not_predict_responses():
    with_pairs, _ = residuals_at_responses(with_content=True)
    assert gain(with_pairs, "of other subjects") < 0.05
    without, _ = residuals_at_responses(with_content=False)
    assert gain(without, "of this subject") < 0.02


def test_pairings_differ_and_patterns_sum_to_zero():
    config = replace(ASSOCIATIONS, n_subjects=25)
    content = make_content(config)
    pairings = np.array([content.pairing(subject) for subject in range(25)])
    np.testing.assert_array_equal(np.sort(pairings, axis=1), np.tile(np.arange(8), (25, 1)))
    assert len(np.unique(pairings, axis=0)) == 25
    for name in ("cue", "response"):
        patterns = content.patterns_by_set()[name]
        voxels = content.voxel_sets[name]
        np.testing.assert_allclose(patterns.sum(0), 0, atol=1e-12)
        np.testing.assert_allclose((patterns[:, voxels] ** 2).mean(0), 1)
        assert (patterns[:, ~voxels] == 0).all()
    assert not (content.voxel_sets["cue"] & content.voxel_sets["response"]).any()


def test_cues_do_not_predict_cues():
    config = replace(ASSOCIATIONS, n_subjects=25, n_runs=5)
    content = make_content(config)
    soon, late, repeats, n = [], [], 0, 0
    for subject in range(25):
        for run in run_designs(config):
            cues = content.cues(subject, run)
            gaps = np.diff([volume for volume, _, _ in cues])
            # Hazard rates: the fraction of intervals of at least that length that end in the next second.
            soon += [gap == 1 for gap in gaps]
            late += [gap == 21 for gap in gaps if gap > 20]
            which = np.array([cue for _, cue, _ in cues])
            repeats, n = repeats + (which[1:] == which[:-1]).sum(), n + len(which) - 1
    for hits, count, expected in ((sum(soon), len(soon), 0.1), (sum(late), len(late), 0.1), (repeats, n, 1 / 8)):
        assert abs(hits / count - expected) < 4 * np.sqrt(expected * (1 - expected) / count)


CHARACTERS = replace(
    ASSOCIATIONS,
    stimulus_fraction=0.1,
    spontaneous_fraction=0.05,
    drift_fraction=0,
    cue_source="story",
    n_associations=4,
    association_lag_s=4,
    story_fraction=0.1,
)


def responses_explained(by_characters_of: str) -> float:
    """Fraction of variance in the second half that mean responses to each character in the first half explain."""
    content, run = make_content(CHARACTERS), run_designs(CHARACTERS)[0]
    voxels, half = content.voxel_sets["response"], run.stimulus // 2
    shown = np.full(run.stimulus + 60, -1)
    for volume, character, n_volumes in content.cues(0, run):
        second = volume - run.fixation + CHARACTERS.association_lag_s
        shown[second : second + n_volumes] = character
    shown = shown[: run.stimulus]
    recordings = [recorded(CHARACTERS, subject, 0, with_content=True)[:, voxels] for subject in range(4)]
    explained = []
    for subject, recording in enumerate(recordings):
        others = np.mean([each for index, each in enumerate(recordings) if index != subject], axis=0)
        seen = recording if by_characters_of == "this subject" else others
        means = np.stack([seen[:half][shown[:half] == character].mean(axis=0) for character in range(4)])
        expected = means[shown[half:]] * (shown[half:] >= 0)[:, None]
        explained.append(1 - ((recording[half:] - expected) ** 2).sum() / (recording[half:] ** 2).sum())
    return float(np.mean(explained))


def test_a_person_responds_to_a_character_as_before():
    assert responses_explained("this subject") > 0.2
    assert responses_explained("others") < 0.05


def test_characters_return_after_others_for_all_subjects_alike():
    content = make_content(CHARACTERS)
    for run in run_designs(CHARACTERS):
        one, other = content.cues(0, run), content.cues(7, run)
        assert one == other and len(one) > 20
        which = [cue.cue for cue in one]
        assert set(which) == set(range(4)) and all(here != there for here, there in itertools.pairwise(which))
        # One after the other, from the first volume of the movie to its last.
        assert one[0].volume == run.fixation and one[-1].volume + one[-1].n_volumes == run.fixation + run.stimulus
        assert all(here.volume + here.n_volumes == there.volume for here, there in itertools.pairwise(one))


def test_characters_and_engagement_need_a_story():
    with pytest.raises(ConfigError, match="cue_source=story needs a story"):
        replace(ASSOCIATIONS, cue_source="story")
    with pytest.raises(ConfigError, match="engagement needs a story"):
        SimulateConfig(engagement=1.0)


@pytest.mark.parametrize(
    "config",
    [ASSOCIATIONS, DELAYED_RESPONSES, CHARACTERS],
    ids=["associations", "delayed_responses", "characters"],
)
def test_variance_fraction_is_as_configured(config):
    content = make_content(replace(config, association_lag_s=1))
    power, n = np.zeros(600), 0
    for subject in range(config.n_subjects):
        for run in run_designs(config):
            signal = content.time_courses(subject, run) @ content.patterns
            assert (signal[: run.fixation] == 0).all()
            assert (signal[run.fixation + run.stimulus :] == 0).all()
            power, n = power + (signal**2).sum(0), n + run.stimulus
    for voxels in content.voxel_sets.values():
        assert (power / n)[voxels].mean() == pytest.approx(0.3, rel=0.1)
    np.testing.assert_allclose(content.variance_fraction, 0.3 * np.any(list(content.voxel_sets.values()), axis=0))


# ---- delayed responses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "lag"), [("delayed-1", 30), ("delayed-2", 120), ("delayed-3", 300)])
def test_delayed_responses_are_predictable_at_their_lag_alone(name, lag):
    """A linear map from the sources to the delayed response, fitted on seven subjects, predicts the eighth."""
    content = make_content(DELAYED_RESPONSES)
    source, delayed = content.voxel_sets["source"], content.voxel_sets[name]

    def r2(shift: int, *, with_content: bool = True) -> float:
        volumes = [[recorded(DELAYED_RESPONSES, s, r, with_content=with_content) for r in (0, 1)] for s in range(8)]
        pairs = [[(run[: len(run) - shift, source], run[shift:, delayed]) for run in subject] for subject in volumes]
        x = np.concatenate([x for subject in pairs[:7] for x, _ in subject])
        y = np.concatenate([y for subject in pairs[:7] for _, y in subject])
        weights = np.linalg.solve(x.T @ x + 1000 * np.eye(x.shape[1]), x.T @ y)
        x, y = (np.concatenate(side) for side in zip(*pairs[7], strict=True))
        return float(1 - ((y - x @ weights) ** 2).sum() / (y**2).sum())

    assert r2(lag) > 0.2
    assert r2(lag, with_content=False) < 0.01
    # Both halves also follow the movie, so there is some prediction at any shift: no more than without content.
    for shift in (lag - 5, lag + 5, 10):
        assert r2(shift) < r2(shift, with_content=False) + 0.04


def test_sources_are_white_and_independent_between_runs():
    content = make_content(DELAYED_RESPONSES)
    first, second = run_designs(DELAYED_RESPONSES)
    places = ((0, first), (1, first), (0, second))
    strengths = [content.source_strengths(subject, run) for subject, run in places]
    length = min(map(len, strengths))
    for one in range(3):
        x = strengths[one]
        assert abs((x[1:] * x[:-1]).mean()) < 4 / np.sqrt(x.size)
        for other in range(one):
            assert abs((x[:length] * strengths[other][:length]).mean()) < 4 / np.sqrt(length * x.shape[1])


# ---- settings ------------------------------------------------------------------------------------


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"or delayed_response_fraction; found 1\.1"):
        SimulateConfig(association_fraction=0.3)
    # They concern different voxels, so their sum may exceed what the movie leaves.
    assert SimulateConfig(association_fraction=0.2, delayed_response_fraction=0.2).thermal_fraction == 0.2
    with pytest.raises(ConfigError, match="delayed_response_lags_s: no run shows 300 s of movie"):
        SimulateConfig(delayed_response_fraction=0.2, delayed_response_lags_s=(30, 300))
    with pytest.raises(ConfigError, match="association_lag_s: no run shows 250 s"):
        SimulateConfig(association_fraction=0.2, association_lag_s=250)
