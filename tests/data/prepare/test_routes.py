"""Every route from what a dataset holds to a store: what comes out, what is recorded, and that nothing looks ahead."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from phantom import STEM, Phantom, save

from titan_neuro.cli import main
from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.data.fetch.session import datalad_session
from titan_neuro.data.prepare import PrepareConfig, prepare_run
from titan_neuro.data.prepare.grid import grid_points, standard_grid
from titan_neuro.data.prepare.normalization import CausalZScore
from titan_neuro.data.simulate import SimulateConfig, simulate
from titan_neuro.data.simulate.config import run_designs
from titan_neuro.data.simulate.signal import latents_at_volumes, stimulus_latents
from titan_neuro.data.store import RunStore, open_runs
from titan_neuro.errors import ConfigError, ImageError, MetadataError, MismatchError, NotFetchedError

N_TIME_POINTS = 48
COARSE = {
    "shape": (22, 26, 20),
    "voxel_mm": 8.0,
    "warp_spacing_mm": 8.0,
    "shortest_mm": 50.0,
    "n_volumes": N_TIME_POINTS,
}
SETTINGS = {"warmup_s": 10, "resolution_mm": 8, "calibration_s": 20}


@pytest.fixture(scope="module")
def moving():
    """A phantom of 48 volumes, the head moving in each; all of it brightens and dims by a known time course."""
    phantom = Phantom(**COARSE)
    rng = np.random.default_rng(1)
    course = 1 + 0.02 * rng.standard_normal(N_TIME_POINTS)
    noise = rng.normal(0, 2, (*phantom.shape, N_TIME_POINTS))
    data = np.stack([phantom.record(t) * course[t] for t in range(N_TIME_POINTS)], axis=-1) + noise
    return phantom, data, course


@pytest.fixture
def prepare(tmp_path):
    def prepare_(root, **settings):
        [recording] = find_recordings(root)
        config = PrepareConfig(**{**SETTINGS, **settings})
        return RunStore(prepare_run(recording, tmp_path / "out", config, work_dir=tmp_path / "work")[0])

    return prepare_


def table_beside(store):
    return pd.read_csv(store.path.with_name(f"{STEM}_desc-confounds_timeseries.tsv"), sep="\t", na_values="n/a")


# ---- raw images and the transforms of fMRIPrep's minimal output ------------------------------------


def test_raw_and_transforms(moving, tmp_path, prepare):
    phantom, data, course = moving
    store = prepare(phantom.write(tmp_path / "bids", data))
    assert store.record["route"] == "transforms"
    assert store.record["spatial"]["steps"] == [
        *("head motion", "susceptibility distortion", "coregistration", "template warp")
    ]
    assert store.path.name == f"{STEM}_space-MNI152NLin2009cAsym_res-8_desc-prepared_bold.zarr"
    assert np.allclose(store.space.affine, standard_grid(8)[1])
    assert store.record["whole_run"] == []
    reference = nib.load(store.path.with_name(f"{STEM}_space-MNI152NLin2009cAsym_res-8_boldref.nii.gz"))
    shown = np.asarray(reference.dataobj)[store.space.mask]
    expected = phantom.pattern(grid_points(store.space.mask, store.space.affine)) * course.mean()
    assert np.corrcoef(shown, expected)[0, 1] > 0.98
    # Still heads brighten and dim together: what is left of each voxel is the planted course.
    volumes = store.series(0, N_TIME_POINTS).astype(np.float64)
    truth = CausalZScore(1)(course[:, None])[:, 0]
    each = [np.corrcoef(truth[10:], voxel)[0, 1] for voxel in volumes[10:].T]
    assert np.median(each) > 0.9


def test_confounds_are_computed_from_transforms_and_tissues(moving, tmp_path, prepare):
    phantom, data, course = moving
    store = prepare(phantom.write(tmp_path / "bids", data), confounds="budapest2020")
    table = table_beside(store)
    still = Phantom(**COARSE).head_motion
    # The displacement of the head's center, whatever the parameters are called.
    steps = np.linalg.norm(np.diff(still[:, :3, 3], axis=0), axis=1)
    assert np.corrcoef(table["framewise_displacement"][1:], steps)[0, 1] > 0.6
    np.testing.assert_allclose(store.framewise_displacement, table["framewise_displacement"], rtol=1e-5)
    for name in ("global_signal", "csf", "white_matter"):
        assert np.corrcoef(table[name], course)[0, 1] > 0.9, name
    assert (table[[f"a_comp_cor_0{number}" for number in range(6)]][:20] == 0).all(axis=None)
    assert len(store.record["confounds"]["columns"]) == 22  # and the regression's intercept
    assert store.record["whole_run"] == []


@pytest.mark.parametrize("settings", [{}, {"confounds": "budapest2020", "high_pass_hz": 0.01}])
def test_later_time_points_change_no_earlier_one(moving, tmp_path, prepare, settings):
    phantom, data, _ = moving
    root = phantom.write(tmp_path / "bids", data)
    store = prepare(root, **settings)
    before, after, table = store.series(0, 30), store.series(30, N_TIME_POINTS), table_beside(store)[:30]
    (tmp_path / "out").rename(tmp_path / "first")
    later = data.copy()
    later[..., 30:] = np.random.default_rng(9).normal(500, 300, later[..., 30:].shape)
    save(root / f"sub-01/func/{STEM}_bold.nii.gz", later.astype(np.float32), phantom.affine)
    again = prepare(root, **settings)
    assert np.array_equal(again.series(0, 30), before)
    assert not np.array_equal(again.series(30, N_TIME_POINTS), after)
    pd.testing.assert_frame_equal(table_beside(again)[:30], table, check_exact=True)


def test_whole_run_estimation_is_recorded(moving, tmp_path, prepare):
    phantom, data, _ = moving
    store = prepare(
        phantom.write(tmp_path / "bids", data), estimation="whole-run", confounds="budapest2020", high_pass_hz=0.01
    )
    assert store.record["normalizer"]["method"] == "z-score over the whole run"
    components = [f"confound a_comp_cor_0{number}" for number in range(6)]
    assert store.record["whole_run"] == [*components, "z-score", "confound fit", "high-pass"]
    volumes = store.series(0, N_TIME_POINTS).astype(np.float64)
    np.testing.assert_allclose(volumes.mean(axis=0), 0, atol=2e-3)
    np.testing.assert_allclose(volumes.std(axis=0), 1, atol=2e-3)
    table = table_beside(store)
    # What was regressed out is gone from every voxel.
    assert np.abs(np.corrcoef(table["global_signal"], volumes.T)[0, 1:]).max() < 0.3


def test_the_output_is_valid_bids(moving, tmp_path, capsys):
    phantom, data, _ = moving
    root, output = phantom.write(tmp_path / "bids", data), tmp_path / "out"
    command = ["prepare", str(root), str(output), "--resolution", "8", "--set", "prepare.warmup_s=10"]
    assert main(command) == 0, capsys.readouterr().err
    done = subprocess.run(
        [Path(sys.executable).with_name("bids-validator-deno"), output], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert (
        len(list(output.rglob("*_boldref.nii.gz"))) == len(list(output.rglob("*_desc-confounds_timeseries.tsv"))) == 1
    )


def test_ground_truth_of_a_synthetic_dataset_is_recovered(tmp_path, prepare):
    """Another writer of the same transforms: the synthetic dataset as a scanner records it, prepared, shows the planted
    stimulus.
    """
    config = SimulateConfig(n_subjects=1, n_runs=1, volume_scale=0.2, voxel_size_mm=7, transforms=True)
    simulate(tmp_path / "synthetic", config)
    store = prepare(tmp_path / "synthetic", resolution_mm=7)
    assert store.record["route"] == "transforms"
    image = nib.load(
        tmp_path / "synthetic" / json.loads((tmp_path / "synthetic/truth.json").read_text())["region_image"]
    )
    points = grid_points(store.space.mask, store.space.affine)
    voxels = np.rint((points - image.affine[:3, 3]) / np.diag(image.affine)[:3]).astype(int)
    inside = ((voxels >= 0) & (voxels < image.shape)).all(axis=1)
    regions = np.zeros(len(points), int)
    regions[inside] = np.asarray(image.dataobj)[tuple(voxels[inside].T)]
    [run] = run_designs(config)
    latents = latents_at_volumes(stimulus_latents(config), run)
    volumes = store.series(0, store.n_time_points).astype(np.float64)
    scored = store.scored
    found = [
        np.corrcoef(volumes[scored][:, regions == number + 1].mean(axis=1), latents[scored, number])[0, 1]
        for number in range(latents.shape[1])
    ]
    # Each region carries spontaneous activity of its own, too: 0.15 of the variance against the stimulus's 0.55.
    assert min(found) > 0.6
    assert np.median(found) > 0.8


def test_transforms_of_a_run_that_is_not_there(moving, tmp_path, prepare):
    phantom, data, _ = moving
    root = phantom.write(tmp_path / "bids", data)
    mask = next(root.rglob("*desc-brain_mask.nii.gz"))
    image = nib.load(mask)
    save(mask, np.zeros(image.shape, np.uint8), image.affine)
    with pytest.raises(ImageError, match="the brain mask is empty where the template's brain lies"):
        prepare(root)
    assert not list((tmp_path / "work").rglob("scratch/*"))


# ---- images that are in a standard space already ---------------------------------------------------


@pytest.fixture
def preprocessed(tmp_path):
    """FMRIPrep's output of one run: the pattern on a grid of 6 mm, growing and shrinking, with a table of confounds."""
    phantom = Phantom(shortest_mm=60.0)
    shape, affine = standard_grid(6)
    inside = np.zeros(shape, bool)
    inside[6:-6, 6:-6, 6:-6] = True
    course = np.random.default_rng(2).normal(0, 1, N_TIME_POINTS)
    pattern = phantom.pattern(grid_points(np.ones(shape, bool), affine)).reshape(shape)
    func = tmp_path / "fmriprep/sub-01/func"
    func.mkdir(parents=True)
    description = {"Name": "x", "BIDSVersion": "1.4.0", "DatasetType": "derivative"}
    (tmp_path / "fmriprep/dataset_description.json").write_text(json.dumps(description))
    stem = f"{STEM}_space-MNI152NLin2009cAsym_desc"
    save(func / f"{stem}-brain_mask.nii.gz", inside.astype(np.uint8), affine)
    data = pattern[..., None] * (1 + 0.01 * course) + np.random.default_rng(3).normal(0, 1, (*shape, N_TIME_POINTS))
    save(func / f"{stem}-preproc_bold.nii.gz", data.astype(np.float32), affine)
    (func / f"{stem}-preproc_bold.json").write_text('{"RepetitionTime": 1.0, "TaskName": "movie"}')
    motion = np.random.default_rng(4).normal(0, 0.1, (N_TIME_POINTS, 6))
    names = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    table = pd.DataFrame(motion, columns=names)
    for name in names:
        table[f"{name}_derivative1"] = table[name].diff()
        table[f"{name}_power2"] = table[name] ** 2
        table[f"{name}_derivative1_power2"] = table[name].diff() ** 2
    table["framewise_displacement"] = np.abs(np.diff(motion, axis=0, prepend=np.nan)).sum(axis=1)
    table.to_csv(func / f"{STEM}_desc-confounds_timeseries.tsv", sep="\t", na_rep="n/a", index=False)
    return tmp_path / "fmriprep", phantom, course


