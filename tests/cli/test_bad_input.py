"""What is wrong with a recording is said in words: the file, what was expected and found, and what to do."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.signal import clean

from titan_neuro import errors
from titan_neuro.cli import main

SHAPE, N_TIME_POINTS, STEM = (6, 7, 8), 80, "sub-01_task-movie_run-01"


class Dataset:
    """One good run, with a mask, events and confounds, and ways to spoil it."""

    def __init__(self, root):
        self.root, self.func = root, root / "sub-01/func"
        self.masks = root / "derivatives/fmriprep/sub-01/func"
        self.func.mkdir(parents=True)
        self.masks.mkdir(parents=True)
        (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
        self.data = np.random.default_rng(0).normal(1000, 10, (*SHAPE, N_TIME_POINTS))
        self.image(self.data)
        self.sidecar({"RepetitionTime": 1.0, "TaskName": "movie"})
        self.events("onset\tduration\ttrial_type\n10\t60\tmovie\n")
        self.mask(np.ones(SHAPE))
        self.confounds(N_TIME_POINTS)

    @property
    def bold(self):
        return self.func / f"{STEM}_bold.nii.gz"

    def image(self, data, repetition_time=1.0, path=None):
        image = nib.Nifti1Image(np.asarray(data, np.float32), np.eye(4))
        image.header.set_xyzt_units("mm", "sec")
        if image.ndim >= 4:
            image.header.set_zooms((*(1.0,) * 3, repetition_time, *(1.0,) * (image.ndim - 4)))
        nib.save(image, path or self.bold)

    def sidecar(self, content):
        (self.func / f"{STEM}_bold.json").write_text(json.dumps(content))

    def events(self, text, encoding="utf-8"):
        (self.func / f"{STEM}_events.tsv").write_text(text, encoding=encoding)

    def mask(self, data, affine=None):
        image = nib.Nifti1Image(np.asarray(data, np.uint8), np.eye(4) if affine is None else affine)
        nib.save(image, self.masks / "sub-01_task-movie_desc-brain_mask.nii.gz")

    def confounds(self, n_rows):
        table = pd.DataFrame({"trans_x": np.zeros(n_rows), "framewise_displacement": np.zeros(n_rows)})
        table.to_csv(self.masks / f"{STEM}_desc-confounds_timeseries.tsv", sep="\t", index=False)

    def truncate(self):
        self.bold.write_bytes(self.bold.read_bytes()[: self.bold.stat().st_size // 2])

    def corrupt(self):
        content = bytearray(self.bold.read_bytes())
        content[-2000:-1800] = bytes(200)
        self.bold.write_bytes(content)

    def with_value(self, value, where=np.s_[2, 3, 4, 17]):
        self.data[where] = value
        self.image(self.data)

    def band_pass(self):
        series = clean(self.data.reshape(-1, N_TIME_POINTS).T, low_pass=0.1, high_pass=0.01, t_r=1.0, standardize=None)
        self.image(1000 + series.T.reshape(self.data.shape))

    def denoised(self):
        self.bold.rename(self.func / f"{STEM}_space-MNI152NLin2009cAsym_desc-denoised_bold.nii.gz")
        description = {"Name": "x", "BIDSVersion": "1.8.0", "DatasetType": "derivative"}
        (self.root / "dataset_description.json").write_text(json.dumps(description))

    def second_file(self):
        self.image(self.data, path=self.func / f"{STEM}_bold.nii")


GRID = np.diag([2.0, 2.0, 2.0, 1.0])
CASES = {
    "truncated": (lambda d: d.truncate(), errors.ImageError, "_bold.nii.gz: can't be read at volumes"),
    # So small a file is found corrupt when its header is read.
    "corrupt": (lambda d: d.corrupt(), errors.ImageError, "_bold.nii.gz: not a readable NIfTI image"),
    "no image": (lambda d: d.bold.write_text("x"), errors.ImageError, "not a readable NIfTI image"),
    "3D": (lambda d: d.image(d.data[..., 0]), errors.ImageError, "expected a 4D image (x, y, z, time), found 3D"),
    "5D": (lambda d: d.image(d.data[:, :, :, None]), errors.ImageError, "found 5D of shape (6, 7, 8, 1, 80)"),
    "no volume": (lambda d: d.image(d.data[..., :0]), errors.ImageError, "expected at least 2 volumes, found 0"),
    "one volume": (lambda d: d.image(d.data[..., :1]), errors.ImageError, "expected at least 2 volumes, found 1"),
    "NaN": (lambda d: d.with_value(np.nan), errors.ImageError, "found nan in volume 17"),
    "Inf": (lambda d: d.with_value(-np.inf), errors.ImageError, "found -inf in volume 17"),
    "all constant": (lambda d: d.with_value(5, np.s_[:]), errors.ImageError, "found every one of 336 voxels"),
    "no TR": (
        lambda d: (d.sidecar({}), d.image(d.data, repetition_time=0)),
        errors.MetadataError,
        "no repetition time: neither RepetitionTime in its JSON sidecar nor a time step",
    ),
    "TR 0": (
        lambda d: d.sidecar({"RepetitionTime": 0}),
        errors.MetadataError,
        "from 0.01 to 100 s, found 0 (RepetitionTime)",
    ),
    "TR in words": (lambda d: d.sidecar({"RepetitionTime": "one"}), errors.MetadataError, "found 'one'"),
    "two TRs": (
        lambda d: d.sidecar({"RepetitionTime": 2.0}),
        errors.MetadataError,
        "the sidecar gives a repetition time of 2.0 s, the header 1.0 s",
    ),
    "events of another run": (
        lambda d: d.events("onset\tduration\ttrial_type\n100\t10\tmovie\n"),
        errors.MetadataError,
        "expected events of a run of 80 s, found an event 'movie' at 100 s",
    ),
    "uneven volumes": (
        lambda d: d.sidecar({"VolumeTiming": [*range(40), *range(45, 85)]}),
        errors.MetadataError,
        "expected volumes at equal distances, found 1 s and, after volume 39, 6 s",
    ),
    "events in Latin-1": (
        lambda d: d.events("onset\tduration\ttrial_type\n10\t60\tfête\n", "latin-1"),
        errors.MetadataError,
        "is not a readable table: 'utf-8' codec can't decode",
    ),
    "confounds": (
        lambda d: d.confounds(79),
        errors.MetadataError,
        "expected 80 rows of confounds, one for each volume of the run, found",
    ),
    "mask shape": (lambda d: d.mask(np.ones((3, 4, 5))), errors.ImageError, "expected the grid of"),
    "mask affine": (lambda d: d.mask(np.ones(SHAPE), GRID), errors.ImageError, "expected the grid of"),
    "empty mask": (lambda d: d.mask(np.zeros(SHAPE)), errors.ImageError, "the brain mask is empty"),
    "two files": (lambda d: d.second_file(), errors.ImageError, "two files for one run"),
    "band-passed": (lambda d: d.band_pass(), errors.ImageError, "found one that was low-passed or band-passed"),
    "denoised": (lambda d: d.denoised(), errors.ImageError, "is denoised: such images are band-passed"),
}


@pytest.fixture
def dataset(tmp_path):
    return Dataset(tmp_path / "données d'été")


def prepare(dataset, output, *options):
    return main(["prepare", str(dataset.root), str(output), *options])


def test_the_run_itself_is_good(dataset, tmp_path, capsys):
    """Without this the cases below could be refused for another reason."""
    assert prepare(dataset, tmp_path / "out") == 0, capsys.readouterr().err
    assert len(list((tmp_path / "out").rglob("*.zarr"))) == 1


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_and_leaves_nothing(dataset, tmp_path, capsys, case):
    spoil, kind, message = CASES[case]
    spoil(dataset)
    assert prepare(dataset, tmp_path / "out") == kind.exit_code
    text = capsys.readouterr().err
    assert message in text, text
    # The file or the run is named, and what can be done comes after it.
    assert STEM in text or "desc-brain_mask" in text
    assert len(text.strip().splitlines()) >= 2
    assert "internal error" not in text
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix in {".zarr", ".tmp"}]


def test_some_constant_voxels_are_counted_and_zero(dataset, tmp_path, capsys):
    from titan_neuro.data.store import open_runs

    dataset.with_value(7, np.s_[0, 0, :3, :])
    assert prepare(dataset, tmp_path / "out") == 0
    assert "3 voxels or parcels are constant" in capsys.readouterr().err
    [store] = open_runs(tmp_path / "out")
    assert not store.series(0, N_TIME_POINTS)[:, :3].any()
    assert store.series(1, N_TIME_POINTS)[:, 3:].any(axis=0).all()


@pytest.mark.parametrize(
    ("space", "message"),
    [("MNI152NLin6Asym", "found one in the space MNI152NLin6Asym"), (None, "found one on another grid")],
)
def test_an_atlas_on_another_grid(dataset, tmp_path, capsys, space, message):
    atlas = tmp_path / (f"tpl-{space}_atlas-X_dseg.nii.gz" if space else "my atlas.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.int16), GRID), atlas)
    assert prepare(dataset, tmp_path / "out", "--atlas", str(atlas)) == errors.ImageError.exit_code
    assert message in capsys.readouterr().err


def test_a_mended_run_is_prepared_after_all(dataset, tmp_path, capsys):
    dataset.with_value(np.nan)
    assert prepare(dataset, tmp_path / "out") == errors.ImageError.exit_code
    dataset.with_value(1000.0)
    assert prepare(dataset, tmp_path / "out") == 0, capsys.readouterr().err
