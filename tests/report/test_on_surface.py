"""What is planted at a place of the brain is drawn there on the surface: left on the left, in data and pictures."""

import base64

import nibabel as nib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from nilearn.datasets import load_fsaverage
from surface_files import write_gifti

from titan_neuro.data.bids.maps import write_map
from titan_neuro.data.grayordinates import whole_surfaces
from titan_neuro.data.space import ParcelLayout, Space
from titan_neuro.report.brain import plot_on_surface
from titan_neuro.report.maps import maps_section
from titan_neuro.report.results import read_results
from titan_neuro.report.surface_viewer import highest_vertices, surface_viewer
from titan_neuro.report.surfaces import fsaverage5_values

BLOB_MM, RADIUS_MM = np.array([-52.0, -22.0, 8.0]), 12.0
"""In the left auditory cortex."""
MNI = {"Space": "MNI152NLin2009cAsym"}


def grid(*steps, origin):
    return nib.affines.from_matvec(np.diag(steps), origin)


GRIDS = {
    "RAS": (grid(3, 3, 3, origin=(-90, -126, -72)), (61, 73, 61)),
    "LPI": (grid(-3, -3, -3, origin=(90, 90, 108)), (61, 73, 61)),
}


def blob_at(points):
    return np.linalg.norm(points - BLOB_MM, axis=-1) < RADIUS_MM


def points_of(affine, shape):
    return nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


def write_blob(folder, orientation="RAS"):
    affine, shape = GRIDS[orientation]
    path = folder / "task-movie_stat-skillar_desc-titanmacH1_statmap.nii.gz"
    nib.Nifti1Image(np.where(blob_at(points_of(affine, shape)), 1, 1e-3).astype(np.float32), affine).to_filename(path)
    return path


def surface_mm(hemisphere):
    """Where vertices lie in the brain, halfway between its white and pial surface."""
    meshes = load_fsaverage("fsaverage5")
    return sum(meshes[kind].parts[hemisphere].coordinates for kind in ("white_matter", "pial")) / 2


