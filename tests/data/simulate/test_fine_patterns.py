"""Fine patterns: their responses follow from the power of a pattern, and from no linear map of the voxels."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from titan_neuro.data.simulate import SimulateConfig
from titan_neuro.data.simulate.anatomy import assign_regions
from titan_neuro.data.simulate.config import run_designs
from titan_neuro.data.simulate.fine_patterns import FinePatterns
from titan_neuro.data.simulate.signal import latents_at_volumes, simulate_run, stimulus_latents
from titan_neuro.errors import ConfigError

LAG = 6
CONFIG = SimulateConfig(
    n_subjects=4, n_runs=2, volume_scale=1, voxel_size_mm=15, stimulus_fraction=0.4, fine_pattern_fraction=0.3
)


def make_patterns(config: SimulateConfig) -> FinePatterns:
    """Fine patterns of a box of 9 x 12 x 9 voxels."""
    coordinates = np.stack(np.indices((9, 12, 9)), axis=-1).reshape(-1, 3) * config.voxel_size_mm - 60
    return FinePatterns(config=config, regions=assign_regions(coordinates, config), coordinates_mm=coordinates)


@cache
def recorded(subject: int, run: int, *, with_patterns: bool) -> np.ndarray:
    """Standardized volumes of a run's movie, ``(seconds, voxels)``."""
    planted, design = make_patterns(CONFIG), run_designs(CONFIG)[run]
    volumes = simulate_run(
        *(CONFIG, subject, design),
        stimulus=latents_at_volumes(stimulus_latents(CONFIG), design),
        regions=planted.regions,
        baseline=np.full(len(planted.regions), 1000.0),
        planted=[planted] if with_patterns else [],
    )
    stimulated = np.array(list(volumes), dtype=float)[design.fixation : design.fixation + design.stimulus]
    return (stimulated - stimulated.mean(0)) / stimulated.std(0)


def r2_of_responses(features: str, shift: int, *, with_patterns: bool = True) -> float:
    """Variance of the responses in the fourth subject that a linear map explains, fitted on the other three."""
    planted = make_patterns(CONFIG)
    fine, response = planted.voxel_sets.values()
    patterns = planted.patterns_by_set()["fine"][:, fine]
    pairs = []
    for subject in range(4):
        runs = [recorded(subject, run, with_patterns=with_patterns) for run in (0, 1)]
        seen = [run[: len(run) - shift, fine] for run in runs]
        if features == "power":
            # Squared projections on each pattern, summed over blocks: three numbers a volume.
            seen = [((part @ patterns.T).reshape(len(part), -1, 3) ** 2).sum(1) for part in seen]
        x, y = np.concatenate(seen), np.concatenate([run[shift:, response] for run in runs])
        pairs.append(((x - x.mean(0)) / x.std(0), y))
    x, y = (np.concatenate(side) for side in zip(*pairs[:3], strict=True))
    weights = np.linalg.solve(x.T @ x + 1000 * np.eye(x.shape[1]), x.T @ y)
    x, y = pairs[3]
    return float(1 - ((y - x @ weights) ** 2).sum() / (y**2).sum())


def test_power_predicts_responses_at_their_lag():
    assert r2_of_responses("power", LAG) > 0.2
    assert r2_of_responses("power", LAG, with_patterns=False) < 0.01
    assert r2_of_responses("power", LAG + 30) < 0.01


def test_linear_maps_of_voxels_do_not_predict_responses():
    # Both streams follow the movie: with patterns there is no more to predict than without.
    assert r2_of_responses("voxels", LAG) < r2_of_responses("voxels", LAG, with_patterns=False) + 0.01


def test_variance_fraction_is_as_configured():
    planted = make_patterns(CONFIG)
    power, n = 0, 0
    for subject in range(CONFIG.n_subjects):
        for run in run_designs(CONFIG):
            signal = planted.time_courses(subject, run) @ planted.patterns
            assert (signal[: run.fixation] == 0).all()
            assert (signal[run.fixation + run.stimulus :] == 0).all()
            power, n = power + (signal**2).sum(0), n + run.stimulus
    for voxels in planted.voxel_sets.values():
        assert (power / n)[voxels].mean() == pytest.approx(0.3, rel=0.1)
    np.testing.assert_allclose(planted.variance_fraction, 0.3 * np.any(list(planted.voxel_sets.values()), axis=0))


def test_fine_patterns_share_variance_with_associations():
    assert replace(CONFIG, association_fraction=0.05).thermal_fraction == 0.35
    with pytest.raises(ConfigError, match=r"association_fraction \+ fine_pattern_fraction.*found 1\.05"):
        replace(CONFIG, association_fraction=0.1)
    with pytest.raises(ConfigError, match="fine_pattern_lag_s"):
        replace(CONFIG, fine_pattern_lag_s=250, n_runs=1, volume_scale=0.3)
