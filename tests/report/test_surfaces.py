import nibabel as nib
import numpy as np
import pytest
from surface_files import brain_models, parcels_axis, write_cifti, write_gifti

from titan_neuro.errors import ImageError
from titan_neuro.report import plot_map
from titan_neuro.report.brain import has_picture, map_values
from titan_neuro.report.surfaces import read_surface_map, structure_rows, surface_mesh

LEFT, RIGHT = "CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT"


def write_pair(folder, n_vertices, space="fsaverage5", stat="r2"):
    """A left hemisphere that is 0.5 in front of its middle vertex number, else -0.5; a right one of 0.25."""
    left = np.where(np.arange(n_vertices) < n_vertices // 2, 0.5, -0.5)
    left[:10] = np.nan
    stem = f"task-movie_hemi-{{}}_space-{space}_stat-{stat}_desc-arH1_statmap.func.gii"
    write_gifti(folder / stem.format("R"), [np.full(n_vertices, 0.25)], intent="NIFTI_INTENT_NONE")
    return write_gifti(folder / stem.format("L"), [left], intent="NIFTI_INTENT_NONE"), left


def scalars(path, values, axis):
    return write_cifti(path, np.asarray(values)[None], nib.cifti2.ScalarAxis(["r2"]), axis)


def test_hemispheres_are_read_as_one_map(tmp_path):
    path, left = write_pair(tmp_path, 40)
    for file in (path, path.with_name(path.name.replace("hemi-L", "hemi-R"))):
        found = read_surface_map(file)
        np.testing.assert_array_equal(found[LEFT], left)
        np.testing.assert_array_equal(found[RIGHT], 0.25)
    assert map_values(path).size == 70


def test_dense_scalars_are_read_by_structure(tmp_path):
    values = np.arange(73.0)
    path = scalars(tmp_path / "task-x_space-fsLR_stat-r2_desc-arH1_statmap.dscalar.nii", values, brain_models())
    found = read_surface_map(path)
    assert found[LEFT][:34].tolist() == values[:34].tolist()
    assert np.isnan(found[LEFT][34:]).all()
    assert found["CIFTI_STRUCTURE_THALAMUS_LEFT"].tolist() == [70, 71, 72]
    assert map_values(path).tolist() == values.tolist()
    rows = structure_rows(path)
    assert [(row["structure"], row["n"]) for row in rows] == [
        ("cortex left", "34"),
        ("cortex right", "36"),
        ("thalamus left", "3"),
    ]
    assert rows[2]["median"] == "71.0"


def test_parcel_scalars_are_painted(tmp_path):
    path = scalars(tmp_path / "task-x_seg-X_stat-r2_desc-arH1_statmap.pscalar.nii", [1, 2, np.nan, 4], parcels_axis())
    found = read_surface_map(path)
    assert found[LEFT].tolist()[:34] == [1] * 10 + [2] * 24
    assert np.isnan(found[RIGHT]).all()
    assert found["parcels of voxels"].tolist() == [4, 4, 4]
    assert map_values(path).tolist() == [1, 2, 4]


@pytest.mark.parametrize(
    ("n_vertices", "space", "has_mesh"),
    [
        (10242, "fsaverage5", True),
        (10242, "fsaverage", True),
        (40962, "fsaverage6", True),
        (10242, "fsLR", False),
        (40, "fsaverage5", False),
    ],
)
def test_only_meshes_at_hand_are_drawn_on(tmp_path, n_vertices, space, has_mesh):
    path, _ = write_pair(tmp_path, n_vertices, space)
    assert has_picture(path, {"Space": space}) == has_mesh
    if not has_mesh:
        with pytest.raises(ImageError, match=f"no mesh of {space} is at hand"):
            plot_map(path, {"Space": space}, "x")


@pytest.mark.parametrize("n_vertices", [10242, 40962])
def test_values_lie_on_their_vertices(tmp_path, n_vertices):
    path, left = write_pair(tmp_path, n_vertices)
    figure = plot_map(path, {"Space": "fsaverage5"}, "x", limit=0.5)
    views = [axes for axes in figure.axes if axes.name == "3d"]
    assert len(views) == 4
    mesh, _ = surface_mesh(path, "fsaverage5")
    faces = mesh.parts["left"].faces
    of_face = np.median(left[:10242][faces], axis=1)
    # In the order of the faces; what is drawn is sorted by depth.
    colors = vars(views[0].collections[0])["_facecolor3d"]
    red, blue = colors[of_face > 0.4], colors[of_face < -0.4]
    assert (red[:, 0] > red[:, 2]).all()
    assert (blue[:, 0] < blue[:, 2]).all()
    assert np.ptp(colors[np.isnan(of_face), :3], axis=1).max() == 0


def test_timescales_are_colored_by_their_logarithm(tmp_path):
    left, _ = write_pair(tmp_path, 10242, stat="timescale")
    write_gifti(left, [2.0 ** (np.arange(10242) % 5)], intent="NIFTI_INTENT_NONE")
    figure = plot_map(left, {"Space": "fsaverage5"}, "x")
    assert any(axes.get_xlabel() == "timescale (s)" for axes in figure.axes)


def test_damaged_maps_are_named(tmp_path):
    path, _ = write_pair(tmp_path, 40)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageError, match="can't be read as a map on surfaces") as caught:
        map_values(path)
    assert str(path) in caught.value.message
