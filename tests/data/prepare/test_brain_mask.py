"""Brain masks: given ones that are not binary, and computed ones of heads in air, in zeros and without contrast."""

from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest
from phantom import save
from scipy.ndimage import binary_dilation, gaussian_filter

from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.data.prepare import PrepareConfig, prepare_run
from titan_neuro.data.prepare.brain_mask import compute_brain_mask, describe_extent, mask_threshold
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.data.prepare.rough_registration import _extract_brain
from titan_neuro.data.store import RunStore
from titan_neuro.errors import ImageError

SHAPE, AFFINE = (28, 30, 24), np.diag([6.0, 6.0, 6.0, 1.0])


def ball(shape=SHAPE, radius_mm=70.0, size_mm=6.0):
    points = (np.indices(shape).reshape(3, -1).T - (np.array(shape) - 1) / 2) * size_mm
    return (np.linalg.norm(points / [1, 1.1, 0.8], axis=1) < radius_mm).reshape(shape)


BRAIN = ball()


def head_in_air(noise=40.0):
    """Brain, skull and scalp with a bias field, in the noise of a magnitude image."""
    rng = np.random.default_rng(0)
    scalp = binary_dilation(BRAIN, iterations=3) & ~binary_dilation(BRAIN, iterations=2)
    signal = np.where(BRAIN, 900.0, np.where(scalp, 300.0, 0.0)) * np.linspace(0.7, 1.3, SHAPE[0])[:, None, None]
    return np.abs(signal + noise * (rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE))).astype(np.float32)


def overlap(mask, brain):
    """Dice."""
    return 2 * (mask & brain).sum() / (mask.sum() + brain.sum())


class TestComputed:
    @pytest.mark.parametrize("padding", [0, 1, 2, 4, 8, 16, 30])
    @pytest.mark.parametrize("value", [0.0, np.nan])
    @pytest.mark.parametrize("noise", [10.0, 80.0])
    def test_padding_does_not_matter(self, padding, value, noise):
        volume = np.pad(head_in_air(noise), padding, constant_values=value)
        found = compute_brain_mask(volume, AFFINE)
        assert overlap(found, np.pad(BRAIN, padding)) > 0.95

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_padding_on_one_side_does_not_matter(self, axis):
        widths = [(0, 0)] * 3
        widths[axis] = (0, 30)
        assert overlap(compute_brain_mask(np.pad(head_in_air(), widths), AFFINE), np.pad(BRAIN, widths)) > 0.95

    @pytest.mark.parametrize("padding", [0, 4, 20])
    @pytest.mark.parametrize("smoothing", [0.0, 0.7])
    def test_an_extracted_brain_is_found_whole(self, padding, smoothing):
        brain = np.where(BRAIN, head_in_air(), 0)
        volume = np.pad(np.where(BRAIN, gaussian_filter(brain, smoothing), 0), padding)
        assert overlap(compute_brain_mask(volume, AFFINE), np.pad(BRAIN, padding)) > 0.98

    def test_z_scored_volumes_have_their_support_as_mask(self):
        volume = np.where(BRAIN, np.random.default_rng(0).normal(size=SHAPE), 0).astype(np.float32)
        assert np.array_equal(compute_brain_mask(volume, AFFINE), BRAIN)

    @pytest.mark.parametrize("volume", [np.zeros(SHAPE), np.full(SHAPE, np.nan)], ids=["zeros", "nan"])
    def test_nothing_is_found_in_nothing(self, volume):
        assert not compute_brain_mask(volume.astype(np.float32), AFFINE).any()

    def test_noise_around_0_has_no_brain(self):
        volume = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
        assert not compute_brain_mask(volume, AFFINE).any()

    @pytest.mark.parametrize("size_mm", [3.0, 8.0, 15.0, 25.0])
    def test_large_voxels_do_not_erode_the_brain(self, size_mm):
        shape = tuple(round(185 / size_mm) for _ in range(3))
        brain = ball(shape, size_mm=size_mm)
        volume = np.where(brain, 900.0, 5.0) + np.random.default_rng(0).normal(0, 1, shape)
        found = compute_brain_mask(volume.astype(np.float32), np.diag([size_mm, size_mm, size_mm, 1.0]))
        assert overlap(found, brain) > 0.95

    def test_a_real_brain_is_found_where_its_mask_is_hidden(self, haxby):
        [mask] = haxby.rglob("*brain_mask.nii.gz")
        given = nib.load(mask).get_fdata() > 0
        for path in sorted(haxby.rglob("*_bold.nii.gz")):
            image = BoldImage(path)
            found = compute_brain_mask(image.read(0, 8).astype(np.float32).mean(axis=-1), image.affine)
            # The given mask is a generous one, of 2,016 mL.
            assert (found & given).sum() > 0.85 * found.sum()
            assert 1200 < found.sum() * 25**3 / 1000 < 1600

    def test_rough_registration_has_the_brain_of_a_padded_image(self, tmp_path):
        volume = np.pad(head_in_air(), 10)
        save(tmp_path / "x.nii.gz", np.stack([volume] * 2, axis=-1), AFFINE)
        brain = _extract_brain(volume, BoldImage(tmp_path / "x.nii.gz"))
        assert overlap(brain > 0, np.pad(BRAIN, 10)) > 0.95


