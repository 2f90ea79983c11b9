import nibabel as nib
import numpy as np
import pytest
from surface_files import (
    N_VERTICES,
    USED,
    brain_models,
    hemisphere,
    labels_of,
    series,
    write_cifti,
    write_dlabel,
    write_dtseries,
    write_gifti,
    write_label_gifti,
)

from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.atlas import atlas_name, match_table, read_atlas
from titan_neuro.data.prepare.surfaces import SurfaceSeries
from titan_neuro.data.prepare.time_series import ParcelMeans
from titan_neuro.data.space import Space
from titan_neuro.errors import ImageError, InputNotFoundError, MetadataError

NAMES = ("LH_Vis_1", "LH_Default_1", "RH_Vis_1", "Thalamus")


def recording(path, hemispheres=None, space="fsLR"):
    return Recording(
        path=path,
        kind="surface",
        route="surface",
        entities={"subject": "1", "task": "x", "space": space},
        sidecar={"RepetitionTime": 1.5},
        events=None,
        mask=None,
        hemispheres=hemispheres or {},
    )


@pytest.fixture
def dense(tmp_path):
    values = series(len(brain_models()))
    return SurfaceSeries(recording(write_dtseries(tmp_path / "run.dtseries.nii", values))), values


@pytest.fixture
def gifti(tmp_path):
    sides = {side: hemisphere(side) for side in "LR"}
    paths = {side: write_gifti(tmp_path / f"run_hemi-{side}.func.gii", rows) for side, rows in sides.items()}
    return SurfaceSeries(recording(paths["L"], paths, "fsaverage5")), sides


def label_pair(folder, names=None, right_offset=2, stem="tpl-fsaverage_hemi-{}_den-10k_atlas-X_dseg.label.gii"):
    """Left: 1 below vertex 10, then 2; right: 0 below vertex 5, then 1 above `right_offset`."""
    names = names or {"L": {1: "LH_Vis_1", 2: "LH_Default_1"}, "R": {right_offset + 1: "RH_Vis_1"}}
    left = np.where(np.arange(N_VERTICES) < 10, 1, 2)
    left[len(USED["L"]) :] = 0
    right = np.where(np.arange(N_VERTICES) >= 5, right_offset + 1, 0)
    right[len(USED["R"]) :] = 0
    paths = {side: folder / stem.format(side) for side in "LR"}
    write_label_gifti(paths["L"], left, names["L"])
    write_label_gifti(paths["R"], right, names["R"])
    return paths


def means(values, labels):
    return np.column_stack([values[:, labels == label].mean(axis=1) for label in np.unique(labels[labels > 0])])


def test_dlabel_gives_means_of_dense_series(tmp_path, dense):
    run, values = dense
    atlas = read_atlas(write_dlabel(tmp_path / "atlas-X_dseg.dlabel.nii"), run.space)
    parcels = ParcelMeans(run, atlas)
    assert parcels.space.parcels == NAMES
    np.testing.assert_allclose(parcels.read(0, 20), means(values[:20], labels_of(brain_models())), rtol=1e-5)
    assert parcels.space.layout.hemispheres == ("L", "L", "R", "L")
    assert parcels.space.layout.networks == ("Vis", "Default", "Vis", "")


@pytest.mark.parametrize("voxels", [False, True])
def test_dlabel_with_medial_wall_is_matched_by_vertex(tmp_path, dense, voxels):
    run, values = dense
    whole = nib.cifti2.BrainModelAxis.from_mask(np.ones(N_VERTICES, bool), "CortexLeft")
    whole = whole + nib.cifti2.BrainModelAxis.from_mask(np.ones(N_VERTICES, bool), "CortexRight")
    axis = whole + brain_models()[-3:] if voxels else whole
    atlas = read_atlas(write_dlabel(tmp_path / "x.dlabel.nii", axis), run.space)
    expected = means(values, labels_of(brain_models()))
    found = ParcelMeans(run, atlas).read(0, len(values))
    np.testing.assert_allclose(found, expected[:, : len(atlas.names)], rtol=1e-5)
    assert tuple(atlas.names.values()) == NAMES[: 4 if voxels else 3]


@pytest.mark.parametrize("given", ["L", "R"])
@pytest.mark.parametrize("right_offset", [0, 2])
def test_label_files_of_hemispheres(tmp_path, gifti, given, right_offset):
    run, sides = gifti
    atlas = read_atlas(label_pair(tmp_path, right_offset=right_offset)[given], run.space)
    assert atlas.names == {1: "LH_Vis_1", 2: "LH_Default_1", 3: "RH_Vis_1"}
    assert atlas.name == "X"
    found = ParcelMeans(run, atlas).read(0, 8)
    left, right = sides["L"][:8], sides["R"][:8]
    expected = [left[:, :10].mean(1), left[:, 10:34].mean(1), right[:, 5:36].mean(1)]
    np.testing.assert_allclose(found, np.column_stack(expected), rtol=1e-5)
    assert atlas.layout.space.grayordinates.form == "gifti"


