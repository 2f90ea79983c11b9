"""What is chosen of a dataset: on the real names and keys of ds003017, and on the shapes that other datasets have."""

from __future__ import annotations

import json
import logging
import os
import re

import pytest

from titan_neuro.cli import main
from titan_neuro.data.bids.annex import annex_key, key_bytes
from titan_neuro.data.fetch import Published, RegistryEntry, fetch
from titan_neuro.data.fetch.job import plan_job
from titan_neuro.data.fetch.plan import find_wanted
from titan_neuro.data.fetch.survey import survey
from titan_neuro.data.fetch.tree import read_tree
from titan_neuro.errors import NoMatchError

WHOLE = "25 subjects, 125 runs, 3,052 volumes per subject, TR 1 s, 228 annexed files, 27,955,787,621 bytes"


def wanted(root, **labels):
    """Names of what is chosen, and which of them stand for a run."""
    chosen = find_wanted(root, read_tree(root), **labels)
    return [file.name.as_posix() for file in chosen], [file.name.as_posix() for file in chosen if file.recording]


def plan_of(root, **labels):
    """What would be fetched of a dataset, read from the dataset itself."""
    return plan_job(str(root), root, root, labels).summary


def write(root, *names, content="x"):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


# ---- the real ds003017 ------------------------------------------------------------------------------


def test_recordings_of_the_real_dataset(published, run):
    # The link targets contain the sizes, which are parsed here independently of the code.
    tracked = run(published, "git", "ls-files", "-s").splitlines()
    links = [published / line.split("\t")[1] for line in tracked if line.startswith("120000")]
    sizes = {path: int(re.search(r"MD5E-s(\d+)--", os.readlink(path))[1]) for path in links}  # noqa: PTH115
    assert (len(sizes), sum(sizes.values())) == (228, 27_955_787_621)
    assert all(key_bytes(annex_key(path)) == size for path, size in sizes.items())
    images = {path: size for path, size in sizes.items() if path.name.endswith("_bold.nii.gz")}
    plan = plan_of(published)
    assert (plan.n_subjects, plan.n_runs, plan.n_files, plan.n_files_to_get) == (25, 125, 125, 125)
    assert plan.n_bytes == plan.n_bytes_to_get == sum(images.values()) == 27_644_347_435
    assert plan.whole.describe() == WHOLE
    one = plan_of(published, subjects=["sub-sid000005"], runs=["5"])
    assert (one.n_files, one.n_bytes) == (1, 306_905_821)
    # The selection does not change the description of the whole dataset.
    assert one.whole == plan.whole
    with pytest.raises(NoMatchError, match="participant '01'"):
        plan_of(published, subjects=["sub-01"])


def test_a_dry_run_describes_the_real_dataset(published, tmp_path, run, capsys):
    assert main(["fetch", str(published), str(tmp_path / "ds003017"), "--dry-run"]) == 0
    lines = capsys.readouterr().err.splitlines()
    commit = run(published, "git", "rev-parse", "HEAD")
    assert lines[1] == f"{tmp_path / 'ds003017'}: reading names and sidecars."
    assert lines[2] == f"{tmp_path / 'ds003017'}, commit {commit}: {WHOLE}."
    assert lines[3] == "Selected: subjects: 25, runs: 125, files: 125 (27.6GB); to be fetched: 125 (27.6GB)."
    of_these = "of which git-annex keeps 100,000,000; 27,644,347,435 are to be fetched"
    room = re.fullmatch(rf"Disk space: ([\d,]+) bytes are free, {of_these}: (.*)\.", lines[4])
    free = int(room[1].replace(",", ""))
    assert room[2] == ("enough" if free >= 27_744_347_435 else "not enough")
    assert len(lines) == 5
    assert list(tmp_path.iterdir()) == []


def test_first_words_precede_any_reading(tmp_path, caplog, commit):
    """However large the sidecars are; a broken one tells when they are read."""
    write(tmp_path, "sub-01/func/sub-01_task-x_bold.nii.gz")
    write(tmp_path, "task-x_bold.json", content="{")
    commit(tmp_path)
    with caplog.at_level("INFO", "titan_neuro"):
        fetch(str(tmp_path), tmp_path, dry_run=True)
    first, *others = (record.getMessage() for record in caplog.records)
    assert first == f"{tmp_path}: reading names and sidecars."
    assert "not valid JSON" in others[0]


