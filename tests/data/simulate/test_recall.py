"""Associations and delayed responses: what a predictor with a memory gains from them, and that nothing else does."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from titan_neuro.data.simulate import SimulateConfig
from titan_neuro.data.simulate.config import screenings
from titan_neuro.data.simulate.recall import Recall
from titan_neuro.data.simulate.signal import assign_regions, run_time_points, screened_latents, stimulus_latents
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


def truth(config: SimulateConfig) -> Recall:
    """What is planted in 600 voxels of a box."""
    coordinates = np.random.default_rng(0).uniform([-60, -100, -60], [60, 60, 70], (600, 3))
    return Recall(config=config, regions=assign_regions(coordinates, 4), coordinates_mm=coordinates)


@cache
def recorded(config: SimulateConfig, subject: int, run: int, *, with_recall: bool) -> np.ndarray:
    """Standardized volumes of a run's movie, ``(seconds, voxels)``."""
    recall, screening = truth(config), screenings(config)[run]
    stimulus = screened_latents(stimulus_latents(config), screening)
    volumes = run_time_points(
        *(config, subject, screening),
        stimulus=stimulus,
        regions=recall.regions,
        baseline=np.full(600, 1000.0),
        recall=recall if with_recall else None,
    )
    shown = np.array(list(volumes), dtype=float)[screening.fixation : screening.fixation + screening.stimulus]
    return (shown - shown.mean(0)) / shown.std(0)


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
def residuals_at_responses(*, with_recall: bool) -> tuple[list[list[tuple[int, np.ndarray]]], float]:
    """For each subject (cue, what AR leaves over at the response's peak), in order; and AR's own r2 at those volumes."""
    recall = truth(ASSOCIATIONS)
    voxels = recall.places["response"]
    runs = screenings(ASSOCIATIONS)
    volumes = [[recorded(ASSOCIATIONS, s, r, with_recall=with_recall)[:, voxels] for r in (0, 1)] for s in range(10)]
    weights = autoregression([run for subject in volumes[:5] for run in subject], LAG)
    left, total, of_subjects = 0.0, 0.0, []
    for subject in range(5, 10):
        events = []
        for run in runs:
            shown = volumes[subject][run.run - 1]
            forecast = np.einsum("tvk,vk->tv", lagged(shown), weights)
            for volume, cue in recall.cues(subject, run):
                peak = volume - run.fixation + 1 + LAG
                if ORDER + LAG <= peak < run.stimulus:
                    residual = shown[peak] - forecast[peak - LAG - ORDER + 1]
                    events.append((cue, residual))
                    left, total = left + (residual**2).sum(), total + (shown[peak] ** 2).sum()
        of_subjects.append(events)
    return of_subjects, 1 - left / total


def gain(of_subjects: list[list[tuple[int, np.ndarray]]], memory: str) -> float:
    """Part of AR's squared error that goes when what followed the cue before is added, from its second showing on."""
    before, after = 0.0, 0.0
    for subject, events in enumerate(of_subjects):
        seen: dict[int, list[np.ndarray]] = {}
        if memory == "of other subjects":
            for others in (*of_subjects[:subject], *of_subjects[subject + 1 :]):
                for cue, residual in others:
                    seen.setdefault(cue, []).append(residual)
        for cue, residual in events:
            if cue in seen:
                # Shrunk as the mean of n noisy showings deserves it, signal and noise being alike.
                expected = np.mean(seen[cue], axis=0) * len(seen[cue]) / (1 + len(seen[cue]))
                before, after = before + (residual**2).sum(), after + ((residual - expected) ** 2).sum()
            if memory == "of this subject":
                seen.setdefault(cue, []).append(residual)
    return 1 - after / before


def test_a_memory_of_the_subjects_own_pairs_foretells_the_responses():
    with_pairs, r2 = residuals_at_responses(with_recall=True)
    assert gain(with_pairs, "of this subject") > 0.5
    # Ten seconds ahead a voxel's own past knows the slowest of the movie alone, and nothing of a response.
    assert r2 < 0.06


def test_nothing_else_foretells_them():
    with_pairs, _ = residuals_at_responses(with_recall=True)
    assert gain(with_pairs, "of other subjects") < 0.05
    without, _ = residuals_at_responses(with_recall=False)
    assert gain(without, "of this subject") < 0.02


def test_pairs_are_new_in_each_subject_and_add_up_to_nothing():
    config = replace(ASSOCIATIONS, n_subjects=25)
    recall = truth(config)
    pairings = np.array([recall.pairing(subject) for subject in range(25)])
    np.testing.assert_array_equal(np.sort(pairings, axis=1), np.tile(np.arange(8), (25, 1)))
    assert len(np.unique(pairings, axis=0)) == 25
    for name in ("cue", "response"):
        patterns = recall.patterns_by_set()[name]
        voxels = recall.places[name]
        np.testing.assert_allclose(patterns.sum(0), 0, atol=1e-12)
        np.testing.assert_allclose((patterns[:, voxels] ** 2).mean(0), 1)
        assert (patterns[:, ~voxels] == 0).all()
    assert not (recall.places["cue"] & recall.places["response"]).any()


