"""Which image and mask are taken, where derivatives have a run in several spaces and resolutions, or in none."""

from __future__ import annotations

import json

import pytest

from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.errors import ImageError, MetadataError, NoMatchError

RUN = "sub-01/func/sub-01_task-movie"
MNI = "space-MNI152NLin2009cAsym"


def images(*grids, run=RUN, mask=True):
    """Names of preprocessed images, and of their masks, on some grids."""
    whats = ("preproc_bold", "brain_mask") if mask else ("preproc_bold",)
    return [f"{'_'.join(filter(None, (run, grid)))}_desc-{what}.nii.gz" for grid in grids for what in whats]


@pytest.fixture
def find(tmp_path, write_dataset):
    """Find the one recording of a derivative dataset: as BIDS_DIR, among raw data, or named for raw data."""

    def find_(way, names, *, raw=(f"{RUN}_bold.nii.gz",), bold=None, **options):
        if bold is not None:
            (tmp_path / "filter.json").write_text(json.dumps({"bold": bold}))
            options["filter_file"] = tmp_path / "filter.json"
        folder = tmp_path / ("bids/derivatives/fmriprep" if way == "within" else "fmriprep")
        write_dataset(tmp_path / "bids", raw)
        write_dataset(folder, names, derivative=True)
        if way == "alone":
            return find_recordings(folder, **options)
        return find_recordings(tmp_path / "bids", derivatives=[folder] if way == "named" else [], **options)

    return find_


ways = pytest.mark.parametrize("way", ["alone", "within", "named"])


def names_of(recording):
    return recording.path.name, recording.mask and recording.mask.name


@ways
@pytest.mark.parametrize(
    "grid",
    [MNI, f"{MNI}_res-2", f"{MNI}_res-native", "space-MNI152NLin6Asym_res-02", "space-MNIPediatricAsym_cohort-3",
     "space-MNIPediatricAsym_cohort-3_res-2", "space-MNIInfant_cohort-1_den-91k", "space-T1w", ""],
)  # fmt: skip
def test_masks_have_the_entities_of_their_images(find, way, grid):
    decoys = [name for name in images("space-boldref_res-9", f"{MNI}_res-7") if "mask" in name]
    [recording] = find(way, [*images(grid), *decoys])
    assert names_of(recording) == tuple(name.rsplit("/", 1)[1] for name in images(grid))


@ways
@pytest.mark.parametrize(
    ("mask", "applies"),
    [
        (f"{MNI}", True),
        (f"{MNI}_res-2_label-x", True),
        (f"{MNI}_res-3", False),
        ("space-T1w_res-2", False),
    ],
)
def test_masks_with_other_entities_than_the_image(find, way, mask, applies):
    [recording] = find(way, [*images(f"{MNI}_res-2", mask=False), f"{RUN}_{mask}_desc-brain_mask.nii.gz"])
    assert (recording.mask is not None) == applies


@ways
@pytest.mark.parametrize("other", ["", "space-T1w", "space-boldref", "space-MNI152NLin6Asym", "res-2"])
def test_masks_of_another_space_are_not_taken(find, way, other):
    """fMRIPrep's mask without ``space`` lies in the space of the recording, whatever grid the image has."""
    mask = images(other)[1]
    [recording] = find(way, [*images(f"{MNI}_res-2", mask=False), mask])
    assert recording.mask is None


@ways
def test_masks_that_name_more_than_the_image(find, way):
    more = f"{RUN}_{MNI}_res-2_desc-brain_mask.nii.gz"
    [recording] = find(way, [*images(MNI, mask=False), more])
    assert recording.mask.name == more.rsplit("/", 1)[1]


def test_two_masks_that_name_more_are_refused(find):
    masks = [f"{RUN}_{MNI}_res-{res}_desc-brain_mask.nii.gz" for res in (1, 2)]
    with pytest.raises(MetadataError, match="two files apply equally well"):
        find("alone", [*images(MNI, mask=False), *masks])


# ---- resolutions -----------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize(
    ("options", "res"),
    [
        ({"resolution_mm": 2.0}, "2"),
        ({"resolution_mm": 1}, "1"),
        ({"bold": {"resolution": "1"}}, "1"),
        ({"bold": {"res": 2}}, "2"),
        ({"bold": {"space": "MNI152NLin2009cAsym", "resolution": "2", "desc": "preproc"}}, "2"),
    ],
)
def test_two_resolutions_are_told_apart(find, way, options, res):
    grids = [f"{MNI}_res-1", f"{MNI}_res-2"]
    [recording] = find(way, images(*grids), **options)
    assert names_of(recording) == tuple(name.rsplit("/", 1)[1] for name in images(f"{MNI}_res-{res}"))
    assert recording.entities["resolution"] == res


@ways
@pytest.mark.parametrize("resolution_mm", [None, 3])
def test_two_resolutions_without_a_choice_are_refused(find, way, resolution_mm):
    with pytest.raises(ImageError, match="two files for one run") as caught:
        find(way, images(f"{MNI}_res-1", f"{MNI}_res-2"), resolution_mm=resolution_mm)
    assert '{"bold": {"resolution": "1"}} or, where res- is in mm, with --resolution' in caught.value.hint


# ---- spaces ----------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize(
    ("grids", "expected"),
    [
        (["space-T1w", MNI], MNI),
        (["space-MNI152NLin6Asym", "space-T1w", ""], "space-MNI152NLin6Asym"),
        ([MNI, "space-MNI152NLin6Asym"], MNI),
    ],
)
def test_standard_spaces_come_first(find, way, grids, expected):
    [recording] = find(way, images(*grids))
    assert recording.path.name == images(expected)[0].rsplit("/", 1)[1]
    assert sum(note.startswith("left out: ") for note in recording.notes) == len(grids) - 1