def test_label_files_fit_dense_series(tmp_path, dense):
    run, values = dense
    atlas = read_atlas(label_pair(tmp_path, stem="X.{}.32k.label.gii")["L"], run.space)
    found = ParcelMeans(run, atlas).read(0, 5)
    np.testing.assert_allclose(found, means(values[:5], labels_of(brain_models()))[:, :3], rtol=1e-5)
    assert atlas.layout.space.grayordinates.form == "cifti"


def test_annot_files_of_hemispheres(tmp_path, gifti):
    run, sides = gifti
    names = {"l": ["Background+FreeSurfer_Defined_Medial_Wall", "Vis", "Default"], "r": ["unknown", "Vis", "Default"]}
    for side, listed in names.items():
        labels = np.where(np.arange(N_VERTICES) < 10, 1, 2)
        labels[30:] = 0
        colors = np.array([[n, 9 * n, 7, 0, n + (9 * n << 8) + (7 << 16)] for n in range(3)])
        nib.freesurfer.write_annot(tmp_path / f"{side}h.mine.annot", labels, colors, listed)
    atlas = read_atlas(tmp_path / "rh.mine.annot", run.space)
    # Both hemispheres have the same names and numbers.
    assert atlas.names == {1: "LH_Vis", 2: "LH_Default", 3: "RH_Vis", 4: "RH_Default"}
    assert atlas.name == "mine"
    expected = [sides["L"][0, :10].mean(), sides["L"][0, 10:30].mean(), sides["R"][0, :10].mean()]
    np.testing.assert_allclose(ParcelMeans(run, atlas).read(0, 1)[0, :3], expected, rtol=1e-5)


def test_a_missing_hemisphere_is_named(tmp_path, gifti):
    paths = label_pair(tmp_path)
    paths["R"].unlink()
    with pytest.raises(InputNotFoundError, match=r"hemi-R_den-10k_atlas-X_dseg\.label\.gii: no such file"):
        read_atlas(paths["L"], gifti[0].space)
    lone = write_label_gifti(tmp_path / "mine.label.gii", np.ones(N_VERTICES), {1: "a"})
    with pytest.raises(ImageError, match="expected a hemisphere in the name"):
        read_atlas(lone, gifti[0].space)


@pytest.mark.parametrize(
    ("run_space", "file", "fits"),
    [
        ("fsLR", "tpl-fsLR_den-91k_atlas-X_dseg.dlabel.nii", True),
        ("fsLR", "mine.dlabel.nii", True),
        ("fsLR", "tpl-fsaverage_den-164k_atlas-X_dseg.dlabel.nii", False),
        ("fsaverage5", "tpl-fsaverage_den-10k_atlas-X_dseg.dlabel.nii", True),
        ("fsnative", "tpl-fsaverage_atlas-X_dseg.dlabel.nii", False),
    ],
)
def test_atlas_must_be_in_the_space_of_the_surfaces(tmp_path, dense, run_space, file, fits):
    space = Space(kind="surface", name=run_space, grayordinates=dense[0].space.grayordinates)
    path = write_dlabel(tmp_path / file)
    if fits:
        assert read_atlas(path, space).names
    else:
        with pytest.raises(ImageError, match=f"in the space of the run, {run_space}, found one in the space fsaverage"):
            read_atlas(path, space)


def test_atlas_of_another_density_is_refused(tmp_path, dense):
    axis = nib.cifti2.BrainModelAxis.from_mask(np.ones(50, bool), "CortexLeft")
    with pytest.raises(
        ImageError, match="expected 40 vertices of CIFTI_STRUCTURE_CORTEX_LEFT, as the run has, found 50"
    ):
        read_atlas(write_dlabel(tmp_path / "x.dlabel.nii", axis), dense[0].space)


def test_atlas_and_run_of_other_kinds(tmp_path, dense):
    image = tmp_path / "x.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.int16), np.eye(4)), image)
    with pytest.raises(ImageError, match="expected an atlas on surfaces"):
        read_atlas(image, dense[0].space)
    volume = Space(kind="volume", name="MNI152NLin6Asym", mask=np.ones((4, 5, 6), bool), affine=np.eye(4))
    with pytest.raises(ImageError, match="expected an image of voxels"):
        read_atlas(write_dlabel(tmp_path / "x.dlabel.nii"), volume)


def test_dlabel_of_several_maps_is_refused(tmp_path, dense):
    axis = brain_models()
    tables = [{0: ("???", (0, 0, 0, 0)), 1: ("a", (1, 0, 0, 1))}] * 2
    path = write_cifti(
        tmp_path / "x.dlabel.nii", np.ones((2, len(axis))), nib.cifti2.LabelAxis(["a", "b"], tables), axis
    )
    with pytest.raises(ImageError, match=r"expected one map of labels of grayordinates .*, found 2 rows"):
        read_atlas(path, dense[0].space)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (
            "tpl-fsLR_den-91k_atlas-Schaefer2018_desc-400Parcels7Networks_dseg.dlabel.nii",
            "Schaefer2018400Parcels7Networks",
        ),
        ("tpl-fsaverage_hemi-R_den-10k_atlas-X_dseg.label.gii", "X"),
        ("Schaefer2018_200Parcels_7Networks_order.dlabel.nii", "Schaefer2018200Parcels7Networksorder"),
        ("lh.aparc.annot", "aparc"),
        ("fs_LR.L.aparc.32k.label.gii", "fsLRaparc32k"),
    ],
)
def test_names_of_atlases_lack_hemisphere_and_ending(tmp_path, file, name):
    assert atlas_name(tmp_path / file) == name


