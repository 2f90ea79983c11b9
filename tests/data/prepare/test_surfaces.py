from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from surface_files import (
    N_TIME_POINTS,
    N_VERTICES,
    TR,
    USED,
    VOXELS,
    brain_models,
    hemisphere,
    parcels_axis,
    series,
    write_cifti,
    write_dtseries,
    write_gifti,
    write_ptseries,
)

from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.grayordinates import from_axis, to_axis
from titan_neuro.data.prepare.surfaces import SurfaceSeries, load_gifti, read_parcel_series
from titan_neuro.errors import ImageError, MetadataError

N_SURFACE = sum(map(len, USED.values()))


def recording(path, hemispheres=None, **entities):
    return Recording(
        path=path,
        kind="surface",
        route="surface",
        entities={"subject": "1", "task": "x", **entities},
        sidecar={"RepetitionTime": TR},
        events=None,
        mask=None,
        hemispheres=hemispheres or {},
    )


def of_hemispheres(folder, left, right):
    paths = {
        "L": write_gifti(folder / "hemi-L_bold.func.gii", left),
        "R": write_gifti(folder / "hemi-R.func.gii", right),
    }
    return SurfaceSeries(recording(paths["L"], paths, space="fsaverage5"))


@pytest.mark.parametrize("voxels", [False, True])
def test_dense_series_are_grayordinates_in_order(tmp_path, voxels):
    axis = brain_models(voxels)
    values = series(len(axis))
    found = SurfaceSeries(recording(write_dtseries(tmp_path / "x_bold.dtseries.nii", values, axis), space="fsLR"))
    assert found.header_repetition_time == TR
    assert (found.n_time_points, found.n_left_out) == (N_TIME_POINTS, 0)
    assert (found.space.kind, found.space.name, found.space.n_features) == ("surface", "fsLR", len(axis))
    assert np.array_equal(found.read(7, 31), values[7:31])
    assert to_axis(found.space.grayordinates) == axis


# Its values lie in another file.
GIFTI = """<?xml version="1.0"?><GIFTI Version="1.0" NumberOfDataArrays="1"><DataArray Intent="NIFTI_INTENT_NONE"
DataType="NIFTI_TYPE_FLOAT32" ArrayIndexingOrder="RowMajorOrder" Dimensionality="1" Dim0="4" Endian="LittleEndian"
Encoding="ExternalFileBinary" ExternalFileName="{}" ExternalFileOffset="0"><Data></Data></DataArray></GIFTI>"""


def test_axis_survives_the_round_trip_through_grayordinates():
    axis = brain_models()
    points = from_axis(axis)
    assert np.array_equal(points.vertices("CIFTI_STRUCTURE_CORTEX_RIGHT")[0], USED["R"])
    assert np.array_equal(np.column_stack(np.unravel_index(points.points[-3:, 1], points.shape)), VOXELS)
    assert to_axis(points.select(np.arange(5, 71))) == axis[5:71]


@pytest.mark.parametrize("empty", [0.0, np.nan])
def test_what_is_empty_throughout_is_left_out(tmp_path, empty):
    values = series(len(brain_models()))
    values[:, [3, 40]] = empty
    found = SurfaceSeries(recording(write_dtseries(tmp_path / "x.dtseries.nii", values)))
    assert found.n_left_out == 2
    assert np.array_equal(found.read(0, 9), np.delete(values, [3, 40], axis=1)[:9])


@pytest.mark.parametrize(("time_point", "value", "is_left"), [(0, 0.0, True), (0, np.nan, False), (30, np.nan, False)])
def test_a_gap_in_time_is_no_medial_wall(tmp_path, time_point, value, is_left):
    values = series(len(brain_models()))
    values[time_point, 40] = value
    found = SurfaceSeries(recording(write_dtseries(tmp_path / "x.dtseries.nii", values)))
    assert found.n_left_out == 0
    if is_left:
        assert found.read(0, 1)[0, 40] == 0
    else:
        with pytest.raises(ImageError, match=f"in volume {time_point}, CIFTI_STRUCTURE_CORTEX_RIGHT, vertex 6"):
            found.read(0, N_TIME_POINTS)


@pytest.mark.parametrize("walls", [(0.0, 0.0), (np.nan, np.nan), (np.nan, 0.0)])
def test_hemispheres_are_one_recording_without_the_medial_wall(tmp_path, walls):
    left, right = hemisphere("L", walls[0]), hemisphere("R", walls[1])
    found = of_hemispheres(tmp_path, left, right)
    assert found.space.n_features == N_SURFACE
    assert found.n_left_out == 2 * N_VERTICES - N_SURFACE
    expected = np.concatenate([left[:, USED["L"]], right[:, USED["R"]]], axis=1)
    assert np.array_equal(found.read(0, N_TIME_POINTS), expected)
    assert found.header_repetition_time is None
    assert found.space.grayordinates.form == "gifti"


def test_gifti_with_one_array_of_vertices_by_time(tmp_path):
    left, right = hemisphere("L"), hemisphere("R")
    expected = of_hemispheres(tmp_path / "a", left, right).read(0, N_TIME_POINTS)
    found = of_hemispheres(tmp_path / "b", [left.T], [right.T])
    assert np.array_equal(found.read(0, N_TIME_POINTS), expected)


def test_hemispheres_of_other_lengths_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"found 60 in hemi-L_bold.func.gii and 59 in hemi-R.func.gii"):
        of_hemispheres(tmp_path, hemisphere("L"), hemisphere("R")[:-1])