class TestExtent:
    def test_a_brain_is_not_doubted(self):
        extent, doubts = describe_extent(BRAIN, AFFINE)
        assert (
            extent
            == f"{BRAIN.sum() * 0.216:,.4g} mL, {BRAIN.mean():.0%} of the field of view, touches 0 of its 6 faces"
        )
        assert doubts == []

    @pytest.mark.parametrize(
        ("mask", "expected"),
        [
            (
                np.ones(SHAPE, dtype=bool),
                ["2,500 mL", "field of view, found 100%", "faces of the field of view, found 6"],
            ),
            (np.pad(np.ones((3, 3, 3), dtype=bool), 5), ["expected 200 to 2,500 mL, found 5.83 mL"]),
            (np.pad(np.ones((20, 20, 20), dtype=bool), ((0, 1), (0, 9), (0, 9))), []),
        ],
        ids=["everything", "little", "a corner"],
    )
    def test_what_is_no_brain_is_doubted(self, mask, expected):
        _, doubts = describe_extent(mask, AFFINE)
        assert len(doubts) == len(expected)
        for doubt, part in zip(doubts, expected, strict=True):
            assert part in doubt


def smooth(mask):
    return gaussian_filter(mask.astype(np.float32), 1.0)


SOFT = smooth(BRAIN)
# How a mask may be stored; and the voxels that it means.
MASKS = {
    "integers": (BRAIN.astype(np.uint8), BRAIN),
    "floats": (BRAIN.astype(np.float64), BRAIN),
    "0 and 255": (BRAIN.astype(np.uint8) * np.uint8(255), BRAIN),
    "0 and 1,000": (BRAIN.astype(np.int16) * np.int16(1000), BRAIN),
    "tiny outside": (np.where(BRAIN, 1.0, 1e-9), BRAIN),
    "smoothed": (SOFT, SOFT >= 0.5),
    "percent": (100 * SOFT, 0.5 * SOFT.max() <= SOFT),
    "bytes": (np.round(255 * SOFT).astype(np.uint8), np.round(255 * SOFT) >= 127.5),
    "splines": (1.1 * SOFT - 0.05, 1.1 * SOFT - 0.05 >= 0.5),
    "labels": (BRAIN * (1 + np.indices(SHAPE)[0] % 3).astype(np.int16), BRAIN),
    "nan outside": (np.where(BRAIN, 1.0, np.nan), BRAIN),
    "everything 255": (np.full(SHAPE, 255, dtype=np.uint8), np.ones(SHAPE, dtype=bool)),
}