LABELS = np.arange(60).reshape(3, 4, 5) % 5


def image_atlas(folder, rows=None, name="atlas-X_dseg"):
    path = folder / f"{name}.nii.gz"
    nib.save(nib.Nifti1Image(LABELS.astype(np.int16), np.diag([4, 4, 4, 1.0])), path)
    if rows is not None:
        lines = ["\t".join(row) for row in rows]
        path.with_name(f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return path


SCHAEFER = [
    ("index", "name"),
    ("1", "7Networks_LH_Vis_1"),
    ("2", "7Networks_LH_Default_1"),
    ("3", "7Networks_RH_Vis_1"),
    ("4", "7Networks_RH_Cont_PFCl_1"),
]


@pytest.mark.parametrize(
    "columns",
    [
        [name for _, name in SCHAEFER[1:]],
        [name.removeprefix("7Networks_") for _, name in SCHAEFER[1:]],
        [f"Schaefer4_{number:03d}" for number in range(1, 5)],
        ["1", "2", "3", "4"],
        ["ROI10", "ROI20", "ROI30", "ROI40"],
    ],
)
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_columns_of_a_table_are_found_in_the_atlas(tmp_path, columns, order):
    rows = SCHAEFER
    labels = LABELS
    if columns[0] == "ROI10":
        rows = [SCHAEFER[0], *((f"{10 * int(index)}", name) for index, name in SCHAEFER[1:])]
        labels = 10 * LABELS
    path = image_atlas(tmp_path, rows)
    nib.save(nib.Nifti1Image(labels.astype(np.int16), np.eye(4)), path)
    names, layout = match_table(path, [columns[n] for n in order])
    assert names == tuple(SCHAEFER[1:][n][1] for n in order)
    assert layout.hemispheres == ("L", "L", "R", "R")
    assert layout.networks == ("Vis", "Default", "Vis", "Cont")
    values = np.array([1.0, 2, 3, 4])
    painted = layout.space.scatter(layout.paint(names, values[order]), np.nan)
    assert np.array_equal(np.nan_to_num(painted), LABELS)


def test_hemisphere_and_network_are_read_from_the_table(tmp_path):
    rows = [("index", "label", "hemisphere", "network_label"), ("1", "a", "Left", "Vis"), ("2", "b", "R", "n/a")]
    rows += [("3", "c", "", "Cont"), ("4", "LH_Limbic_1", "", "")]
    _, layout = match_table(image_atlas(tmp_path, rows), ["a", "b", "c", "LH_Limbic_1"])
    assert layout.hemispheres == ("L", "R", "", "L")
    assert layout.networks == ("Vis", "", "Cont", "Limbic")


@pytest.mark.parametrize(
    ("columns", "unknown", "lacking"),
    [
        (
            ["7Networks_LH_Vis_1", "other"],
            "other",
            "7Networks_LH_Default_1, 7Networks_RH_Vis_1, 7Networks_RH_Cont_PFCl_1",
        ),
        (["1", "2", "3"], "1, 2, 3", "7Networks_LH_Vis_1"),
        (["A_1", "A_2", "A_3", "A_5"], "A_1, A_2, A_3, A_5", "7Networks_LH_Vis_1"),
        (["A_1", "A_2", "B_3", "B_4"], "A_1, A_2, B_3, B_4", "7Networks_LH_Vis_1"),
        ([name for _, name in SCHAEFER[1:4]], "none", "7Networks_RH_Cont_PFCl_1"),
    ],
)
def test_parcels_that_do_not_match_are_listed(tmp_path, columns, unknown, lacking):
    with pytest.raises(MetadataError) as caught:
        match_table(image_atlas(tmp_path, SCHAEFER), columns)
    assert unknown in caught.value.message
    assert lacking in caught.value.message


def test_tables_match_labels_on_surfaces(tmp_path):
    names, layout = match_table(label_pair(tmp_path)["L"], ["RH_Vis_1", "LH_Vis_1", "LH_Default_1"])
    assert names == ("RH_Vis_1", "LH_Vis_1", "LH_Default_1")
    assert layout.space.name == "fsaverage"
    assert layout.space.n_features == 34 + 31
    by_number, _ = match_table(label_pair(tmp_path, right_offset=0)["L"], ["p1", "p2", "p3"])
    assert by_number == ("LH_Vis_1", "LH_Default_1", "RH_Vis_1")