def red_places(figure):
    """Of each view, where its red pixels lie in the box of what is drawn: across and down, 0 to 1; None without any."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(150)
    for axes in figure.axes:
        axes.set_title("")
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba()).astype(int)[..., :3]
    places = []
    for axes in (axes for axes in figure.axes if axes.name == "3d"):
        box = axes.get_window_extent()
        height = len(pixels)
        view = pixels[round(height - box.y1) + 10 : round(height - box.y0) - 10, round(box.x0) : round(box.x1)]
        brain, red = np.argwhere((view < 250).any(axis=2)), np.argwhere(view[..., 0] > view[..., 2] + 60)
        low, high = brain.min(axis=0), brain.max(axis=0)
        places.append(tuple(((red.mean(axis=0) - low) / (high - low))[::-1]) if len(red) > 20 else None)
    return places


def planted_place():
    """Where the blob lies in the inflated left hemisphere seen from the left: across (front first) and down."""
    inflated = load_fsaverage("fsaverage5")["inflated"].parts["left"].coordinates[:, 1:]
    low, high = inflated.min(axis=0), inflated.max(axis=0)
    return (high - inflated[blob_at(surface_mm("left"))].mean(axis=0)) / (high - low)


@pytest.mark.parametrize("orientation", GRIDS)
def test_a_blob_in_a_volume_is_on_its_vertices(tmp_path, orientation):
    values = fsaverage5_values(write_blob(tmp_path, orientation), MNI["Space"])
    assert not (values["right"] == 1).any()
    distance = np.linalg.norm(surface_mm("left") - BLOB_MM, axis=1)
    half_diagonal = np.sqrt(3) * 1.5
    assert (distance < RADIUS_MM - half_diagonal).sum() > 30
    assert (values["left"][distance < RADIUS_MM - half_diagonal] == 1).all()
    assert not (values["left"][distance > RADIUS_MM + half_diagonal] == 1).any()


def test_a_vertex_without_a_value_halfway_takes_one_nearer(tmp_path):
    path = write_blob(tmp_path)
    image = nib.load(path)
    meshes, data = load_fsaverage("fsaverage5"), image.get_fdata()
    white, pial = (meshes[kind].parts["left"].coordinates for kind in ("white_matter", "pial"))
    to_voxels = np.linalg.inv(image.affine)
    half, quarter = (
        np.rint(nib.affines.apply_affine(to_voxels, white + depth * (pial - white))).astype(int)
        for depth in (0.5, 0.25)
    )
    vertex = int((half != quarter).any(axis=1).argmax())
    data[tuple(half[vertex])], data[tuple(quarter[vertex])] = np.nan, 7
    nib.Nifti1Image(data, image.affine).to_filename(path)
    assert fsaverage5_values(path, MNI["Space"])["left"][vertex] == 7


def test_the_picture_shows_a_blob_on_the_left(tmp_path):
    views = red_places(plot_on_surface(write_blob(tmp_path), MNI, "x", limit=1))
    # Left lateral, left medial, right medial, right lateral.
    np.testing.assert_allclose(views[0], planted_place(), atol=0.03)
    assert views[2:] == [None, None]


def parcels_of(space, inside):
    """Two parcels in a space: what was planted, and the rest."""
    layout = ParcelLayout(
        space=space,
        labels=np.where(inside, 0, 1).astype(np.int32),
        names=("planted", "rest"),
        hemispheres=("L", ""),
        networks=("", ""),
    )
    return Space(kind="parcels", name="X", parcels=("planted", "rest"), layout=layout)


def parcels_on(kind):
    if kind == "volume":
        affine, shape = GRIDS["LPI"]
        points = points_of(affine, shape)
        mask = np.linalg.norm(points - [0, -18, 10], axis=-1) < 100
        return parcels_of(Space(kind="volume", name=MNI["Space"], mask=mask, affine=affine), blob_at(points)[mask])
    space = Space(kind="surface", name="fsaverage5", grayordinates=whole_surfaces({"L": 10242, "R": 10242}))
    return parcels_of(space, np.concatenate([blob_at(surface_mm(side)) for side in ("left", "right")]))


@pytest.mark.parametrize("kind", ["volume", "surface"])
def test_a_planted_parcel_is_shown_where_it_lies(output_folder, kind):
    output = output_folder().scores()
    space = parcels_on(kind)
    write_map(output.group / "task-movie", "stat-skillar_desc-titanmacH1", space, np.array([0.9, 0.001]), {})
    results = read_results(output.root)
    figure = next(figure for figure in maps_section(results)["figures"] if "absent" not in figure)
    highest, *_ = figure["surface_viewer"]["peaks"]
    assert (highest.hemisphere, highest.value) == ("left", "0.900")
    assert np.linalg.norm(np.array(highest[1:4]) - BLOB_MM) < RADIUS_MM
    [path], [stat_map] = results.maps[0].images, results.maps
    views = red_places(plot_on_surface(path, stat_map.sidecar, "x", limit=1))
    np.testing.assert_allclose(views[0], planted_place(), atol=0.05)
    assert views[2:] == [None, None]
    # A volume is drawn as slices and on the surface; a surface once.
    assert ("on_surface" in figure) == (kind == "volume")


def test_the_viewer_has_the_values_of_the_vertices(tmp_path):
    path = write_blob(tmp_path)
    viewer = surface_viewer(path, MNI, "skillar")
    for part in viewer["hemispheres"]:
        values = np.frombuffer(base64.b64decode(part["value"]), "<f4")
        np.testing.assert_array_equal(values, fsaverage5_values(path, MNI["Space"])[part["name"]].astype(np.float32))
        mm = np.frombuffer(base64.b64decode(part["mm"]), "i1").reshape(-1, 3)
        np.testing.assert_allclose(mm, surface_mm(part["name"]), atol=0.51)
        mesh = np.frombuffer(base64.b64decode(part["mesh"]), "<i2").reshape(-1, 3) / 100
        inflated = load_fsaverage("fsaverage5")["inflated"].parts[part["name"]]
        np.testing.assert_allclose(mesh, inflated.coordinates, atol=0.006)
        faces = np.frombuffer(base64.b64decode(viewer["faces"]), "<u2").reshape(-1, 3)
        np.testing.assert_array_equal(faces, inflated.faces)


def test_a_surface_without_values_or_mesh_has_no_viewer(tmp_path):
    path = tmp_path / "task-movie_hemi-L_space-{}_stat-r2_desc-arH1_statmap.func.gii"
    for space, values in (("fsLR", np.ones(40)), ("fsaverage5", np.full(10242, np.nan))):
        file = write_gifti(path.with_name(path.name.format(space)), [values], intent="NIFTI_INTENT_NONE")
        assert surface_viewer(file, {"Space": space}, "r2") is None


def test_highest_vertices_are_apart_and_of_ties_the_middle():
    mm = np.stack([np.arange(100.0), np.zeros(100), np.zeros(100)], axis=1)
    values = np.zeros(100)
    values[10:31], values[33], values[60] = 5, 4, 3
    assert highest_vertices(values, mm)[:2] == [20, 60]
    assert highest_vertices(np.full(100, np.nan), mm) == []
