import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.data.prepare import PrepareConfig, prepare_run
from titan_neuro.data.prepare.inputs import preparation
from titan_neuro.data.prepare.inspection import Inspection
from titan_neuro.data.prepare.normalization import CausalZScore
from titan_neuro.data.prepare.outputs import OutputFiles, write_sidecar, write_snr_image
from titan_neuro.data.space import ParcelLayout, Space
from titan_neuro.data.store import RunHeader, RunStore, open_runs
from titan_neuro.errors import (
    ConfigError,
    ImageError,
    InputNotFoundError,
    MetadataError,
    MismatchError,
    NotFetchedError,
    OutputError,
)
from titan_neuro.provenance import digest

SHAPE, N_TIME_POINTS = (5, 6, 7), 60


@pytest.fixture
def dataset(tmp_path):
    """One run of noise on a small grid with a mask, TR 1 s, a stimulus from 10 s to 50 s."""
    root = tmp_path / "bids"
    func = root / "sub-01/func"
    masks = root / "derivatives/mask/sub-01/func"
    func.mkdir(parents=True)
    masks.mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    write_bold(func, np.random.default_rng(0).normal(1000, 10, (*SHAPE, N_TIME_POINTS)))
    (func / "sub-01_task-movie_run-01_bold.json").write_text('{"RepetitionTime": 1, "TaskName": "movie"}')
    (func / "sub-01_task-movie_run-01_events.tsv").write_text("onset\tduration\ttrial_type\n10.0\t40.0\tmovie\n")
    mask = np.random.default_rng(1).random(SHAPE) > 0.4
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), np.eye(4)), masks / "sub-01_desc-brain_mask.nii.gz")
    return root


def write_bold(func, data, repetition_time=1.0):
    image = nib.Nifti1Image(data.astype(np.float32), np.eye(4))
    image.header.set_xyzt_units("mm", "sec")
    if data.ndim == 4:
        image.header.set_zooms((1, 1, 1, repetition_time))
    nib.save(image, func / "sub-01_task-movie_run-01_bold.nii.gz")


@pytest.fixture
def prepare(dataset, tmp_path):
    def prepare_(config=None, **options):
        recording = find_recordings(dataset)[0]
        config = config or PrepareConfig(warmup_s=15)
        return prepare_run(recording, tmp_path / "out", config, work_dir=tmp_path / "work", **options)

    return prepare_


def test_series_is_masked_causal_z_score(prepare, dataset):
    path, made = prepare()
    store = RunStore(path)
    image = nib.load(next(dataset.glob("sub-01/func/*_bold.nii.gz"))).get_fdata()
    mask = nib.load(next(dataset.rglob("*_mask.nii.gz"))).get_fdata() > 0
    expected = CausalZScore(int(mask.sum()))(image[mask].T)
    assert made
    np.testing.assert_allclose(store.series(0, N_TIME_POINTS), expected, atol=4e-3)  # float16
    assert np.array_equal(store.space.mask, mask)
    assert path.name == "sub-01_task-movie_run-01_desc-prepared_bold.zarr"
    assert store.repetition_time == 1.0


def test_the_sidecar_says_how_good_the_run_is(prepare):
    """Noise of 1 % about its mean."""
    sidecar = json.loads(prepare()[0].with_suffix(".json").read_text())
    assert sidecar["FramewiseDisplacement"] is None
    found = sidecar["TemporalSNR"]
    assert found["Percentile10"] < found["Median"] < found["Percentile90"]
    assert found["Median"] == pytest.approx(100, rel=0.05)


def test_an_image_says_where_the_signal_is_good(dataset, prepare):
    """Against the recording itself: mean over standard deviation of each voxel of the mask."""
    store, _ = prepare()
    [path] = store.parent.glob("*_stat-tsnr_statmap.nii.gz")
    image = nib.load(next(dataset.rglob("*_bold.nii.gz"))).get_fdata()
    mask = nib.load(next(dataset.rglob("*_mask.nii.gz"))).get_fdata() > 0
    found = nib.load(path).get_fdata()
    np.testing.assert_allclose(found[mask], image[mask].mean(axis=1) / image[mask].std(axis=1), rtol=1e-4)
    assert np.isnan(found[~mask]).all()


def test_parcels_are_painted_with_their_temporal_snr(tmp_path):
    grid = Space(kind="volume", name="MNI", mask=np.ones((2, 2, 1), bool), affine=np.eye(4))
    labels = np.array([0, 1, 1, 0], np.int32)
    layout = ParcelLayout(space=grid, labels=labels, names=("a", "b"), hemispheres=("", ""), networks=("", ""))
    space = Space(kind="parcels", name="x", parcels=("a", "b"), layout=layout)
    files = OutputFiles(tmp_path / "sub-1_seg-x_desc-prepared_timeseries.zarr")
    header = RunHeader(key="x", entities={}, repetition_time=1.0, space=space, scored=np.ones(4, bool), record={})
    write_snr_image(files, header, None)
    assert not files.snr_image.exists()
    write_snr_image(files, header, np.array([20.0, 30.0]))
    assert nib.load(files.snr_image).get_fdata().ravel().tolist() == [20, 30, 30, 20]
    assert json.loads((tmp_path / "sub-1_seg-x_stat-tsnr_statmap.json").read_text())["Space"] == "MNI"


