import nibabel as nib
import numpy as np
import pytest
from nilearn.image import resample_to_img
from nilearn.maskers import NiftiLabelsMasker

from titan_neuro.data.bids.names import ROUGH_SPACE
from titan_neuro.data.prepare.atlas import atlas_name, read_atlas
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.data.prepare.time_series import MaskedVolumes, ParcelMeans
from titan_neuro.data.space import Space
from titan_neuro.errors import ImageError, InputNotFoundError, MetadataError

SHAPE, N_TIME_POINTS = (12, 14, 10), 20
AFFINE = np.array([[-3.0, 0, 0, 17], [0, 3.0, 0, -20], [0, 0, 3.0, -14], [0, 0, 0, 1]])
MNI = "MNI152NLin2009cAsym"
DSEG = f"space-{MNI}_atlas-Parts_dseg"


def blocks(shape=SHAPE, size=4):
    """Labels of cubes, some of them far from 1; 0 on one face."""
    number = sum(np.indices(shape)[axis] // size * factor for axis, factor in enumerate((100, 10, 1))) + 7
    number[0] = 0
    return number


def write(path, labels, affine=AFFINE, dtype=np.int16):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(labels).astype(dtype), affine), path)
    return path


@pytest.fixture
def space():
    mask = np.random.default_rng(0).random(SHAPE) > 0.3
    return Space(kind="volume", name=MNI, mask=mask, affine=AFFINE)


@pytest.fixture
def volumes(tmp_path):
    path = tmp_path / "sub-1_bold.nii.gz"
    data = np.random.default_rng(1).normal(1000, 20, (*SHAPE, N_TIME_POINTS))
    nib.save(nib.Nifti1Image(data.astype(np.float32), AFFINE), path)
    return BoldImage(path)


def nilearn_means(volumes, space, atlas):
    mask = nib.Nifti1Image(space.mask.astype(np.uint8), space.affine)
    masker = NiftiLabelsMasker(atlas, mask_img=mask, standardize=None, resampling_target=None, keep_masked_labels=False)
    return masker.fit_transform(volumes.path)


def our_means(volumes, space, path):
    return ParcelMeans(MaskedVolumes(volumes, space), read_atlas(path, space)).read(0, N_TIME_POINTS)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_means_are_nilearns(tmp_path, volumes, space, dtype):
    path = write(tmp_path / f"{DSEG}.nii.gz", np.minimum(blocks(), 200), dtype=dtype)
    found = our_means(volumes, space, path)
    assert found.shape == (N_TIME_POINTS, 25)
    np.testing.assert_allclose(found, nilearn_means(volumes, space, nib.load(path)), rtol=1e-5)


def test_atlas_on_another_grid_is_resampled_by_nearest(tmp_path, volumes, space):
    finer = np.diag([2.2, 2.2, 2.2, 1.0])
    finer[:3, 3] = [-20.3, -21.1, -15.2]
    path = write(tmp_path / f"{DSEG}.nii.gz", blocks((18, 20, 14), 6), finer)
    grid = nib.Nifti1Image(space.mask.astype(np.uint8), AFFINE)
    options = {"interpolation": "nearest", "force_resample": True, "copy_header": True}
    expected = resample_to_img(path, grid, **options)
    assert np.array_equal(read_atlas(path, space).labels, np.asarray(expected.dataobj)[space.mask])
    np.testing.assert_allclose(our_means(volumes, space, path), nilearn_means(volumes, space, expected), rtol=1e-5)


def test_voxels_outside_the_atlas_have_label_0(tmp_path, space):
    small = write(tmp_path / "x.nii", np.full((4, 4, 4), 5), AFFINE)
    labels = read_atlas(small, space).labels
    corner = np.zeros(SHAPE, dtype=bool)
    corner[:4, :4, :4] = True
    assert np.array_equal(labels == 5, corner[space.mask])
    assert set(labels) == {0, 5}


LABELS = np.unique(blocks()[blocks() > 0])


def names_table(path, names=None, header="index\tname\tcolor"):
    rows = names or {label: f"part {label}" for label in LABELS}
    path.write_text("\n".join([header, *(f"{label}\t{name}\t#fff" for label, name in rows.items())]) + "\n")


