"""Voxels are scaled before an atlas averages them: causally, or over the run where that is asked for."""

from contextlib import ExitStack

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from titan_neuro.data.prepare.inspection import is_band_passed
from titan_neuro.data.prepare.normalization import CausalZScore
from titan_neuro.data.prepare.scratch import ScratchSeries
from titan_neuro.data.prepare.time_series import StoredSeries
from titan_neuro.data.prepare.voxel_scaling import CausalPercentChange, WithSignal, scale_causally, scale_over_run
from titan_neuro.data.space import Space
from titan_neuro.errors import ImageError

SPACE = Space(kind="volume", name="MNI", mask=np.ones((5, 1, 1), dtype=bool), affine=np.eye(4))


@pytest.fixture
def voxels():
    """Raw BOLD of five voxels, ``(time, voxels)``; the last one has next to no signal."""
    rng = np.random.default_rng(0)
    baseline = np.array([1000.0, 800.0, 400.0, 100.0, 1e-3])
    values = (baseline * (1 + 0.01 * rng.standard_normal((90, 5)))).astype(np.float32)
    values[3:, 4] = -1.0
    return values


@pytest.fixture
def stored(voxels, tmp_path):
    with ScratchSeries(tmp_path / "voxels") as scratch:
        scratch.append(voxels)
        yield StoredSeries(scratch, SPACE)


def test_percent_change_is_that_of_the_mean_so_far(voxels):
    found = CausalPercentChange(5)(voxels)
    for time_point in (0, 1, 40, 89):
        mean = voxels[: time_point + 1, :4].astype(float).mean(axis=0)
        np.testing.assert_allclose(found[time_point, :4], 100 * (voxels[time_point, :4] / mean - 1), atol=1e-4)
    assert np.abs(found).max() <= 100
    # From the fourth time point on the mean of the last voxel is below 0.
    np.testing.assert_array_equal(found[4:, 4], 0)


@pytest.mark.parametrize("scaling", ["psc", "zscore"])
def test_no_later_time_point_changes_an_earlier_one(stored, voxels, scaling, tmp_path):
    whole = scale_causally(stored, scaling).read(0, 90)
    changed = voxels.copy()
    changed[50:] *= 3
    with ScratchSeries(tmp_path / "changed") as scratch:
        scratch.append(changed)
        pieces = scale_causally(StoredSeries(scratch, SPACE), scaling)
        found = np.concatenate([pieces.read(start, stop) for start, stop in ((0, 1), (1, 33), (33, 90))])
    np.testing.assert_array_equal(found[:50], whole[:50])
    assert (found[50:, 0] != whole[50:, 0]).all()


def test_causal_z_scores_are_those_of_the_normalization(stored, voxels):
    np.testing.assert_array_equal(scale_causally(stored, "zscore").read(0, 90), CausalZScore(5)(voxels))


@pytest.mark.parametrize("first", [0, 7, 16])
def test_over_the_run_its_steady_state_sets_the_scale(voxels, first, tmp_path):
    voxels[:first] *= 1.5
    voxels[:, 3] = 77
    with ExitStack() as stack:
        source, scratch = (stack.enter_context(ScratchSeries(tmp_path / name)) for name in ("source", "scratch"))
        source.append(voxels)
        found = {}
        for scaling in ("zscore", "psc"):
            scratch = stack.enter_context(ScratchSeries(tmp_path / scaling))
            found[scaling] = scale_over_run(StoredSeries(source, SPACE), scaling, scratch, first).read(first, 90)
    steady = voxels[first:, :3].astype(float)
    np.testing.assert_allclose(found["zscore"][:, :3], (steady - steady.mean(axis=0)) / steady.std(axis=0), atol=2e-4)
    np.testing.assert_allclose(found["psc"][:, :3], 100 * (steady / steady.mean(axis=0) - 1), atol=1e-4)
    np.testing.assert_array_equal(found["zscore"][:, 3], 0)
    np.testing.assert_array_equal(found["psc"][:, 3:], 0)


def test_percent_change_without_a_mean_is_refused(voxels, tmp_path):
    """At the end of the run: in its first volume nearly all voxels of a demeaned region can lie above 0."""
    demeaned = voxels - voxels.mean(axis=0)
    demeaned[0] = np.abs(demeaned[0])
    with ScratchSeries(tmp_path / "demeaned") as scratch:
        scratch.append(demeaned)
        series = WithSignal(StoredSeries(scratch, SPACE), "sub-01_task-movie")
        np.testing.assert_array_equal(series.read(0, 50), demeaned[:50])
        with pytest.raises(ImageError, match=r"sub-01_task-movie: .*voxel_scaling psc.*% of the values") as caught:
            series.read(50, 90)
    assert "zscore" in caught.value.hint


def test_voxels_without_any_signal_are_no_reason_to_refuse(voxels, tmp_path):
    voxels[:, 3:] = 0
    with ScratchSeries(tmp_path / "recorded") as scratch:
        scratch.append(voxels)
        np.testing.assert_array_equal(WithSignal(StoredSeries(scratch, SPACE), "x").read(0, 90), voxels)


@pytest.mark.parametrize("n_time_points", [40, 300])
@pytest.mark.parametrize("scaling", ["psc", "zscore"])
def test_a_low_pass_is_still_recognized(scaling, n_time_points, tmp_path):
    """The first scaled time points jump, since their scale is estimated from few; that must not hide a filter."""
    rng = np.random.default_rng(0)
    signal, noise = rng.standard_normal((n_time_points + 60, 1)), rng.standard_normal((n_time_points + 60, 5))
    smoothed = gaussian_filter1d(signal + noise, 1.5, axis=0)[30:-30]
    with ScratchSeries(tmp_path / "smoothed") as scratch:
        scratch.append(1000 + 10 * smoothed)
        scaled = scale_causally(StoredSeries(scratch, SPACE), scaling).read(0, n_time_points)
    assert is_band_passed(smoothed.mean(axis=1, keepdims=True), 1.0)
    assert is_band_passed(scaled.mean(axis=1, keepdims=True), 1.0)