def test_a_preprocessed_image_on_its_own_grid(preprocessed, prepare):
    root, _, course = preprocessed
    store = prepare(root, resolution_mm=None)
    assert (store.record["route"], store.record["spatial"]) == ("preprocessed", {})
    assert store.space.mask.shape == standard_grid(6)[0]
    assert np.isnan(store.framewise_displacement[0])
    truth = CausalZScore(1)(course[:, None])[:, 0]
    assert np.corrcoef(truth[10:], store.series(10, N_TIME_POINTS).astype(float).mean(axis=1))[0, 1] > 0.99


@pytest.mark.parametrize("resolution", [4.5, 9])
def test_a_preprocessed_image_on_another_grid(preprocessed, prepare, resolution):
    root, _, course = preprocessed
    store = prepare(root, resolution_mm=resolution)
    assert store.path.name.startswith(f"{STEM}_space-MNI152NLin2009cAsym_res-{f'{resolution:g}'.replace('.', 'p')}_")
    assert np.allclose(store.space.affine, standard_grid(resolution)[1])
    truth = CausalZScore(1)(course[:, None])[:, 0]
    assert np.corrcoef(truth[10:], store.series(10, N_TIME_POINTS).astype(float).mean(axis=1))[0, 1] > 0.99


def test_slice_timing_that_others_corrected_is_named(preprocessed, prepare):
    root, *_ = preprocessed
    sidecar = next(root.rglob("*preproc_bold.json"))
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "SliceTimingCorrected": True}))
    assert prepare(root, resolution_mm=None).record["whole_run"] == ["slice timing (in the preprocessed image)"]
    with pytest.raises(ConfigError, match="no longer has the slices of the scan"):
        prepare(root, resolution_mm=None, slice_timing=True)