def test_the_sidecar_sums_up_head_motion(tmp_path):
    space = Space(kind="parcels", name="x", parcels=("a", "b"))
    inspection = Inspection("x", 2, 1.0)
    inspection.inspect(np.random.default_rng(0).normal(-5, 1, size=(4, 2)))
    record = dict.fromkeys(("route", "normalizer", "confounds", "high_pass_hz", "whole_run", "scored"))
    record |= {"sources": {}, "steady_state": {"volumes_before": 0}}
    moved = np.array([np.nan, 0.1, 0.6, 0.2], np.float32)
    header = RunHeader(
        key="x",
        entities={},
        repetition_time=1.0,
        space=space,
        scored=np.ones(4, bool),
        framewise_displacement=moved,
        record=record,
    )
    files = OutputFiles(tmp_path / "x_desc-prepared_timeseries.zarr")
    write_sidecar(files, header, inspection)
    found = json.loads(files.sidecar.read_text())
    assert found["FramewiseDisplacement"] == {"MeanMillimeters": 0.3, "FractionHigh": 0.3333}
    assert found["TemporalSNR"] is None


def test_time_points_inside_movie_after_warmup_are_scored(prepare):
    scored = RunStore(prepare()[0]).scored
    assert np.flatnonzero(scored).tolist() == list(range(15, 50))


def test_a_process_without_room_for_a_time_point_says_what_it_needs(prepare):
    with pytest.raises(ConfigError, match=r"sub-01.* needs \d+\.\d\d GB of memory in one process, found 0.00 GB"):
        prepare(memory_bytes=1)


def test_later_time_points_change_no_earlier_one(prepare, dataset, tmp_path):
    before = RunStore(prepare()[0]).series(0, 30)
    (tmp_path / "out").rename(tmp_path / "first")
    path = next(dataset.glob("sub-01/func/*_bold.nii.gz"))
    data = nib.load(path).get_fdata()
    data[..., 30:] = np.random.default_rng(5).normal(0, 1e4, data[..., 30:].shape)
    write_bold(path.parent, data)
    assert np.array_equal(RunStore(prepare()[0]).series(0, 30), before)


def test_only_changed_inputs_are_prepared_again(prepare, dataset):
    path, _ = prepare()
    stamp = path.stat().st_mtime_ns
    assert prepare() == (path, False)
    assert path.stat().st_mtime_ns == stamp
    assert prepare(PrepareConfig(warmup_s=12))[1]
    events = next(dataset.rglob("*_events.tsv"))
    events.write_text("onset\tduration\ttrial_type\n10.0\t30.0\tmovie\n")
    assert prepare(PrepareConfig(warmup_s=12))[1]
    assert RunStore(path).scored.sum() == 40 - 12


def test_leftovers_of_a_killed_process_are_removed(prepare):
    path, _ = prepare()
    leftover = path.with_name(f".{path.name}.0123abcd.tmp")
    leftover.mkdir()
    prepare()
    assert not leftover.exists()


def test_missing_mask_is_computed_from_first_volumes(prepare, dataset):
    next(dataset.rglob("*_mask.nii.gz")).unlink()
    data = np.full((12, 12, 12, N_TIME_POINTS), 10.0)
    data[3:9, 3:9, 3:9] = 1000
    data += np.random.default_rng(0).normal(size=data.shape)
    write_bold(dataset / "sub-01/func", data)
    store = RunStore(prepare()[0])
    assert store.space.mask[4:8, 4:8, 4:8].all()
    assert not store.space.mask[[0, -1]].any()
    assert "computed" in store.record["mask"]


def test_three_dimensions_are_refused(prepare, dataset):
    write_bold(dataset / "sub-01/func", np.ones(SHAPE))
    with pytest.raises(ImageError, match=r"expected a 4D image .* found 3D"):
        prepare()


def test_one_volume_is_refused(prepare, dataset):
    write_bold(dataset / "sub-01/func", np.ones((*SHAPE, 1)))
    with pytest.raises(ImageError, match="at least 2 volumes"):
        prepare()