def test_transforms_of_the_real_derivatives(published_transforms):
    plan = plan_of(published_transforms)
    assert (plan.n_subjects, plan.n_runs) == (25, 125)
    # 20 files of each of 25 subjects: three transforms of five runs, a warp, a brain mask, two tissues, a fieldmap.
    assert (plan.n_files, plan.n_bytes) == (500, 2_351_331_173)
    one = plan_of(published_transforms, subjects=["sid000005"], runs=["3"])
    assert (one.n_files, one.n_bytes) == (8, 93_654_237)
    names, recordings = wanted(published_transforms, subjects=["sid000005"], runs=["3"])
    anat, func = "sub-sid000005/anat/sub-sid000005_acq-MPRAGE", "sub-sid000005/func/sub-sid000005_task-movie_run-03"
    fmap = "sub-sid000005/fmap/sub-sid000005_acq-25mm_fmapid-auto00000"
    assert names == [
        "dataset_description.json",
        f"{anat}_desc-brain_mask.json",
        f"{anat}_desc-brain_mask.nii.gz",
        f"{anat}_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5",
        f"{anat}_label-CSF_probseg.nii.gz",
        f"{anat}_label-WM_probseg.nii.gz",
        f"{fmap}_desc-preproc_fieldmap.json",
        f"{fmap}_desc-preproc_fieldmap.nii.gz",
        f"{func}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.json",
        f"{func}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt",
        f"{func}_from-boldref_to-auto00000_mode-image_xfm.json",
        f"{func}_from-boldref_to-auto00000_mode-image_xfm.txt",
        f"{func}_from-orig_to-boldref_mode-image_desc-hmc_xfm.json",
        f"{func}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt",
    ]
    assert recordings == [f"{func}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt"]
    with pytest.raises(NoMatchError, match="no head-motion transform of run '7'"):
        wanted(published_transforms, runs=["7"])


# ---- a full fMRIPrep --------------------------------------------------------------------------------

ANAT = "sub-{0}/anat/sub-{0}"
FUNC = "sub-{0}/func/sub-{0}_task-movie_run-{1}"
NEEDED_OF_A_RUN = [
    "_desc-confounds_{2}.json",
    "_desc-confounds_{2}.tsv",
    "_space-MNI152NLin2009cAsym_desc-brain_mask.json",
    "_space-MNI152NLin2009cAsym_desc-brain_mask.nii.gz",
    "_space-MNI152NLin2009cAsym_desc-preproc_bold.json",
    "_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz",
]
NOT_NEEDED_OF_A_RUN = [
    "_desc-preproc_bold.nii.gz",
    "_desc-brain_mask.nii.gz",
    "_space-MNI152NLin2009cAsym_boldref.nii.gz",
    "_space-T1w_desc-preproc_bold.nii.gz",
    "_space-T1w_desc-preproc_bold.json",
    "_space-T1w_desc-brain_mask.nii.gz",
    "_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz",
    "_space-fsaverage5_hemi-L.func.gii",
    "_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt",
]
NOT_NEEDED_OF_A_SUBJECT = [
    "_desc-brain_mask.nii.gz",
    "_space-MNI152NLin2009cAsym_desc-brain_mask.nii.gz",
    "_space-MNI152NLin2009cAsym_desc-preproc_T1w.nii.gz",
    "_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5",
    "_label-GM_probseg.nii.gz",
    "_hemi-L_pial.surf.gii",
]


@pytest.mark.parametrize("root", ["", "fmriprep/"])
@pytest.mark.parametrize("table", ["regressors", "timeseries"])
def test_files_of_a_full_fmriprep(tmp_path, root, table):
    for subject in ("sid000005", "sid000007"):
        write(tmp_path, *(root + ANAT.format(subject) + name for name in NOT_NEEDED_OF_A_SUBJECT))
        for number in (1, 2):
            names = [*NEEDED_OF_A_RUN, *NOT_NEEDED_OF_A_RUN]
            write(tmp_path, *((root + FUNC + name).format(subject, number, table) for name in names))
    description = f"{root}dataset_description.json"
    write(tmp_path, description, f"{root}logs/CITATION.md", "sourcedata/sub-01/func/sub-01_task-x_bold.nii.gz")
    # Its runs are not padded with a zero.
    names, recordings = wanted(tmp_path, subjects=["sub-sid000007"], runs=["02"])
    assert names == [description] + [(root + FUNC + name).format("sid000007", 2, table) for name in NEEDED_OF_A_RUN]
    assert recordings == [names[-1]]
    assert len(wanted(tmp_path)[1]) == 4


def test_other_spaces_replace_a_missing_standard_one(tmp_path):
    write(tmp_path, FUNC.format("01", "1") + "_space-T1w_desc-preproc_bold.nii.gz")
    write(tmp_path, FUNC.format("01", "1") + "_space-T1w_desc-brain_mask.nii.gz")
    names, recordings = wanted(tmp_path)
    assert len(names) == 2
    assert recordings == names[1:]


def test_raw_images_precede_derivatives(tmp_path):
    raw, prepared = FUNC.format("01", "1") + "_bold.nii.gz", "derivatives/fmriprep/" + FUNC.format("01", "1")
    write(tmp_path, raw, f"{prepared}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz")
    coregistration = f"{prepared}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt"
    write(tmp_path, coregistration, f"{prepared}_desc-confounds_timeseries.tsv")
    assert wanted(tmp_path) == ([f"{prepared}_desc-confounds_timeseries.tsv", raw], [raw])
    # Head-motion transforms make use of the rest of the way.
    transform = f"{prepared}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt"
    write(tmp_path, transform)
    names, recordings = wanted(tmp_path)
    assert names[1:] == [coregistration, transform, raw]
    assert recordings == [raw]


