import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from surface_files import (
    N_VERTICES,
    SHAPE,
    USED,
    brain_models,
    parcels_axis,
    series,
    write_dtseries,
    write_gifti,
    write_ptseries,
)

from titan_neuro.data.bids.maps import write_map, write_surface_series
from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.surfaces import SurfaceSeries, read_parcel_series
from titan_neuro.data.prepare.time_series import ParcelTable
from titan_neuro.data.space import ParcelLayout, Space

LABEL = "stat-r2_desc-arH1"


def recording(path, hemispheres=None, **entities):
    kind = "parcels" if "timeseries" in path.name else "surface"
    return Recording(
        path=path,
        kind=kind,
        route=kind,
        entities={"subject": "1", "task": "x", **entities},
        events=None,
        mask=None,
        hemispheres=hemispheres or {},
    )


@pytest.fixture
def dense(tmp_path):
    return SurfaceSeries(recording(write_dtseries(tmp_path / "x_bold.dtseries.nii"), space="fsLR")).space


@pytest.fixture
def hemispheres(tmp_path):
    paths = {}
    for side, used in USED.items():
        rows = np.zeros((5, N_VERTICES))
        rows[:, used] = series(len(used), n_time_points=5)
        paths[side] = write_gifti(tmp_path / f"x_hemi-{side}_bold.func.gii", rows)
    return SurfaceSeries(recording(paths["L"], paths, space="fsaverage5")).space


def values_of(space):
    values = np.random.default_rng(3).normal(size=space.n_features)
    values[2] = np.nan
    return values


def test_maps_of_dense_series_are_dense_scalars(dense, tmp_path):
    values = values_of(dense)
    path = write_map(tmp_path / "task-x", LABEL, dense, values, {"Units": "1"})
    assert path.name == "task-x_space-fsLR_stat-r2_desc-arH1_statmap.dscalar.nii"
    image = nib.load(path)
    assert image.nifti_header.get_intent()[0] == "ConnDenseScalar"
    assert image.header.get_axis(1) == brain_models()
    np.testing.assert_allclose(image.get_fdata()[0], values, rtol=1e-6)
    sidecar = json.loads((tmp_path / "task-x_space-fsLR_stat-r2_desc-arH1_statmap.json").read_text())
    assert sidecar == {"Units": "1", "Space": "fsLR"}


def test_features_that_a_study_leaves_out_are_left_out_of_the_axis(dense, tmp_path):
    kept = np.delete(np.arange(dense.n_features), [0, 40, 72])
    smaller = Space(kind="surface", name="fsLR", grayordinates=dense.grayordinates.select(kept))
    image = nib.load(write_map(tmp_path / "task-x", LABEL, smaller, values_of(smaller), {}))
    assert image.header.get_axis(1) == brain_models()[kept]


def test_maps_of_hemispheres_are_a_file_for_each(hemispheres, tmp_path):
    values = values_of(hemispheres)
    path = write_map(tmp_path / "task-x", LABEL, hemispheres, values, {})
    assert path.name == "task-x_hemi-L_space-fsaverage5_stat-r2_desc-arH1_statmap.func.gii"
    left, right = (nib.load(path.with_name(path.name.replace("hemi-L", f"hemi-{side}"))) for side in "LR")
    assert left.meta["AnatomicalStructurePrimary"] == "CortexLeft"
    assert right.meta["AnatomicalStructurePrimary"] == "CortexRight"
    found = np.concatenate([left.agg_data()[USED["L"]], right.agg_data()[USED["R"]]])
    np.testing.assert_allclose(found, values, rtol=1e-6)
    assert np.isnan(left.agg_data()[len(USED["L"]) :]).all()
    assert left.agg_data().shape == (N_VERTICES,)
    assert (tmp_path / "task-x_space-fsaverage5_stat-r2_desc-arH1_statmap.json").is_file()