@pytest.fixture
def prepare(tmp_path):
    """Prepare a run with a mask, as an image."""

    def prepare_(mask: nib.Nifti1Image | None, volumes=None):
        root = tmp_path / "bids"
        stem = "sub-01/func/sub-01_task-movie"
        for path in (root / stem, root / "derivatives/m" / stem):
            path.parent.mkdir(parents=True, exist_ok=True)
        (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
        if volumes is None:
            volumes = np.random.default_rng(0).normal(1000, 10, (*SHAPE, 30))
        save(root / f"{stem}_bold.nii.gz", volumes.astype(np.float32), AFFINE)
        (root / f"{stem}_bold.json").write_text('{"RepetitionTime": 1.0, "TaskName": "movie"}')
        if mask is not None:
            nib.save(mask, root / f"derivatives/m/{stem}_desc-brain_mask.nii.gz")
        [recording] = find_recordings(root)
        return RunStore(prepare_run(recording, tmp_path / "out", PrepareConfig(), work_dir=tmp_path / "work")[0])

    return prepare_


class TestGiven:
    @pytest.mark.parametrize("name", MASKS)
    def test_a_mask_means_its_upper_half(self, prepare, name):
        data, expected = MASKS[name]
        store = prepare(nib.Nifti1Image(data, AFFINE))
        assert np.array_equal(store.space.mask, expected)
        is_binary = len(np.unique(data)) <= 2
        assert ("which is not binary: voxels of at least" in store.record["mask"]) == (not is_binary)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16])
    def test_scaled_integers_are_read_as_they_are_meant(self, prepare, dtype):
        # nibabel stores fractions as integers with a slope.
        image = nib.Nifti1Image(SOFT, AFFINE)
        image.header.set_data_dtype(dtype)
        found = prepare(image).space.mask
        assert (found != (SOFT >= 0.5)).mean() < 0.001

    @pytest.mark.parametrize("value", [0.0, 0.4, np.nan, -1.0])
    def test_an_empty_mask_is_refused(self, prepare, value):
        with pytest.raises(ImageError, match=r"brain mask is empty: no voxel is at least 0\.5"):
            prepare(nib.Nifti1Image(np.full(SHAPE, value, dtype=np.float32), AFFINE))

    @pytest.mark.parametrize(
        ("values", "threshold"),
        [
            ([0, 1], 0.5),
            ([0, 255], 127.5),
            ([0, 0.2, 1], 0.5),
            ([0, 30, 100], 50),
            ([0, 1, 2, 3], 0.5),
            ([-0.1, 0.6, 1.1], 0.5),
        ],
    )
    def test_the_threshold_is_half_of_what_stands_for_1(self, values, threshold):
        assert mask_threshold(np.array(values)) == threshold


class TestSaid:
    def volumes(self, padding):
        noise = np.random.default_rng(0).normal(0, 5, (*SHAPE, 30))
        volumes = head_in_air()[..., None] + noise
        volumes[: 2 * padding] = 0
        return volumes

    def test_the_extent_of_a_computed_mask(self, prepare, caplog):
        with caplog.at_level(logging.WARNING):
            store = prepare(None, self.volumes(0))
        assert "no brain mask in the dataset: it is computed from the first 10 volumes: 1," in caplog.text
        assert "PROBABLY NOT" not in caplog.text
        assert store.record["mask"].startswith("computed from the first 10 volumes: 1,")
        assert store.record["mask"].endswith("of the field of view, touches 0 of its 6 faces")

    def test_a_mask_that_can_be_no_brain(self, prepare, caplog):
        volumes = np.random.default_rng(0).normal(1000, 10, (*SHAPE, 30))
        volumes[14:] = 0
        with caplog.at_level(logging.WARNING):
            store = prepare(None, volumes)
        assert "PROBABLY NOT THE BRAIN: expected it to touch at most 3 faces" in caplog.text
        assert "doubtful: expected it to touch at most 3 faces of the field of view, found 5" in store.record["mask"]

    def test_volumes_without_contrast_are_refused(self, prepare):
        with pytest.raises(ImageError, match="no brain was found in the first 10 volumes: it is not brighter"):
            prepare(None, np.random.default_rng(0).normal(size=(*SHAPE, 30)))