def test_native_images_are_not_resampled_to_template(preprocessed, prepare):
    root, *_ = preprocessed
    for path in list(root.rglob("*space-MNI152NLin2009cAsym*")):
        path.rename(path.with_name(path.name.replace("MNI152NLin2009cAsym", "T1w")))
    assert prepare(root, resolution_mm=None).space.name == "T1w"
    with pytest.raises(ConfigError, match="is in its own space"):
        prepare(root, resolution_mm=9)


def test_presets_that_need_fmriprep_tables_are_refused(moving, tmp_path, prepare):
    phantom, data, _ = moving
    root = phantom.write(tmp_path / "bids", data)
    with pytest.raises(ConfigError, match="scrubbing can't be computed from transforms and tissue maps"):
        prepare(root, confounds="scrubbing")
    shutil.rmtree(root / "derivatives")
    with pytest.raises(ConfigError, match="budapest2020 can't be computed from a rough registration"):
        prepare(root, confounds="budapest2020", rough_registration=True)


def test_motion24_from_the_table(preprocessed, prepare):
    root, *_ = preprocessed
    assert len(prepare(root, resolution_mm=None, confounds="motion24").record["confounds"]["columns"]) == 24


def test_annexed_images_sidecars_and_tables_are_read(preprocessed, tmp_path, capsys):
    """The published full fMRIPrep of ds003017 keeps its JSON and TSV in the annex, too."""
    root, *_ = preprocessed
    clone, output = tmp_path / "clone", tmp_path / "out"
    with datalad_session() as datalad:
        datalad.create(path=str(root), force=True, result_renderer="disabled")
        datalad.save(dataset=str(root), message="Add everything", result_renderer="disabled")
        datalad.clone(source=str(root), path=str(clone), result_renderer="disabled")
    command = ["prepare", str(clone), str(output), "--confounds", "motion24", "--set", "prepare.warmup_s=10"]
    assert main(command) == NotFetchedError.exit_code
    advice = re.search(r"titan-neuro fetch (\S+)`", capsys.readouterr().err)[1]
    with datalad_session() as datalad:
        datalad.get(path=f"{advice}/dataset_description.json", dataset=advice, result_renderer="disabled")
    assert main(command) == 0, capsys.readouterr().err
    assert "1 run prepared, 1 of them now" in capsys.readouterr().err
    [store] = open_runs(output)
    assert {"recording", "mask", "confounds", "sidecar"} <= set(store.record["sources"])
    assert all(source["content"].startswith("MD5E-") for source in store.record["sources"].values())
    assert main(command) == 0
    assert "1 run prepared, 0 of them now" in capsys.readouterr().err