def test_maps_of_parcel_series_are_a_table_and_parcel_scalars(tmp_path):
    file = write_ptseries(tmp_path / "sub-1_space-fsLR_timeseries.ptseries.nii")
    space = ParcelTable(recording(file, segmentation="X")).space
    path = write_map(tmp_path / "task-x", LABEL, space, np.array([1, np.nan, 3, 4]), {})
    assert path.name == "task-x_seg-X_stat-r2_desc-arH1_statmap.tsv"
    table = pd.read_csv(path, sep="\t", keep_default_na=False)
    assert table["value"].tolist() == ["1.0", "n/a", "3.0", "4.0"]
    assert table["hemisphere"].tolist() == ["L", "L", "R", "n/a"]
    assert table["network"].tolist() == ["Vis", "Default", "Vis", "n/a"]
    image = nib.load(path.with_name(path.name.replace(".tsv", ".pscalar.nii")))
    assert image.nifti_header.get_intent()[0] == "ConnParcelScalr"
    assert image.header.get_axis(1) == parcels_axis()
    np.testing.assert_array_equal(image.get_fdata()[0], [1, np.nan, 3, 4])
    assert json.loads(path.with_suffix(".json").read_text()) == {"Space": "X", "AtlasSpace": "fsLR"}


def test_lost_parcels_are_blank_in_the_image(tmp_path):
    _, layout, _ = read_parcel_series(write_ptseries(tmp_path / "x.ptseries.nii"))
    space = Space(kind="parcels", name="X", parcels=layout.names[1:], lost_parcels=layout.names[:1], layout=layout)
    path = write_map(tmp_path / "task-x", LABEL, space, np.array([2.0, 3, 4]), {})
    axis = nib.load(path.with_name(path.name.replace(".tsv", ".pscalar.nii"))).header.get_axis(1)
    assert axis == parcels_axis()[1:]


def test_maps_of_parcels_of_a_volume_are_an_image_too(tmp_path):
    labels = np.random.default_rng(0).integers(0, 4, SHAPE)
    mask = labels > 0
    grid = Space(kind="volume", name="MNI152NLin6Asym", mask=mask, affine=np.diag([2.0, 2, 2, 1]))
    layout = ParcelLayout(
        space=grid,
        labels=(labels[mask] - 1).astype(np.int32),
        names=("a", "b", "c"),
        hemispheres=("", "", ""),
        networks=("", "", ""),
    )
    space = Space(kind="parcels", name="X", parcels=("c", "a"), lost_parcels=("b",), layout=layout)
    path = write_map(tmp_path / "task-x", LABEL, space, np.array([30.0, 10.0]), {})
    assert path.read_text() == "parcel\tvalue\nc\t30.0\na\t10.0\n"
    image = nib.load(path.with_name(path.name.replace(".tsv", ".nii.gz")))
    np.testing.assert_allclose(image.affine, grid.affine)
    np.testing.assert_array_equal(image.get_fdata(), np.array([np.nan, 10, np.nan, 30])[labels])


def test_series_of_surfaces_are_written_in_their_form(dense, hemispheres, tmp_path):
    values = series(dense.n_features, n_time_points=4)
    stem = tmp_path / "sub-1_task-x_space-fsLR_desc-forecastH1"
    (path,) = write_surface_series(stem, dense.grayordinates, values, 1.5)
    image = nib.load(path)
    assert path.name == "sub-1_task-x_space-fsLR_desc-forecastH1_bold.dtseries.nii"
    assert (image.header.get_axis(0).step, image.header.get_axis(0).unit) == (1.5, "SECOND")
    assert np.array_equal(image.get_fdata(dtype=np.float32), values)
    stem = tmp_path / "sub-1_task-x_space-fsaverage5_desc-forecastH1"
    values = series(hemispheres.n_features, n_time_points=4)
    left, right = write_surface_series(stem, hemispheres.grayordinates, values, 1.5)
    assert left.name == "sub-1_task-x_hemi-L_space-fsaverage5_desc-forecastH1_bold.func.gii"
    found = [nib.load(path).agg_data().T[:, used] for path, used in zip((left, right), USED.values(), strict=True)]
    assert np.array_equal(np.concatenate(found, axis=1), values)