def test_content_of_the_other_hemisphere_is_refused(tmp_path):
    path = write_gifti(
        tmp_path / "x_hemi-L_bold.func.gii", hemisphere("L"), meta={"AnatomicalStructurePrimary": "CortexRight"}
    )
    with pytest.raises(ImageError, match="its name says hemi-L, its content CortexRight"):
        SurfaceSeries(recording(path, {"L": path}))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((N_TIME_POINTS, N_VERTICES)), "every vertex is 0 or NaN throughout"),
        (hemisphere("L")[:1], "at least 2 time points, found 1"),
        ([np.zeros((N_VERTICES, 3)), np.zeros((76, 3))], "expected one array of values for each time point"),
        ([], "found arrays of the shapes none"),
    ],
)
def test_gifti_files_that_are_no_series(tmp_path, rows, message):
    path = write_gifti(tmp_path / "x_hemi-L_bold.func.gii", rows)
    with pytest.raises(ImageError, match=message):
        SurfaceSeries(recording(path, {"L": path}))


def test_damaged_files_are_named(tmp_path):
    whole = {
        "gii": write_gifti(tmp_path / "a.gii", hemisphere("L")),
        "nii": write_dtseries(tmp_path / "a.dtseries.nii"),
    }
    for ending, path in whole.items():
        content = path.read_bytes()
        damaged = tmp_path / f"b.dtseries.{ending}" if ending == "nii" else tmp_path / "b.gii"
        for length in (0, 400, len(content) - 500):
            damaged.write_bytes(content[:length])
            hemispheres = {"L": damaged} if ending == "gii" else {}
            with pytest.raises(ImageError, match="can't be read") as caught:
                SurfaceSeries(recording(damaged, hemispheres)).read(0, N_TIME_POINTS)
            assert str(damaged) in caught.value.message


def test_other_cifti_files_are_refused(tmp_path):
    plain = tmp_path / "x.dtseries.nii"
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.float32), np.eye(4)), plain)
    with pytest.raises(ImageError, match="expected a CIFTI-2 file, found Nifti1Image"):
        SurfaceSeries(recording(plain))
    with pytest.raises(ImageError, match="found the axes SeriesAxis, ParcelsAxis"):
        SurfaceSeries(recording(write_ptseries(tmp_path / "y.dtseries.nii")))
    with pytest.raises(ImageError, match=r"SeriesAxis, ParcelsAxis\), found the axes SeriesAxis, BrainModelAxis"):
        read_parcel_series(write_dtseries(tmp_path / "z.ptseries.nii"))
    scalars = write_cifti(
        tmp_path / "u.dtseries.nii", series(73, n_time_points=2), nib.cifti2.ScalarAxis(["a", "b"]), brain_models()
    )
    with pytest.raises(ImageError, match="found the axes ScalarAxis, BrainModelAxis"):
        SurfaceSeries(recording(scalars))


@pytest.mark.parametrize(
    ("step", "unit", "expected"), [(0.72, "SECOND", 0.72), (0.0, "SECOND", None), (2.0, "HERTZ", "")]
)
def test_repetition_time_is_that_of_the_series_axis(tmp_path, step, unit, expected):
    path = write_dtseries(tmp_path / "x.dtseries.nii", step=step, unit=unit)
    if expected == "":
        with pytest.raises(MetadataError, match=r"found a step of 2\.0 HERTZ"):
            SurfaceSeries(recording(path))
    else:
        assert SurfaceSeries(recording(path)).header_repetition_time == expected


def test_parcel_series_have_names_places_and_repetition_time(tmp_path):
    values = series(4)
    found, layout, step = read_parcel_series(write_ptseries(tmp_path / "x_space-fsLR_timeseries.ptseries.nii", values))
    assert np.array_equal(found, values)
    assert step == TR
    assert layout.names == ("LH_Vis_1", "LH_Default_1", "RH_Vis_1", "Thalamus")
    assert layout.hemispheres == ("L", "L", "R", "")
    assert layout.networks == ("Vis", "Default", "Vis", "")
    assert np.bincount(layout.labels).tolist() == [10, 24, 31, 3]
    left = layout.space.grayordinates.vertices("CIFTI_STRUCTURE_CORTEX_LEFT")
    assert np.array_equal(layout.labels[left[1]], (left[0] >= 10).astype(int))


def test_parcels_that_are_not_distinct_are_refused(tmp_path):
    axis = parcels_axis(("a", "b", "a", "c"))
    with pytest.raises(ImageError, match="found a twice"):
        read_parcel_series(write_ptseries(tmp_path / "x.ptseries.nii", axis=axis))
    axis = parcels_axis()
    axis.vertices[1] = {"CIFTI_STRUCTURE_CORTEX_LEFT": np.arange(9, 34)}
    with pytest.raises(ImageError, match="each vertex and voxel in one parcel"):
        read_parcel_series(write_ptseries(Path(tmp_path / "y.ptseries.nii"), axis=axis))


@pytest.mark.parametrize(("name", "message"), [("../values", "leads out of it"), ("values", "can't be read")])
def test_values_in_a_file_elsewhere_are_not_read(tmp_path, name, message):
    text = GIFTI.format(name)
    (tmp_path / "x_hemi-L_bold.func.gii").write_text(text)
    with pytest.raises(ImageError, match=message):
        load_gifti(tmp_path / "x_hemi-L_bold.func.gii", "L")
