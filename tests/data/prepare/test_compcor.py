import numpy as np
import pytest
from nilearn.signal import create_cosine_drift
from sklearn.decomposition import PCA

from titan_neuro.data.prepare.compcor import compcor, cosine_drifts
from titan_neuro.data.prepare.high_pass import CausalHighPass
from titan_neuro.errors import ImageError


@pytest.fixture(scope="module")
def tissue():
    """240 volumes of 150 voxels on a baseline: three common courses, a drift, noise; two voxels outside the field."""
    rng = np.random.default_rng(0)
    courses = rng.normal(size=(240, 3)) * [3, 2, 1]
    volumes = courses @ rng.normal(size=(3, 150)) + rng.normal(size=(240, 150))
    volumes += 800 + np.linspace(0, 30, 240)[:, None] * rng.normal(size=150)
    volumes[:, [3, 70]] = 0
    return volumes, courses


def nipypes_design(n_time_points, repetition_time):
    """The formula of nipype, from which fMRIPrep has its cosines: the order counts the constant, which is last."""
    order = max(int(np.floor(2 * n_time_points * (1 / 128) * repetition_time)), 1)
    times = (np.arange(n_time_points) + 0.5) / n_time_points
    cosines = [np.sqrt(2 / n_time_points) * np.cos(np.pi * k * times) for k in range(1, order)]
    return np.column_stack([*cosines, np.ones(n_time_points)])


# The numbers are those that nipype 1.11 gives.
@pytest.mark.parametrize(
    ("n_time_points", "repetition_time", "n_cosines"),
    [
        *[(803, 1.0, 11), (946, 1.5, 21), (1030, 1.5, 23), (121, 2.5, 3), (300, 0.72, 2), (240, 1.0, 2)],
        *[(128, 1.0, 1), (127, 1.0, 0), (64, 1.0, 0), (60, 2.0, 0), (20, 1.0, 0), (2, 2.0, 0)],
    ],
)
def test_cosines_are_as_many_as_fmripreps(n_time_points, repetition_time, n_cosines):
    found = cosine_drifts(n_time_points, repetition_time)
    assert found.shape == (n_time_points, n_cosines)
    np.testing.assert_allclose(found, nipypes_design(n_time_points, repetition_time)[:, :-1], atol=1e-12)
    # nilearn's are the same functions, and one more of them.
    if int(n_time_points * repetition_time / 64):
        nilearns = create_cosine_drift(1 / 128, np.arange(n_time_points) * repetition_time)
        np.testing.assert_allclose(found, nilearns[:, :n_cosines], atol=1e-12)


class TestWholeRun:
    @pytest.mark.parametrize(
        ("n_time_points", "repetition_time"), [(803, 1.0), (240, 1.0), (121, 2.5), (60, 2.0), (300, 0.72)]
    )
    def test_components_are_those_of_nipypes_formula(self, n_time_points, repetition_time):
        rng = np.random.default_rng(n_time_points)
        volumes = rng.normal(size=(n_time_points, 4)) @ rng.normal(size=(4, 90)) * 2
        volumes += rng.normal(800, 3, size=(n_time_points, 90))
        volumes += np.linspace(0, 30, n_time_points)[:, None] * rng.normal(size=90)
        volumes[:, 5] = 0
        design = nipypes_design(n_time_points, repetition_time)
        residual = volumes - design @ np.linalg.lstsq(design, volumes, rcond=None)[0]
        deviation = residual.std(axis=0)
        expected, lengths, _ = np.linalg.svd(residual / np.where(deviation > 1e-9, deviation, 1), full_matrices=False)
        components, explained = compcor(volumes, 6, None, repetition_time)
        signs = np.sign((components * expected[:, :6]).sum(axis=0))
        np.testing.assert_allclose(components * signs, expected[:, :6], atol=1e-8)
        np.testing.assert_allclose(explained, (lengths**2 / (lengths**2).sum())[:6], atol=1e-10)

    def test_the_sign_is_that_of_the_largest_weight(self, tissue):
        components, _ = compcor(tissue[0], 3, None, 1.0)
        flipped, _ = compcor(-tissue[0], 3, None, 1.0)
        np.testing.assert_allclose(flipped, -components, atol=1e-9)
        turned, _ = compcor(tissue[0][:, ::-1], 3, None, 1.0)
        np.testing.assert_allclose(turned, components, atol=1e-9)


class TestCausal:
    def test_later_components_are_projections_on_calibration_weights(self, tissue):
        volumes = np.delete(tissue[0], [3, 70], axis=1)
        filtered = CausalHighPass(148, 1 / 128, 1.0)(volumes)
        standard = (filtered - filtered[:90].mean(axis=0)) / filtered[:90].std(axis=0)
        oracle = PCA(n_components=4, svd_solver="full").fit(standard[:90])
        components, explained = compcor(tissue[0], 4, 90, 1.0)
        expected = oracle.transform(standard[90:]) / oracle.singular_values_
        assert (components[:90] == 0).all()
        signs = np.sign((components[90:] * expected).sum(axis=0))
        np.testing.assert_allclose(components[90:], expected * signs, atol=1e-8)
        np.testing.assert_allclose(explained, oracle.explained_variance_ratio_, atol=1e-10)

    def test_shared_signal_is_found_after_calibration(self, tissue):
        volumes, courses = tissue
        components, _ = compcor(volumes, 3, 90, 1.0)
        target = CausalHighPass(3, 1 / 128, 1.0)(courses)[90:]
        design = np.column_stack([components[90:], np.ones(150)])
        error = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
        assert (1 - error.var(axis=0) / target.var(axis=0)).min() > 0.9

    @pytest.mark.parametrize("volume", [40, 89, 90, 100, 153, 154, 238])
    @pytest.mark.parametrize("later", [np.nan, 0.0, 1e6])
    def test_later_time_points_change_no_earlier_value(self, tissue, volume, later):
        other = tissue[0].copy()
        if volume < 89:
            # A calibration of volumes without value has no components; of others it has other ones.
            later = np.random.default_rng(1).normal(size=other[volume + 1 :].shape)
        other[volume + 1 :] = later
        found, changed = compcor(tissue[0], 3, 90, 1.0)[0], compcor(other, 3, 90, 1.0)[0]
        assert np.array_equal(found[: volume + 1], changed[: volume + 1])
        assert not np.array_equal(found, changed)

    def test_a_run_within_its_calibration_is_refused(self, tissue):
        with pytest.raises(ImageError, match="longer than the 240 volumes of its calibration, found 240"):
            compcor(tissue[0], 3, 240, 1.0)


def test_integer_volumes_do_not_overflow():
    rng = np.random.default_rng(2)
    volumes = rng.integers(-32768, 32767, size=(80, 30), dtype=np.int16)
    volumes[0], volumes[1] = -32768, 32767
    for calibration in (None, 40):
        found, expected = (compcor(each, 2, calibration, 1.0) for each in (volumes, volumes.astype(np.float64)))
        np.testing.assert_allclose(found[0], expected[0], atol=1e-12)


@pytest.mark.parametrize("calibration", [None, 100])
@pytest.mark.parametrize("n_voxels", [0, 4])
def test_too_few_voxels_are_refused(tissue, calibration, n_voxels):
    with pytest.raises(ImageError, match=r"at least 5 components in the noise mask, found [03] voxels"):
        compcor(tissue[0][:, :n_voxels], 5, calibration, 1.0)