def test_cues_do_not_foretell_cues():
    config = replace(ASSOCIATIONS, n_subjects=25, n_runs=5)
    recall = truth(config)
    soon, late, repeats, n = [], [], 0, 0
    for subject in range(25):
        for run in screenings(config):
            cues = recall.cues(subject, run)
            gaps = np.diff([volume for volume, _ in cues])
            # Hazards: how many of those that waited so long came in the second that followed.
            soon += [gap == 1 for gap in gaps]
            late += [gap == 21 for gap in gaps if gap > 20]
            which = np.array([cue for _, cue in cues])
            repeats, n = repeats + (which[1:] == which[:-1]).sum(), n + len(which) - 1
    for hits, count, expected in ((sum(soon), len(soon), 0.1), (sum(late), len(late), 0.1), (repeats, n, 1 / 8)):
        assert abs(hits / count - expected) < 4 * np.sqrt(expected * (1 - expected) / count)


@pytest.mark.parametrize("config", [ASSOCIATIONS, DELAYED_RESPONSES], ids=["associations", "delayed_responses"])
def test_the_share_of_the_variance_is_the_planted_one(config):
    recall = truth(replace(config, association_lag_s=1))
    power, n = np.zeros(600), 0
    for subject in range(config.n_subjects):
        for run in screenings(config):
            shown = recall.courses(subject, run) @ recall.patterns
            assert (shown[: run.fixation] == 0).all()
            assert (shown[run.fixation + run.stimulus :] == 0).all()
            power, n = power + (shown**2).sum(0), n + run.stimulus
    for voxels in recall.places.values():
        assert (power / n)[voxels].mean() == pytest.approx(0.3, rel=0.1)
    np.testing.assert_allclose(recall.share, 0.3 * np.any(list(recall.places.values()), axis=0))


# ---- delayed responses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("delayed_response", "lag"), [("echo-1", 30), ("echo-2", 120), ("echo-3", 300)])
def test_an_echo_is_foretold_from_exactly_its_lag(delayed_response, lag):
    """A linear map from the news to the echo, learnt on seven subjects, holds in the eighth: at the lag alone."""
    recall = truth(DELAYED_RESPONSES)
    news, late = recall.places["news"], recall.places[delayed_response]

    def r2(shift: int, *, with_recall: bool = True) -> float:
        volumes = [[recorded(DELAYED_RESPONSES, s, r, with_recall=with_recall) for r in (0, 1)] for s in range(8)]
        pairs = [[(run[: len(run) - shift, news], run[shift:, late]) for run in subject] for subject in volumes]
        x = np.concatenate([x for subject in pairs[:7] for x, _ in subject])
        y = np.concatenate([y for subject in pairs[:7] for _, y in subject])
        weights = np.linalg.solve(x.T @ x + 1000 * np.eye(x.shape[1]), x.T @ y)
        x, y = (np.concatenate(side) for side in zip(*pairs[7], strict=True))
        return float(1 - ((y - x @ weights) ** 2).sum() / (y**2).sum())

    assert r2(lag) > 0.2
    assert r2(lag, with_recall=False) < 0.01
    # The movie's lags are in both halves too: what a window of 10 s sees of it is all it sees.
    for shift in (lag - 5, lag + 5, 10):
        assert r2(shift) < r2(shift, with_recall=False) + 0.04


def test_echoes_are_white_and_new_in_each_subject_and_run():
    recall = truth(DELAYED_RESPONSES)
    first, second = screenings(DELAYED_RESPONSES)
    news = [recall.news(0, first), recall.news(1, first), recall.news(0, second)]
    length = min(map(len, news))
    for one in range(3):
        x = news[one]
        assert abs((x[1:] * x[:-1]).mean()) < 4 / np.sqrt(x.size)
        for other in range(one):
            assert abs((x[:length] * news[other][:length]).mean()) < 4 / np.sqrt(length * x.shape[1])


# ---- settings ------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"association_fraction or delayed_response_fraction; found 1\.1"):
        SimulateConfig(association_fraction=0.3)
    # Two sets of voxels: the fractions need not fit together.
    assert SimulateConfig(association_fraction=0.2, delayed_response_fraction=0.2).thermal_fraction == 0.2
    with pytest.raises(ConfigError, match="delayed_response_lags_s: no run shows 300 s of movie"):
        SimulateConfig(delayed_response_fraction=0.2, delayed_response_lags_s=(30, 300))
    with pytest.raises(ConfigError, match="association_lag_s: no run shows 250 s"):
        SimulateConfig(association_fraction=0.2, association_lag_s=250)