def test_a_table_of_another_run(preprocessed, prepare):
    root, *_ = preprocessed
    path = next(root.rglob("*confounds_timeseries.tsv"))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-3]))
    with pytest.raises(MetadataError, match=r"expected 48 rows of confounds, .* found 45"):
        prepare(root, resolution_mm=None)


def test_a_preset_without_a_table(preprocessed, prepare):
    root, *_ = preprocessed
    next(root.rglob("*confounds_timeseries.tsv")).unlink()
    with pytest.raises(MetadataError, match="motion24 was asked for, but the run has no table of confounds"):
        prepare(root, resolution_mm=None, confounds="motion24")


def write_halves(folder):
    """An atlas of two parcels on the standard grid; returns its path and its labels."""
    shape, affine = standard_grid(6)
    labels = np.zeros(shape, np.int16)
    labels[8:16, 8:-8, 8:-8], labels[16:, 8:-8, 8:-8] = 3, 7
    atlas = folder / "tpl-MNI152NLin2009cAsym_atlas-Halves_dseg.nii.gz"
    save(atlas, labels, affine)
    atlas.with_name(atlas.name.replace(".nii.gz", ".tsv")).write_text("index\tname\n3\tleft\n7\tright\n")
    return atlas, labels


def voxels_of_halves(root, labels):
    """Voxels of each parcel inside the mask, ``(time, voxels)``."""
    image = nib.load(next(root.rglob("*preproc_bold.nii.gz"))).get_fdata()
    mask = nib.load(next(root.rglob("*brain_mask.nii.gz"))).get_fdata() > 0
    return [image[mask & (labels == label)].T for label in (3, 7)]


