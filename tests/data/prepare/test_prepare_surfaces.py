"""The whole preparation of runs on surfaces, of CIFTI parcels, and of tables with an atlas: from files to maps."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from surface_files import (
    N_TIME_POINTS,
    TR,
    USED,
    brain_models,
    hemisphere,
    series,
    write_description,
    write_dlabel,
    write_dtseries,
    write_gifti,
    write_label_gifti,
    write_ptseries,
    write_sidecar,
)

from titan_neuro.data.bids.maps import write_map
from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.data.prepare import PrepareConfig, prepare_run
from titan_neuro.data.prepare.normalization import CausalZScore
from titan_neuro.data.space import common_space
from titan_neuro.data.store import RunStore, open_runs
from titan_neuro.errors import ConfigError, ImageError, MetadataError

STEM = "sub-01_task-x"
LABEL = "stat-r2_desc-arH1"


def dense(root, subject="01", values=None):
    stem = root / f"sub-{subject}/func/sub-{subject}_task-x_space-fsLR_den-91k_bold"
    write_dtseries(stem.with_name(f"{stem.name}.dtseries.nii"), values)
    write_sidecar(stem.with_name(f"{stem.name}.json"))


def gifti(root, subject="01"):
    for side in "LR":
        stem = root / f"sub-{subject}/func/sub-{subject}_task-x_hemi-{side}_space-fsaverage5_bold"
        write_gifti(stem.with_name(f"{stem.name}.func.gii"), hemisphere(side))
        write_sidecar(stem.with_name(f"{stem.name}.json"))


def parcels(root, subject="01", values=None):
    stem = root / f"sub-{subject}/func/sub-{subject}_task-x_space-fsLR_seg-X_den-91k_stat-mean_timeseries"
    write_ptseries(stem.with_name(f"{stem.name}.ptseries.nii"), values)
    write_sidecar(stem.with_name(f"{stem.name}.json"))


def table(root, names, subject="01"):
    stem = root / f"sub-{subject}/func/sub-{subject}_task-x_seg-Y_timeseries"
    write_sidecar(stem.with_name(f"{stem.name}.json"))
    frame = pd.DataFrame(series(len(names)), columns=names)
    frame.to_csv(stem.with_name(f"{stem.name}.tsv"), sep="\t", index=False)


def prepared(root, output, **settings):
    config = PrepareConfig(warmup_s=15, **settings)
    (recording,) = find_recordings(root, subjects=["01"])
    path, _ = prepare_run(recording, output, config, work_dir=output / ".work")
    store = RunStore(path)
    store.verify()
    return store


def causal_z_score(values):
    """The definition: mean and standard deviation of the time points so far."""
    values = values.astype(np.float64)
    scores = np.zeros_like(values)
    for t in range(1, len(values)):
        scores[t] = (values[t] - values[: t + 1].mean(axis=0)) / values[: t + 1].std(axis=0)
    return scores


@pytest.fixture
def root(tmp_path):
    return write_description(tmp_path / "bids")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "output"


def test_dense_series_become_a_store(root, output):
    dense(root)
    store = prepared(root, output)
    values = nib.load(next(root.rglob("*.dtseries.nii"))).get_fdata()
    assert str(store.path).endswith(f"{STEM}_space-fsLR_den-91k_desc-prepared_bold.zarr")
    assert (store.repetition_time, store.n_time_points) == (TR, N_TIME_POINTS)
    assert (store.space.kind, store.space.name, store.space.n_features) == ("surface", "fsLR", 73)
    assert store.record["route"] == "surface"
    assert "0 that are 0 or NaN throughout" in store.record["mask"]
    np.testing.assert_allclose(store.series(0, N_TIME_POINTS), causal_z_score(values), atol=0.01)
    path = write_map(output / "task-x", LABEL, store.space, np.arange(73.0), {})
    assert nib.load(path).header.get_axis(1) == brain_models()


def test_hemispheres_become_one_store(root, output):
    gifti(root)
    store = prepared(root, output)
    assert str(store.path).endswith(f"{STEM}_space-fsaverage5_desc-prepared_bold.zarr")
    assert store.repetition_time == TR
    assert store.space.n_features == sum(map(len, USED.values()))
    assert {"recording", "hemi-R"} <= store.record["sources"].keys()
    both = np.concatenate([hemisphere(side)[:, used] for side, used in USED.items()], axis=1)
    before = store.series(0, N_TIME_POINTS)
    np.testing.assert_allclose(before, causal_z_score(both), atol=0.01)
    # A change of either file is noticed.
    write_gifti(next(root.rglob("*hemi-R*.func.gii")), hemisphere("R", seed=9))
    after = prepared(root, output).series(0, N_TIME_POINTS)
    assert (before[1:] == after[1:]).all(axis=0).tolist() == [True] * len(USED["L"]) + [False] * len(USED["R"])


@pytest.mark.parametrize("kind", ["dense", "gifti"])
def test_atlases_make_parcels_of_surfaces(root, output, tmp_path, kind):
    if kind == "dense":
        dense(root)
        atlas = write_dlabel(tmp_path / "atlas-Z_dseg.dlabel.nii")
    else:
        gifti(root)
        atlas = tmp_path / "hemi-L_atlas-Z_dseg.label.gii"
        write_label_gifti(atlas, np.repeat([1, 2], 20), {1: "LH_Vis_1", 2: "LH_Default_1"})
        write_label_gifti(atlas.with_name(atlas.name.replace("hemi-L", "hemi-R")), np.full(40, 3), {3: "RH_Vis_1"})
    store = prepared(root, output, atlas=atlas)
    assert "_seg-Z_desc-prepared_timeseries.zarr" in str(store.path)
    assert store.space.parcels[:3] == ("LH_Vis_1", "LH_Default_1", "RH_Vis_1")
    path = write_map(output / "task-x", LABEL, store.space, np.arange(float(store.space.n_features)), {})
    ending = ".pscalar.nii" if kind == "dense" else ".func.gii"
    assert len(list(path.parent.glob(f"task-x*{ending}"))) == (1 if kind == "dense" else 2)


def test_vertices_are_scaled_before_an_atlas_averages_them(root, output, tmp_path):
    gifti(root)
    atlas = tmp_path / "hemi-L_atlas-Z_dseg.label.gii"
    for side, key in (("L", 1), ("R", 2)):
        path = atlas.with_name(atlas.name.replace("hemi-L", f"hemi-{side}"))
        write_label_gifti(path, np.full(40, key), {key: f"{side}H_All_1"})
    store = prepared(root, output, atlas=atlas, voxel_scaling="zscore")
    vertices = [hemisphere(side)[:, used] for side, used in USED.items()]
    means = np.stack([causal_z_score(each).mean(axis=1) for each in vertices], axis=1)
    # At the second time point all vertices are 1 or -1, and their mean can be 0 again.
    np.testing.assert_allclose(store.series(0, N_TIME_POINTS), CausalZScore(2)(means), atol=0.01)


def test_parcel_series_become_a_store(root, output):
    parcels(root)
    store = prepared(root, output)
    assert str(store.path).endswith(f"{STEM}_space-fsLR_den-91k_seg-X_desc-prepared_timeseries.zarr")
    assert (store.space.kind, store.space.name) == ("parcels", "X")
    assert store.space.parcels == ("LH_Vis_1", "LH_Default_1", "RH_Vis_1", "Thalamus")
    assert store.space.layout.hemispheres == ("L", "L", "R", "")
    assert (store.repetition_time, store.record["route"]) == (TR, "parcels")
    values = nib.load(next(root.rglob("*.ptseries.nii"))).get_fdata()
    np.testing.assert_allclose(store.series(0, N_TIME_POINTS), causal_z_score(values), atol=0.01)
    path = write_map(output / "task-x", LABEL, store.space, np.arange(4.0), {})
    scalars = nib.load(path.with_name(path.name.replace(".tsv", ".pscalar.nii")))
    assert scalars.header.get_axis(1) == nib.load(next(root.rglob("*.ptseries.nii"))).header.get_axis(1)


@pytest.mark.parametrize("write", [dense, parcels])
def test_header_and_sidecar_must_agree(root, output, write):
    write(root)
    sidecar = next(root.rglob("sub-*.json"))
    sidecar.write_text('{"RepetitionTime": 2.0}')
    with pytest.raises(MetadataError, match=r"sidecar gives a repetition time of 2\.0 s, the header 1\.5 s"):
        prepared(root, output)
    sidecar.unlink()
    assert prepared(root, output).repetition_time == TR


def test_hemispheres_without_repetition_time_are_refused(root, output):
    gifti(root)
    for sidecar in root.rglob("sub-*.json"):
        sidecar.unlink()
    with pytest.raises(MetadataError, match="no repetition time"):
        prepared(root, output)


@pytest.mark.parametrize("write", [dense, gifti, parcels])
@pytest.mark.parametrize("settings", [{"resolution_mm": 3.0}, {"slice_timing": True}])
def test_settings_of_volumes_are_refused(root, output, write, settings):
    write(root)
    with pytest.raises(ConfigError, match=r"have no grid|no image of slices"):
        prepared(root, output, **settings)


def test_band_passed_parcel_series_are_refused(root, output):
    smooth = np.apply_along_axis(np.convolve, 0, series(4, n_time_points=400), np.hanning(12), "same")
    parcels(root, values=smooth[50:350])
    with pytest.raises(ImageError, match="without a low-pass filter"):
        prepared(root, output)


def write_image_atlas(folder, names):
    path = folder / "atlas-Y_dseg.nii.gz"
    labels = np.arange(60).reshape(3, 4, 5) % (len(names) + 1)
    nib.save(nib.Nifti1Image(labels.astype(np.int16), np.diag([4, 4, 4, 1.0])), path)
    rows = [f"{number}\t{name}" for number, name in enumerate(names, start=1)]
    path.with_name("atlas-Y_dseg.tsv").write_text("\n".join(["index\tname", *rows]) + "\n")
    return path, labels


NAMES = ["7Networks_LH_Vis_1", "7Networks_LH_Default_1", "7Networks_RH_Vis_1"]


@pytest.mark.parametrize("columns", [NAMES, [f"Y3_{number:02d}" for number in (1, 2, 3)]])
def test_tables_with_an_atlas_have_names_and_an_image(root, output, tmp_path, columns):
    table(root, columns)
    atlas, labels = write_image_atlas(tmp_path, NAMES)
    store = prepared(root, output, atlas=atlas)
    assert str(store.path).endswith(f"{STEM}_seg-Y_desc-prepared_timeseries.zarr")
    assert store.space.parcels == tuple(NAMES)
    path = write_map(output / "task-x", LABEL, store.space, np.array([1.0, 2, 3]), {})
    written = pd.read_csv(path, sep="\t")
    assert written["hemisphere"].tolist() == ["L", "L", "R"]
    assert written["network"].tolist() == ["Vis", "Default", "Vis"]
    image = nib.load(path.with_name(path.name.replace(".tsv", ".nii.gz")))
    assert np.array_equal(np.nan_to_num(image.get_fdata()), labels)


def test_table_and_atlas_that_do_not_match(root, output, tmp_path):
    table(root, ["LH_Vis_1", "LH_Vis_2"])
    atlas, _ = write_image_atlas(tmp_path, NAMES)
    with pytest.raises(MetadataError, match=r"LH_Vis_2.*7Networks_LH_Default_1, 7Networks_RH_Vis_1"):
        prepared(root, output, atlas=atlas)


def test_real_tables_with_an_atlas_of_their_numbers(sitcom, output, tmp_path):
    names = [f"7Networks_{'LH' if number < 100 else 'RH'}_Vis_{number}" for number in range(200)]
    path = tmp_path / "Schaefer200.nii.gz"
    labels = np.zeros((7, 8, 9), np.int16)
    labels.flat[:400] = np.repeat(np.arange(1, 201), 2)
    nib.save(nib.Nifti1Image(labels, np.eye(4)), path)
    rows = [f"{number}\t{name}" for number, name in enumerate(names, start=1)]
    path.with_name("Schaefer200.tsv").write_text("\n".join(["index\tname", *rows]) + "\n")
    recording = find_recordings(sitcom, subjects=["001"])[0]
    store = RunStore(prepare_run(recording, output, PrepareConfig(atlas=path), work_dir=output / ".work")[0])
    assert store.space.parcels == tuple(names)
    assert store.space.layout.hemispheres == ("L",) * 100 + ("R",) * 100


def test_a_study_takes_the_points_that_all_runs_have(root, output):
    first = series(73)
    first[:, 5] = 0
    dense(root, values=first)
    second = series(73, seed=1)
    second[:, 70] = np.nan
    dense(root, "02", second)
    for recording in find_recordings(root):
        prepare_run(recording, output, PrepareConfig(), work_dir=output / ".work")
    stores = open_runs(output)
    space = common_space({store.key: store.space for store in stores})
    assert space.n_features == 71
    views = [store.within(space) for store in stores]
    expected = [causal_z_score(np.delete(values, [5, 70], axis=1)) for values in (first, second)]
    for view, values in zip(views, expected, strict=True):
        np.testing.assert_allclose(view.read(0, N_TIME_POINTS).numpy(), values, atol=0.01)
    assert json.loads(json.dumps(space.identity()))["n_features"] == 71


def test_other_surfaces_have_no_space_in_common(root, output):
    dense(root)
    gifti(root, "02")
    for subject in ("01", "02"):
        (recording,) = find_recordings(root, subjects=[subject])
        prepare_run(recording, output, PrepareConfig(), work_dir=output / ".work")
    with pytest.raises(ImageError, match="expected the space fsLR, found fsaverage5"):
        common_space({store.key: store.space for store in open_runs(output)})