def test_parcels_are_recordings_without_images(tmp_path):
    table, sidecar = "sub-01/func/sub-01_task-x_atlas-a_timeseries.tsv", "task-x_timeseries.json"
    write(tmp_path, table, "sub-01/func/sub-01_task-x_desc-confounds_timeseries.tsv")
    write(tmp_path, sidecar, content=json.dumps({"RepetitionTime": 1.5}))
    names, recordings = wanted(tmp_path)
    assert recordings == [table]
    assert sidecar in names


def test_continuous_tables_go_with_their_runs(tmp_path):
    root = ["task-x_stim.json", "task-x_stim.tsv.gz", "task-x_recording-joy_stim.tsv.gz"]
    of_a_run = "sub-{0}/func/sub-{0}_task-x_{1}"
    for subject in ("01", "02"):
        write(tmp_path, *(of_a_run.format(subject, end) for end in ("bold.nii.gz", "physio.json", "physio.tsv.gz")))
        write(tmp_path, f"sub-{subject}/beh/sub-{subject}_task-x_physio.tsv.gz")
    write(tmp_path, *root)
    names, recordings = wanted(tmp_path, subjects=["02"])
    ends = ("bold.nii.gz", "physio.json", "physio.tsv.gz")
    assert sorted(names) == sorted([*root, *(of_a_run.format("02", end) for end in ends)])
    assert recordings == [of_a_run.format("02", "bold.nii.gz")]


def test_datasets_without_recordings_are_refused(tmp_path):
    write(tmp_path, ANAT.format("01") + "_T1w.nii.gz")
    with pytest.raises(NoMatchError, match=r"holds no \*_bold.nii.gz, no \*_timeseries.tsv, and no"):
        wanted(tmp_path)


def test_missing_derivatives_are_reported(tmp_path, commit_links, caplog, monkeypatch):
    bold = {FUNC.format("01", f"0{n}") + "_bold.nii.gz": f"MD5E-s5--{n}.nii.gz" for n in (1, 2)}
    preprocessed = FUNC.format("01", "1") + "_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
    commit_links(tmp_path / "raw", bold)
    commit_links(tmp_path / "made", {preprocessed: "MD5E-s7--3.nii.gz"})
    derivatives = {"fmriprep": Published(url=str(tmp_path / "made"), name="made")}
    registry = {"ds999999": RegistryEntry(raw=Published(url=str(tmp_path / "raw")), derivatives=derivatives)}
    monkeypatch.setattr(logging.getLogger("titan_neuro"), "propagate", True)
    plan = fetch("ds999999", tmp_path / "clone", derivative="fmriprep", dry_run=True, registry=registry)
    assert "1 of 2 runs have no fmriprep: sub-01_task-movie_run-02_bold.nii.gz." in caplog.text
    # Preprocessed images take the raw ones' place.
    assert (plan.n_runs, plan.n_files, plan.derivative.n_files, plan.derivative.n_bytes) == (2, 0, 1, 7)


# ---- the dataset as a whole -------------------------------------------------------------------------


def describe(root):
    tree = read_tree(root)
    return survey(tree, find_wanted(root, tree)).describe()


def test_sidecars_are_merged_for_the_description(tmp_path, commit_links, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("titan_neuro"), "propagate", True)
    links = {FUNC.format(subject, "01") + "_bold.nii.gz": f"MD5E-s10--{subject}.nii.gz" for subject in ("01", "02")}
    commit_links(tmp_path, {**links, "code/a": "MD5E-s1000--c", "code/b": "MD5E-s1000--c"})
    # One content under two names is one content on the disk.
    assert describe(tmp_path) == "2 subjects, 2 runs, 4 annexed files, 1,020 bytes"
    write(tmp_path, "task-movie_bold.json", content=json.dumps({"RepetitionTime": 2}))
    write(tmp_path, FUNC.format("01", "01") + "_bold.json", content=json.dumps({"dcmmeta_shape": [9, 9, 9, 1200]}))
    # One run's volumes are not known: then nothing is said of a subject's.
    assert describe(tmp_path).startswith("2 subjects, 2 runs, TR 2 s, ")
    nearer = {"RepetitionTime": 0.8, "dcmmeta_shape": [9, 9, 9, 30]}
    write(tmp_path, FUNC.format("02", "01") + "_bold.json", content=json.dumps(nearer))
    assert describe(tmp_path).startswith("2 subjects, 2 runs, 30 to 1,200 volumes per subject, TR 0.8 and 2 s, ")
    write(tmp_path, "task-movie_bold.json", content="{")
    # A broken sidecar is said, and keeps nobody from fetching.
    assert describe(tmp_path).startswith("2 subjects, 2 runs, 30 to 1,200 volumes per subject, 4 annexed files")
    assert caplog.text.count("task-movie_bold.json: is not valid JSON") == 1