def test_parcels_of_an_atlas(preprocessed, prepare, tmp_path):
    root, *_ = preprocessed
    atlas, labels = write_halves(tmp_path)
    store = prepare(root, resolution_mm=None, atlas=atlas)
    assert (store.space.kind, store.space.name, store.space.parcels) == ("parcels", "Halves", ("left", "right"))
    assert store.path.name == f"{STEM}_space-MNI152NLin2009cAsym_seg-Halves_desc-prepared_timeseries.zarr"
    means = np.stack([voxels.mean(axis=1) for voxels in voxels_of_halves(root, labels)], axis=1)
    np.testing.assert_allclose(store.series(0, N_TIME_POINTS), CausalZScore(2)(means), atol=4e-3)


def test_voxels_are_scaled_before_an_atlas_averages_them(preprocessed, prepare, tmp_path):
    root, *_ = preprocessed
    atlas, labels = write_halves(tmp_path)
    store = prepare(root, resolution_mm=None, atlas=atlas, voxel_scaling="zscore")
    halves = voxels_of_halves(root, labels)
    means = np.stack([CausalZScore(voxels.shape[1])(voxels).mean(axis=1) for voxels in halves], axis=1)
    np.testing.assert_allclose(store.series(0, N_TIME_POINTS), CausalZScore(2)(means), atol=4e-3)
    assert store.record["normalizer"]["method"].endswith("of means over parcels of voxels in standard deviations")
    assert store.record["settings"]["voxel_scaling"] == "zscore" and not store.record["whole_run"]


def test_voxels_are_scaled_over_the_run_where_all_is(preprocessed, prepare, tmp_path):
    root, *_ = preprocessed
    atlas, labels = write_halves(tmp_path)
    store = prepare(root, resolution_mm=None, atlas=atlas, voxel_scaling="psc", estimation="whole-run")
    changes = [100 * (voxels / voxels.mean(axis=0) - 1) for voxels in voxels_of_halves(root, labels)]
    means = np.stack([change.clip(-100, 100).mean(axis=1) for change in changes], axis=1)
    np.testing.assert_allclose(
        store.series(0, N_TIME_POINTS), (means - means.mean(axis=0)) / means.std(axis=0), atol=4e-3
    )
    assert "voxel scaling" in store.record["whole_run"]


# ---- settings that do not go with the data ---------------------------------------------------------


def test_a_resolution_needs_a_standard_space(haxby, tmp_path):
    recording = find_recordings(haxby)[0]
    with pytest.raises(ConfigError, match="is in its own space, and no transforms") as caught:
        prepare_run(recording, tmp_path / "out", PrepareConfig(resolution_mm=4), work_dir=tmp_path / "work")
    assert "--rough-registration" in caught.value.hint


def test_parcels_have_no_resolution(sitcom, tmp_path):
    recording = find_recordings(sitcom)[0]
    with pytest.raises(ConfigError, match="parcels have no grid") as caught:
        prepare_run(recording, tmp_path / "out", PrepareConfig(resolution_mm=4), work_dir=tmp_path / "work")
    assert caught.value.hint == "Omit --resolution."


def test_voxel_scaling_needs_an_atlas_of_voxels(haxby, sitcom, tmp_path):
    config = PrepareConfig(voxel_scaling="psc")
    with pytest.raises(ConfigError, match=r"voxel_scaling: psc: .*there is no atlas") as caught:
        prepare_run(find_recordings(haxby)[0], tmp_path / "out", config, work_dir=tmp_path / "work")
    assert "--atlas" in caught.value.hint
    config = PrepareConfig(voxel_scaling="psc", atlas=write_halves(tmp_path)[0])
    with pytest.raises(ConfigError, match=r"voxel_scaling: psc: .*is a table of parcels"):
        prepare_run(find_recordings(sitcom)[0], tmp_path / "out", config, work_dir=tmp_path / "work")


def test_one_folder_holds_one_grid(preprocessed, prepare, tmp_path):
    root, *_ = preprocessed
    for resolution in (9, 12):
        prepare(root, resolution_mm=resolution)
    with pytest.raises(MismatchError, match=r"was prepared twice: .*res-12_desc.* and .*res-9_desc"):
        open_runs(tmp_path / "out")
