from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.datasets import load_fsaverage
from surface_files import brain_models, parcels_axis, write_cifti, write_gifti

from titan_neuro.data.bids.maps import write_map
from titan_neuro.data.grayordinates import whole_surfaces
from titan_neuro.data.space import ParcelLayout, Space
from titan_neuro.errors import ImageError
from titan_neuro.report import plot_map, write_report
from titan_neuro.report.brain import has_picture, map_values
from titan_neuro.report.limits import limits
from titan_neuro.report.maps import maps_section
from titan_neuro.report.parcels import networks_of
from titan_neuro.report.results import read_results
from titan_neuro.report.surfaces import read_surface_map, structure_rows

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
    faces = load_fsaverage("fsaverage5")["inflated"].parts["left"].faces
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


NAMES = ("7Networks_LH_Vis_1", "7Networks_LH_Default_1", "7Networks_RH_Vis_1", "7Networks_RH_Default_1")


def whole_surfaces_space(n_vertices, name, form):
    points = replace(whole_surfaces({"L": n_vertices, "R": n_vertices}), form=form)
    return Space(kind="surface", name=name, grayordinates=points)


def parcels_in(space):
    """Four parcels: the halves of each hemisphere, or of a grid."""
    layout = ParcelLayout(
        space=space,
        labels=np.arange(space.n_features, dtype=np.int32) * 4 // space.n_features,
        names=NAMES,
        hemispheres=("L", "L", "R", "R"),
        networks=("Vis", "Default") * 2,
    )
    return Space(kind="parcels", name="X", parcels=NAMES, layout=layout)


def with_map(output, space):
    output.scores()
    values = np.linspace(-0.1, 0.5, space.n_features)
    write_map(output.group / "task-movie", "stat-skillar_desc-titanmacH1", space, values, {})
    return output


def figure_of(output):
    figures = maps_section(read_results(output.root))["figures"]
    return next(figure for figure in figures if "absent" not in figure)


def kinds_of(figure):
    return [alt.partition(":")[0] for _, alt in figure["pictures"]]


@pytest.mark.parametrize("form", ["gifti", "cifti"])
def test_maps_on_surfaces_are_shown(output_folder, form):
    figure = figure_of(with_map(output_folder(), whole_surfaces_space(10242, "fsaverage5", form)))
    assert kinds_of(figure) == ["Brain map"]
    assert figure["structures"] == []
    assert f"of 20,484 {'vertices' if form == 'gifti' else 'grayordinates'} are above 0" in figure["caption"]


def test_the_page_has_a_table_where_there_is_no_mesh(output_folder):
    output = with_map(output_folder(), whole_surfaces_space(40, "fsLR", "cifti"))
    page = write_report(output.root).read_text(encoding="utf-8")
    assert "The data lie on surfaces." in page
    assert "Brain map" not in page
    assert page.count("No mesh of this space is at hand") == 1
    assert page.count('<th scope="row">cortex left</th>') == 1


@pytest.mark.parametrize(
    ("name", "kinds"), [("fsaverage", ["Brain map", "Values of parcels"]), ("fsLR", ["Values of parcels"])]
)
def test_parcels_are_shown_on_surfaces(output_folder, name, kinds):
    output = with_map(output_folder(), parcels_in(whole_surfaces_space(10242, name, "cifti")))
    assert kinds_of(figure_of(output)) == kinds
    assert not any("without the image of the atlas" in limit for limit in limits(read_results(output.root)))


def test_parcels_are_shown_on_the_image_of_the_atlas(output_folder):
    output = output_folder()
    mask = output.mask.get_fdata() > 0
    grid = Space(kind="volume", name="MNI152NLin2009cAsym", mask=mask, affine=output.mask.affine)
    figure = figure_of(with_map(output, parcels_in(grid)))
    assert kinds_of(figure) == ["Brain map", "Values of parcels"]
    assert "Images in MNI152NLin2009cAsym, over the MNI152 template." in figure["caption"]
    assert ".tsv, " in figure["file"]


def test_a_table_of_an_atlas_gives_the_networks():
    table = pd.DataFrame({"parcel": ["a", "b"], "hemisphere": ["L", "R"], "network": ["Vis", "Cont"]})
    assert networks_of(table).to_numpy().tolist() == [["L", "Vis"], ["R", "Cont"]]
    assert networks_of(table.assign(network=["Vis", "n/a"])) is None