@ways
@pytest.mark.parametrize("grid", ["space-T1w", "space-MNI152NLin6Sym", "space-MNIPediatricAsym_cohort-2", ""])
def test_another_space_alone_is_used_and_named(find, way, grid, caplog):
    [recording] = find(way, images(grid))
    assert recording.route == "preprocessed"
    assert f"the space {grid.split('_')[0].removeprefix('space-') or 'of the recording'}" in caplog.text


@ways
def test_several_other_spaces_need_a_choice(find, way):
    grids = ["space-T1w", "space-MNIPediatricAsym_cohort-2"]
    with pytest.raises(ImageError, match="two files for one run"):
        find(way, images(*grids))
    [recording] = find(way, images(*grids), bold={"space": "T1w"})
    assert recording.entities["space"] == "T1w"
    [recording] = find(way, images(*grids), bold={"cohort": "2"})
    assert recording.entities["space"] == "MNIPediatricAsym"


@pytest.mark.parametrize(("names", "route"), [([], "native"), (images(MNI), "native"), (images(""), "preprocessed")])
def test_filters_that_the_raw_image_fits_choose_it(find, names, route):
    [recording] = find("within", names, bold={"space": None, "resolution": "<Query.OPTIONAL: 3>"})
    assert recording.route == route


def test_compressed_and_plain_images_of_one_run_are_refused(find):
    with pytest.raises(MetadataError, match=r"two files for one run: .*\.nii and .*\.nii\.gz"):
        find("within", [], raw=(f"{RUN}_bold.nii", f"{RUN}_bold.nii.gz"))


def test_filters_that_no_derivative_fits_are_named(find):
    with pytest.raises(NoMatchError, match="no preprocessed image matches the filter") as caught:
        find("within", images(MNI), bold={"space": "fsnative"})
    assert MNI in caught.value.hint


# ---- nothing fits ----------------------------------------------------------------------------------

TWO = (f"{RUN}_run-1_bold.nii.gz", f"{RUN}_run-2_bold.nii.gz")


@pytest.mark.parametrize(
    "names", [[], images(MNI, run="sub-02/func/sub-02_task-movie"), images(MNI, run=f"{RUN}_run-3")]
)
def test_named_derivatives_without_a_run_are_refused(find, names):
    with pytest.raises(NoMatchError, match="nothing there belongs to sub-01_task-movie_run-1, sub-01") as caught:
        find("named", names, raw=TWO)
    assert "There is" in caught.value.hint


def test_runs_without_derivatives_are_left_out_when_allowed(find, caplog):
    names = images(MNI, run=f"{RUN}_run-2")
    with pytest.raises(NoMatchError, match=r"nothing there belongs to sub-01_task-movie_run-1\."):
        find("named", names, raw=TWO)
    assert [each.key for each in find("named", names, raw=TWO, allow_missing=True)] == ["sub-01_task-movie_run-2"]
    assert "left out" in caplog.text


@pytest.mark.parametrize("name", [f"{RUN}_desc-brain_mask.nii.gz", f"{RUN}_desc-confounds_timeseries.tsv"])
def test_a_mask_or_a_table_alone_is_something(find, name):
    [recording] = find("named", [name])
    assert recording.route == "native"


def test_runs_without_derivatives_are_named(find, caplog):
    recordings = find("within", images(MNI, run=f"{RUN}_run-2"), raw=TWO)
    assert [each.route for each in recordings] == ["native", "preprocessed"]
    assert "no transforms of sub-01_task-movie_run-1: the raw image is used" in caplog.text


def test_transforms_as_dataset_name_the_flag(find):
    with pytest.raises(NoMatchError, match="holds transforms and no recording") as caught:
        find("alone", [f"{RUN}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt"])
    assert "`-d " in caught.value.hint


def test_an_image_of_two_runs_is_refused(find):
    raw = [f"{RUN}_run-{run}_bold.nii.gz" for run in ("1", "01")]
    with pytest.raises(MetadataError, match="belongs to two runs"):
        find("within", images(MNI, run=f"{RUN}_run-1"), raw=raw)


# ---- images and transforms -------------------------------------------------------------------------

TRANSFORMS = [
    f"{RUN}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt",
    f"{RUN}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt",
    "sub-01/anat/sub-01_desc-brain_mask.nii.gz",
    "sub-01/anat/sub-01_label-WM_probseg.nii.gz",
    "sub-01/anat/sub-01_label-CSF_probseg.nii.gz",
]
WARP = "sub-01/anat/sub-01_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5"


@pytest.mark.parametrize(
    ("names", "route", "space"),
    [
        ([*TRANSFORMS, WARP], "transforms", None),
        ([*TRANSFORMS, WARP, *images("space-T1w")], "transforms", None),
        ([*TRANSFORMS, WARP, *images("space-T1w", MNI)], "preprocessed", "MNI152NLin2009cAsym"),
        ([*TRANSFORMS, *images("space-MNIPediatricAsym_cohort-2")], "preprocessed", "MNIPediatricAsym"),
    ],
)
def test_standard_images_then_transforms_then_other_images(find, names, route, space):
    [recording] = find("within", names)
    assert (recording.route, recording.entities.get("space")) == (route, space)


def test_one_echo_has_the_transforms_of_its_run(find):
    raw = [f"{RUN}_echo-{echo}_bold.nii.gz" for echo in (1, 2)]
    [recording] = find("named", [*TRANSFORMS, WARP], raw=raw, bold={"echo": 2})
    assert (recording.key, recording.route) == ("sub-01_task-movie_echo-2", "transforms")