@pytest.mark.parametrize(
    ("image", "table"),
    [
        (f"{DSEG}.nii.gz", f"{DSEG}.tsv"),
        (f"{DSEG}.nii", f"{DSEG}.tsv"),
        # TemplateFlow's tables are for all resolutions.
        (f"tpl-{MNI}_res-01_atlas-Parts_desc-36_dseg.nii.gz", f"tpl-{MNI}_atlas-Parts_desc-36_dseg.tsv"),
        ("Gehirn größe v1.2.nii.gz", "Gehirn größe v1.2.tsv"),
    ],
)
def test_parcel_names_are_read_from_table(tmp_path, space, image, table):
    path = write(tmp_path / "Mein Atlas, häufig" / image, blocks())
    # Of other atlases in the same folder.
    others = [f"tpl-{MNI}_{middle}_dseg.tsv" for middle in ("atlas-Parts_desc-1", "res-02_atlas-Parts_desc-36", "a-1")]
    for other in (*others, f"tpl-{MNI}_dseg.tsv", f"tpl-{MNI}_atlas-Parts_desc-36_args.tsv", "Gehirn.tsv"):
        names_table(path.with_name(other), {1: "wrong"})
    names_table(path.with_name(table), {0: "Hintergrund", 5000: "not in the image"} | {n: f"Größe {n}" for n in LABELS})
    assert read_atlas(path, space).names == {label: f"Größe {label}" for label in LABELS}


def test_parcel_names_are_read_as_text(tmp_path, space):
    path = write(tmp_path / "x.nii", np.where(blocks() > 100, 2, 1))
    names_table(tmp_path / "x.tsv", {1: "NA", 2: "007"})
    assert read_atlas(path, space).names == {1: "NA", 2: "007"}


def test_labels_without_table_are_named_by_number(tmp_path, space):
    atlas = read_atlas(write(tmp_path / f"{DSEG}.nii.gz", blocks()), space)
    assert atlas.names == {label: str(label) for label in LABELS}
    assert atlas.name == "Parts"


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ({label: f"part {label}" for label in LABELS[:-1]}, "index\tname\tcolor", f"found none for {LABELS[-1]}"),
        ({label: "" if label == 118 else f"{label}" for label in LABELS}, "index\tname\tcolor", "found none for 118"),
        (dict.fromkeys(LABELS, "part"), "index\tname\tcolor", "each name once, found duplicates"),
        ({label: f"part {label}" for label in LABELS}, "label\tname\tcolor", "expected the columns index"),
        ({label: f"part {label}" for label in LABELS}, "index\tregion\tcolor", "expected the columns index"),
        ({label + 0.5: f"part {label}" for label in LABELS}, "index\tname\tcolor", "expected whole numbers, found 7.5"),
        ({"": "x"}, "index\tname\tcolor", "expected whole numbers, found nan"),
    ],
)
def test_tables_of_names_that_are_of_no_use(tmp_path, space, rows, header, message):
    path = write(tmp_path / f"{DSEG}.nii.gz", blocks())
    names_table(tmp_path / f"{DSEG}.tsv", rows, header)
    with pytest.raises(MetadataError, match=message) as caught:
        read_atlas(path, space)
    assert f"{DSEG}.tsv" in caught.value.message


def test_an_index_that_is_there_twice(tmp_path, space):
    path = write(tmp_path / "x.nii", np.ones(SHAPE))
    (tmp_path / "x.tsv").write_text("index\tname\n1\tone\n1\tuno\n")
    with pytest.raises(MetadataError, match="found duplicates"):
        read_atlas(path, space)