def test_a_truncated_image_is_refused_and_leaves_nothing(prepare, dataset, tmp_path):
    path = next(dataset.glob("sub-01/func/*_bold.nii.gz"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"_bold\.nii\.gz: can't be read"):
        prepare()
    assert not list((tmp_path / "out").rglob("*.zarr"))
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_a_file_that_is_no_image_is_refused(prepare, dataset):
    next(dataset.glob("sub-01/func/*_bold.nii.gz")).write_text("no image")
    with pytest.raises(ImageError, match="not a readable NIfTI image"):
        prepare()


def test_nan_inside_the_mask_is_located(prepare, dataset):
    data = np.random.default_rng(0).normal(1000, 10, (*SHAPE, N_TIME_POINTS))
    data[..., 17] = np.nan
    write_bold(dataset / "sub-01/func", data)
    with pytest.raises(ImageError, match="found nan in volume 17"):
        prepare()


def test_no_repetition_time(prepare, dataset):
    next(dataset.glob("sub-01/func/*_bold.json")).unlink()
    write_bold(dataset / "sub-01/func", np.ones((*SHAPE, N_TIME_POINTS)), repetition_time=0)
    with pytest.raises(MetadataError, match="no repetition time"):
        prepare()


@pytest.mark.parametrize("key", ["EffectiveEchoSpacing", "ReconMatrixPE", "WaterFatShift", "PhaseEncodingDirection"])
def test_other_readout_is_another_preparation(dataset, key):
    [recording] = find_recordings(dataset)
    digests = {
        digest(preparation(replace(recording, sidecar=recording.sidecar | values), {}, PrepareConfig()))
        for values in ({}, {key: 1}, {key: 2}, {"Manufacturer": "x"})
    }
    assert len(digests) == 3


def test_header_and_sidecar_that_disagree(prepare, dataset):
    next(dataset.glob("sub-01/func/*_bold.json")).write_text('{"RepetitionTime": 2}')
    with pytest.raises(MetadataError, match=r"sidecar gives a repetition time of 2.0 s, the header 1.0 s"):
        prepare()


def test_a_mask_on_another_grid(prepare, dataset):
    path = next(dataset.rglob("*_mask.nii.gz"))
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), path)
    with pytest.raises(ImageError, match="expected the grid of sub-01_task-movie_run-01"):
        prepare()


def test_no_scored_time_point_is_refused(prepare, dataset):
    next(dataset.rglob("*_events.tsv")).write_text("onset\tduration\ttrial_type\n0.0\t5.0\tmovie\n")
    with pytest.raises(MetadataError, match="no time point remains to be scored"):
        prepare()


def test_events_without_their_columns(prepare, dataset):
    next(dataset.rglob("*_events.tsv")).write_text("start\tend\n0.0\t5.0\n")
    with pytest.raises(MetadataError, match="expected the columns onset, duration"):
        prepare()


def test_content_that_was_not_fetched(prepare, dataset):
    path = next(dataset.glob("sub-01/func/*_bold.nii.gz"))
    path.unlink()
    path.symlink_to("../../.git/annex/objects/aa/bb/MD5E-s5--0.nii.gz/MD5E-s5--0.nii.gz")
    with pytest.raises(NotFetchedError, match="not on this machine") as caught:
        prepare()
    assert f"titan-neuro fetch {dataset}" in caught.value.hint


def test_parcels(sitcom, tmp_path):
    recording = find_recordings(sitcom, subjects=["003"])[0]
    path, _ = prepare_run(recording, tmp_path / "out", PrepareConfig(), work_dir=tmp_path / "work")
    store = RunStore(path)
    table = pd.read_csv(recording.path, sep="\t")
    assert store.space.parcels == tuple(table.columns)
    expected = CausalZScore(200)(table.to_numpy())
    np.testing.assert_allclose(store.series(700, 720), expected[700:720], atol=4e-3)
    assert path.name == "sub-003_task-sitcomep1_seg-Schaefer200_desc-prepared_timeseries.zarr"
    assert store.scored.sum() == 1486 - 20


def test_text_among_the_parcels_is_refused(sitcom, tmp_path):
    recording = find_recordings(sitcom, subjects=["003"])[0]
    table = tmp_path / "x.tsv"
    table.write_text("a\tb\n1\t2\n3\tfour\n")
    with pytest.raises(ImageError, match=r"line 3, column 'b': expected a number or n/a, found 'four'"):
        prepare_run(replace(recording, path=table), tmp_path / "out", PrepareConfig(), work_dir=tmp_path / "work")


def test_stores_of_another_version_are_refused(prepare, tmp_path):
    path, _ = prepare()
    assert [store.key for store in open_runs(tmp_path / "out")] == ["sub-01_task-movie_run-01"]
    with pytest.raises(InputNotFoundError, match="no prepared run"):
        open_runs(tmp_path / "elsewhere")
    attributes = json.loads((path / "zarr.json").read_text())
    attributes["attributes"]["schema_version"] = 99
    (path / "zarr.json").write_text(json.dumps(attributes))
    with pytest.raises(MismatchError, match="expected the schema titan-neuro-run 4, found titan-neuro-run 99"):
        open_runs(tmp_path / "out")


def test_a_folder_that_can_not_be_written(prepare, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub-01").write_text("a file where a folder belongs")
    with pytest.raises(OutputError, match="can't be written"):
        prepare()
