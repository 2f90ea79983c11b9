"""Headers that disagree with themselves, and values that are not finite."""

from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest
from phantom import save

from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.data.prepare import PrepareConfig, prepare_run
from titan_neuro.data.prepare.images import BoldImage, read_volume
from titan_neuro.data.store import RunStore
from titan_neuro.errors import ImageError

SHAPE = (9, 10, 8)
QFORM = np.array([[3.0, 0, 0, -12], [0, 3, 0, -15], [0, 0, 3, -9], [0, 0, 0, 1]])
SHIFTED = QFORM + np.array([[0, 0, 0, 5.0]] * 3 + [[0] * 4])
SCALED = QFORM @ np.diag([2.0, 1.0, 1.0, 1.0])
# nibabel's affine without either form: centered, x to the left.
BASE = np.array([[-3.0, 0, 0, 12], [0, 3, 0, -13.5], [0, 0, 3, -10.5], [0, 0, 0, 1]])


def write(path, *, sform, scode, qform=QFORM, qcode=1, n_volumes=4):
    shape = (*SHAPE, n_volumes) if n_volumes else SHAPE
    image = nib.Nifti1Image(np.random.default_rng(0).normal(1000, 10, shape).astype(np.float32), None)
    image.header.set_zooms([3.0] * 3 + [1.0] * bool(n_volumes))
    image.header.set_qform(qform, qcode)
    image.header.set_sform(sform, scode)
    # As they are: an image would make both forms agree with its affine.
    image.header.set_data_dtype(np.float32)
    with nib.openers.Opener(path, "wb") as file:
        header = image.header.copy()
        header["vox_offset"], header["magic"] = 352, b"n+1"
        file.write(header.binaryblock + b"\0" * 4 + np.asarray(image.dataobj).tobytes(order="F"))
    return path


@pytest.mark.parametrize("n_volumes", [0, 4])
@pytest.mark.parametrize(
    ("forms", "expected", "said"),
    [
        ({"sform": QFORM, "scode": 1}, QFORM, None),
        ({"sform": SHIFTED, "scode": 1}, SHIFTED, None),
        ({"sform": SHIFTED, "scode": 2, "qcode": 0}, SHIFTED, None),
        ({"sform": SHIFTED, "scode": 0}, QFORM, None),
        ({"sform": SCALED, "scode": 1}, QFORM, "the qform is used"),
        ({"sform": SCALED, "scode": 4, "qcode": 0}, BASE, "orientation and position are ignored"),
        ({"sform": SCALED, "scode": 0, "qcode": 0}, BASE, None),
        ({"sform": np.diag([0.0, 0, 0, 1]), "scode": 1}, QFORM, "the qform is used"),
    ],
    ids=["both", "differ", "no qform", "no sform", "scaled", "scaled, no qform", "none", "zero"],
)
def test_affine_is_what_fmriprep_decides(tmp_path, caplog, forms, expected, said, n_volumes):
    path = write(tmp_path / "x.nii", **forms, n_volumes=n_volumes)
    with caplog.at_level(logging.WARNING):
        affine = BoldImage(path).affine if n_volumes else read_volume(path, "brain mask")[1]
    np.testing.assert_allclose(affine, expected, atol=1e-5)
    assert (said in caplog.text) if said else not caplog.text


@pytest.mark.parametrize("sform", [np.diag([0.0, 0, 0, 1]), np.diag([np.nan, 3, 3, 1])], ids=["zero", "nan"])
def test_no_valid_form_is_refused(tmp_path, sform):
    with pytest.raises(ImageError, match="expected an invertible affine"):
        BoldImage(write(tmp_path / "x.nii", sform=sform, scode=1, qcode=0))


class TestNotFinite:
    """fMRIPrep's image in a standard space, resampled: programs write NaN outside the brain."""

    @pytest.fixture
    def prepare(self, tmp_path):
        affine = np.diag([8.0, 8.0, 8.0, 1.0])
        affine[:3, 3] = -60
        shape = (16, 16, 14)
        brain = np.zeros(shape, dtype=bool)
        brain[4:12, 3:12, 4:11] = True
        data = np.random.default_rng(0).normal(1000, 10, (*shape, 30)).astype(np.float32)
        data[~brain] = 0

        def prepare_(name, edit, resolution_mm=10):
            root = tmp_path / name
            stem = root / "sub-01/func/sub-01_task-movie_space-MNI152NLin2009cAsym"
            stem.parent.mkdir(parents=True)
            (root / "dataset_description.json").write_text(
                '{"Name": "x", "BIDSVersion": "1.8.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "x"}]}'
            )
            edited = data.copy()
            edit(edited, brain)
            save(stem.with_name(f"{stem.name}_desc-preproc_bold.nii.gz"), edited, affine)
            stem.with_name(f"{stem.name}_desc-preproc_bold.json").write_text('{"RepetitionTime": 1.0}')
            save(stem.with_name(f"{stem.name}_desc-brain_mask.nii.gz"), brain.astype(np.uint8), affine)
            [recording] = find_recordings(root)
            config = PrepareConfig(resolution_mm=resolution_mm)
            store = RunStore(prepare_run(recording, tmp_path / f"{name}-out", config, work_dir=tmp_path / "work")[0])
            return store.series(0, store.n_time_points)

        return prepare_

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("volumes", [slice(None), slice(7, 9)], ids=["always", "at times"])
    def test_outside_the_mask_they_are_0(self, prepare, value, volumes):
        def edit(data, brain):
            data[..., volumes][~brain] = value

        np.testing.assert_array_equal(prepare("edited", edit), prepare("zeros", lambda data, brain: None))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("resolution_mm", [10, None])
    def test_inside_the_mask_they_are_named(self, prepare, value, resolution_mm):
        def edit(data, brain):
            data[5, 6, 7, 21:] = value

        with pytest.raises(ImageError, match=rf"found {value} in volume 21, voxel \(5, 6, 7\)"):
            prepare("edited", edit, resolution_mm)