@pytest.mark.parametrize(
    ("labels", "dtype", "message"),
    [
        (np.ones((*SHAPE, 2)), np.int16, "expected a 3D image of labels, found 4D"),
        (np.full(SHAPE, 1.5), np.float32, "whole numbers from 0 on"),
        (np.full(SHAPE, 1.01), np.float32, "whole numbers from 0 on"),
        # A map of probabilities.
        (np.linspace(0, 1, 12)[:, None, None] * np.ones(SHAPE), np.float32, "whole numbers from 0 on"),
        (np.ones(SHAPE), np.complex64, "real numbers, found values of type complex64"),
        (np.full(SHAPE, np.nan), np.float32, "whole numbers from 0 on"),
        (np.full(SHAPE, -1), np.int16, "whole numbers from 0 on"),
        (np.zeros(SHAPE), np.int16, "expected labels, found 0 everywhere"),
    ],
)
def test_images_that_are_no_labels(tmp_path, space, labels, dtype, message):
    with pytest.raises(ImageError, match=message):
        read_atlas(write(tmp_path / "x.nii.gz", labels, dtype=dtype), space)


def write_scaled(path, labels, slope, intercept=0.0):
    """Labels as integers with a scale factor, which nibabel multiplies by in double precision."""
    image = nib.Nifti1Image(np.rint((labels - intercept) / slope).astype(np.int16), AFFINE)
    image.header.set_slope_inter(slope, intercept)
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("slope", "intercept", "scale"),
    [(1.0000001, 0, 1), (0.1, 0, 1), (1 / 3, 0, 1), (1.00000012, -3, 1), (0.5, 100, 1), (3.3333333, 0, 10)],
)
def test_labels_as_scaled_floats(tmp_path, space, slope, intercept, scale):
    labels = scale * blocks()
    path = write_scaled(tmp_path / "x.nii.gz", labels, slope, intercept)
    stored = np.asarray(nib.load(path).dataobj)
    assert stored.dtype.kind == "f"
    assert slope == 0.5 or (stored != np.rint(stored)).any()
    found = read_atlas(path, space)
    assert np.array_equal(found.labels, labels[space.mask])
    assert list(found.names) == list(scale * LABELS)


def test_a_last_axis_of_length_1_is_dropped(tmp_path, space):
    expected = read_atlas(write(tmp_path / "x.nii", blocks()), space).labels
    for shape in [(*SHAPE, 1), (*SHAPE, 1, 1)]:
        path = write(tmp_path / f"{len(shape)}.nii", blocks().reshape(shape))
        assert np.array_equal(read_atlas(path, space).labels, expected)


def write_gifti(path):
    labels = nib.gifti.GiftiDataArray(np.arange(10, dtype=np.int32), intent="NIFTI_INTENT_LABEL")
    nib.save(nib.gifti.GiftiImage(darrays=[labels]), path)


def write_cifti(path):
    voxels = nib.cifti2.BrainModelAxis.from_mask(np.ones(SHAPE, bool), affine=AFFINE, name="thalamus_left")
    labels = nib.cifti2.LabelAxis(["x"], {0: ("none", (0, 0, 0, 0)), 1: ("one", (1, 1, 1, 1))})
    nib.save(nib.Cifti2Image(np.ones((1, len(voxels)), np.float32), (labels, voxels)), path)


def write_afni(path):
    path.write_text("type = integer-attribute\nname = DATASET_RANK\ncount = 2\n 3 1\n")
    path.with_name("x+tlrc.BRIK").write_bytes(bytes(100))


@pytest.mark.parametrize(
    ("name", "writer", "message", "hint"),
    [
        ("x.label.gii", write_gifti, "expected an image of voxels", "space of the run"),
        ("x.dlabel.nii", write_cifti, "expected an image of voxels", "space of the run"),
        ("x.gii", lambda path: path.write_text("<GIFTI"), "expected an image of voxels", "space of the run"),
        ("x+tlrc.HEAD", write_afni, "expected a NIfTI image of voxels as image of labels", "3dAFNItoNIFTI"),
        ("x.tsv", lambda path: path.write_text("index\tname\n"), "expected a NIfTI image of voxels", "3dAFNItoNIFTI"),
    ],
)
def test_other_formats_are_refused(tmp_path, space, name, writer, message, hint):
    writer(tmp_path / name)
    with pytest.raises(ImageError, match=message) as caught:
        read_atlas(tmp_path / name, space)
    assert hint in caught.value.hint


def test_missing_or_damaged_atlas_is_refused(tmp_path, space):
    with pytest.raises(InputNotFoundError, match="no such file"):
        read_atlas(tmp_path / "x.nii.gz", space)
    path = write(tmp_path / "x.nii.gz", np.random.default_rng(0).integers(0, 99, SHAPE))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ImageError, match="not a readable image of labels"):
        read_atlas(path, space)


@pytest.mark.parametrize(
    ("run", "atlas", "shape", "fits"),
    [
        (MNI, f"tpl-{MNI}_dseg", SHAPE, True),
        (MNI, "mine", SHAPE, True),
        (MNI, "mine", (13, 14, 10), True),
        # The same grid does not make it the same space.
        (MNI, "space-MNI152NLin6Asym_dseg", SHAPE, False),
        (MNI, "tpl-MNI152NLin6Asym_atlas-X_dseg", SHAPE, False),
        (MNI, "sub-1_space-T1w_dseg", SHAPE, False),
        ("native", "sub-1_space-boldref_dseg", SHAPE, True),
        ("native", "mine", SHAPE, True),
        ("native", "mine", (13, 14, 10), False),
        ("native", f"tpl-{MNI}_dseg", (13, 14, 10), False),
        (ROUGH_SPACE, f"tpl-{MNI}_dseg", (13, 14, 10), True),
        (ROUGH_SPACE, "mine", SHAPE, True),
        (ROUGH_SPACE, "sub-1_space-T1w_dseg", SHAPE, False),
    ],
)
def test_atlas_must_be_in_the_space_of_run(tmp_path, run, atlas, shape, fits):
    space = Space(kind="volume", name=run, mask=np.ones(SHAPE, dtype=bool), affine=AFFINE)
    path = write(tmp_path / f"{atlas}.nii.gz", np.ones(shape))
    if fits:
        assert (read_atlas(path, space).labels == 1).all()
    else:
        with pytest.raises(ImageError, match=f"expected an atlas in the space of the run, {run}, found one"):
            read_atlas(path, space)


def test_runs_of_parcels_have_no_grid(tmp_path):
    with pytest.raises(ImageError, match="an atlas needs volumes or surfaces, found parcels"):
        read_atlas(write(tmp_path / "x.nii", np.ones(SHAPE)), Space(kind="parcels", name="X", parcels=("a", "b")))


def test_parcels_without_a_voxel_are_lost(tmp_path, volumes, space):
    space.mask[blocks() == 7] = False
    space.mask[blocks() == 118] = False
    path = write(tmp_path / f"{DSEG}.nii.gz", blocks())
    names_table(tmp_path / f"{DSEG}.tsv")
    atlas = read_atlas(path, space)
    assert atlas.lost == ("part 7", "part 118")
    assert list(atlas.names) == [label for label in LABELS if label not in (7, 118)]
    with pytest.warns(UserWarning, match="labels were removed: {118, 7}"):
        expected = nilearn_means(volumes, space, nib.load(path))
    np.testing.assert_allclose(our_means(volumes, space, path), expected, rtol=1e-5)
    space.mask[:, :, 4:] = False
    assert len(read_atlas(path, space).lost) == 25


def test_an_atlas_outside_the_mask_is_refused(tmp_path, space):
    labels = np.zeros(SHAPE, int)
    labels[:3] = 2
    space.mask[:3] = False
    with pytest.raises(ImageError, match="none of its 1 parcels has a voxel in the run's mask"):
        read_atlas(write(tmp_path / f"{DSEG}.nii.gz", labels), space)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("tpl-X_atlas-Schaefer2018_desc-400Parcels7Networks_dseg.nii.gz", "Schaefer2018400Parcels7Networks"),
        ("atlas-Tian_scale-2_dseg.nii.gz", "Tian2"),
        ("tpl-X_seg-aparc_dseg.nii.gz", "aparc"),
        ("My atlas, v1.2 (größe).nii.gz", "Myatlasv12gre"),
        ("大脳.nii.gz", "atlas"),
    ],
)
def test_atlas_name_is_a_bids_label(tmp_path, file, name):
    assert atlas_name(tmp_path / file) == name
