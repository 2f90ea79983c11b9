"""A derivative fetched along with a raw dataset: a clone within a clone, both with real content, over HTTP."""

from __future__ import annotations

import dataclasses
import http.server
import logging

import pytest

from titan_neuro.data.bids.annex import is_missing
from titan_neuro.data.fetch import Published, RegistryEntry, drop, fetch, get_content
from titan_neuro.data.fetch.tree import nested_clones, read_tree
from titan_neuro.errors import FetchError, NoMatchError, OutputError

FIRST, SECOND = "sid000005", "sid000007"
OF_A_SUBJECT = [
    "anat/{0}_acq-MPRAGE_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5",
    "anat/{0}_acq-MPRAGE_label-WM_probseg.nii.gz",
    "fmap/{0}_fmapid-auto00000_desc-preproc_fieldmap.nii.gz",
]
OF_A_RUN = [
    "func/{0}_task-movie_run-{1}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt",
    "func/{0}_task-movie_run-{1}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt",
]
NOT_NEEDED = [
    "anat/{0}_acq-MPRAGE_desc-preproc_T1w.nii.gz",
    "anat/{0}_acq-MPRAGE_from-MNI152NLin2009cAsym_to-T1w_mode-image_xfm.h5",
    "anat/{0}_acq-MPRAGE_from-T1w_to-MNI152NLin6Asym_mode-image_xfm.h5",
]
OF_A_PREPROCESSED_RUN = [
    "func/{0}_task-movie_run-{1}_desc-confounds_regressors.tsv",
    "func/{0}_task-movie_run-{1}_space-MNI152NLin2009cAsym_desc-brain_mask.nii.gz",
    "func/{0}_task-movie_run-{1}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz",
]


def files(subject, runs, of_a_subject, of_a_run):
    label = f"sub-{subject}"
    names = [name.format(label) for name in of_a_subject]
    return [f"{label}/{name}" for name in names + [name.format(label, run) for run in runs for name in of_a_run]]


def content(name):
    return f"the content of {name} ".encode() * 50


def make(root, names, commit):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content(name))
    (root / "README").write_text("Made for a test.")
    return commit(root, *names)


def present(clone):
    return [file.name.as_posix() for file in read_tree(clone) if file.key and not file.missing]


def size(names):
    return sum(len(content(name)) for name in names)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory, copy_synthetic, run, commit):
    """A folder to serve: a raw dataset, its transforms, its preprocessed images; and the commit of each."""
    folder, commits = tmp_path_factory.mktemp("datasets"), {}
    copy_synthetic(folder / "raw", n_subjects=2, n_runs=2)
    transforms = [files(subject, ("01", "02"), OF_A_SUBJECT + NOT_NEEDED, OF_A_RUN) for subject in (FIRST, SECOND)]
    fmriprep = [files(subject, (1, 2), NOT_NEEDED, OF_A_PREPROCESSED_RUN) for subject in (FIRST, SECOND)]
    make(folder / "transforms", [*transforms[0], *transforms[1]], commit)
    make(folder / "fmriprep", [f"fmriprep/{name}" for name in (*fmriprep[0], *fmriprep[1])], commit)
    for name in ("raw", "transforms", "fmriprep"):
        run(folder / name, "git", "update-server-info")
        commits[name] = run(folder / name, "git", "rev-parse", "HEAD")
    return folder, commits


@pytest.fixture
def registry(datasets):
    """The datasets by their paths."""
    return _registry(datasets[1], str(datasets[0]))


@pytest.fixture
def http_registry(datasets, serve):
    """The datasets by their addresses on a server."""
    return _registry(datasets[1], serve(datasets[0]))


def _registry(commits, url):
    published = {
        name: Published(url=f"{url}/{name}", commit=commits[name], name=f"made-{name}", root=root)
        for name, root in (("raw", "."), ("transforms", "."), ("fmriprep", "fmriprep"))
    }
    return {"ds999999": RegistryEntry(raw=published.pop("raw"), derivatives=published)}


def test_transforms_over_http(datasets, http_registry, tmp_path, run):
    registry = http_registry
    source, commits = datasets
    clone, inner = tmp_path / "clone", tmp_path / "clone" / "derivatives" / "made-transforms"
    chosen = {"subjects": [FIRST], "runs": ["2"]}
    plan = fetch("ds999999", clone, derivative="transforms", registry=registry, dry_run=True, **chosen)
    assert list(tmp_path.iterdir()) == []
    summary = fetch("ds999999", clone, derivative="transforms", registry=registry, **chosen)
    assert summary == plan
    needed = files(FIRST, ["02"], OF_A_SUBJECT, OF_A_RUN)
    assert (summary.commit, summary.derivative.commit) == (commits["raw"], commits["transforms"])
    assert (summary.derivative.n_files, summary.derivative.n_bytes_to_get) == (5, size(needed))
    assert present(inner) == sorted(needed)
    assert all((inner / name).read_bytes() == content(name) for name in needed)
    bold = f"sub-{FIRST}/func/sub-{FIRST}_task-movie_run-02_bold.nii.gz"
    assert [name for name in present(clone) if "_bold" in name] == [bold]
    assert (clone / bold).read_bytes() == (source / "raw" / bold).read_bytes()
    # The inner clone is no part of the outer one: not for a plan, not for git.
    assert nested_clones(clone) == [inner]
    assert not any(file.path.is_relative_to(inner) for file in read_tree(clone))
    assert fetch(str(clone), clone, runs=["2"], dry_run=True).n_runs == 2
    assert run(clone, "git", "status", "--porcelain") == ""
    again = fetch("ds999999", clone, derivative="transforms", registry=registry, **chosen)
    assert (again.n_files_to_get, again.derivative.n_files_to_get) == (0, 0)


def test_nested_files_belong_to_their_own_clone(registry, tmp_path, caplog, monkeypatch):
    clone, inner = tmp_path / "clone", tmp_path / "clone" / "derivatives" / "made-transforms"
    summary = fetch("ds999999", clone, derivative="transforms", registry=registry, subjects=[FIRST])
    here, below = files(SECOND, ["01"], OF_A_SUBJECT, OF_A_RUN), f"sub-{SECOND}/func/sub-{SECOND}_task-movie_run-01"
    paths = [clone / f"{below}_bold.nii.gz", *(inner / name for name in here)]
    # What `fetch` would not have chosen is got where a stage names it, and is no business of drop's.
    other = inner / files(SECOND, [], NOT_NEEDED, [])[0]
    assert get_content([*paths, other]) == 7
    assert not any(map(is_missing, [*paths, other]))
    first_run = {"subjects": [FIRST], "runs": ["01"]}
    monkeypatch.setattr(logging.getLogger("titan_neuro"), "propagate", True)
    caplog.set_level(logging.INFO, "titan_neuro")
    bold = clone / f"sub-{FIRST}/func/sub-{FIRST}_task-movie_run-01_bold.nii.gz"
    n_bytes = bold.stat().st_size
    assert drop(clone, **first_run) > n_bytes + size(files(FIRST, ["01"], OF_A_SUBJECT, OF_A_RUN))
    assert f"{inner}: freed" in caplog.text
    assert is_missing(bold)
    remaining = [*files(FIRST, ["02"], [], OF_A_RUN), *here, other.relative_to(inner).as_posix()]
    assert present(inner) == sorted(remaining)
    drop(clone)
    assert present(inner) == [other.relative_to(inner).as_posix()]
    assert not any("_bold" in name for name in present(clone))
    everything = fetch("ds999999", clone, derivative="transforms", registry=registry)
    assert everything.derivative.n_files_to_get == summary.derivative.n_files * 2 == 14


def test_preprocessed_images_replace_raw_ones(registry, tmp_path):
    clone, inner = tmp_path / "clone", tmp_path / "clone" / "derivatives" / "made-fmriprep"
    summary = fetch("ds999999", clone, derivative="fmriprep", registry=registry, subjects=[SECOND], runs=["01"])
    assert (summary.n_runs, summary.n_files, present(clone)) == (1, 0, [])
    # Its runs are not padded with a zero.
    needed = [f"fmriprep/{name}" for name in files(SECOND, [1], [], OF_A_PREPROCESSED_RUN)]
    assert present(inner) == needed
    assert summary.derivative.n_bytes == size(needed)
    # The raw images are still to be had.
    assert fetch("ds999999", clone, registry=registry, subjects=[SECOND], runs=["01"]).n_files_to_get == 2


def test_derivatives_are_not_cloned_through_a_link(datasets, tmp_path, run, commit):
    raw = tmp_path / "raw"
    run(tmp_path, "git", "clone", "--quiet", str(datasets[0] / "raw"), str(raw))
    (raw / "derivatives/made-transforms").symlink_to("../../elsewhere")
    (tmp_path / "elsewhere").mkdir()
    commits = {**datasets[1], "raw": commit(raw)}
    registry = _registry(commits, str(datasets[0]))
    entry = dataclasses.replace(registry["ds999999"], raw=Published(url=str(raw), commit=commits["raw"]))
    with pytest.raises(OutputError, match="leads out of it") as caught:
        fetch("ds999999", tmp_path / "clone", derivative="transforms", registry={"ds999999": entry})
    assert "is a link" in caught.value.hint
    assert not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.slow
def test_derivatives_are_added_to_existing_clones(registry, tmp_path):
    clone = tmp_path / "clone"
    fetch("ds999999", clone, registry=registry, subjects=[FIRST])
    before = sorted(tmp_path.rglob("*"))
    plan = fetch("ds999999", clone, derivative="transforms", registry=registry, subjects=[FIRST], dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert (plan.n_files_to_get, plan.derivative.n_files_to_get) == (0, 7)
    fetch("ds999999", clone, derivative="transforms", registry=registry, subjects=[FIRST])
    both = fetch("ds999999", clone, derivative="fmriprep", registry=registry, subjects=[FIRST])
    assert both.derivative.n_files_to_get == 6
    assert [path.name for path in nested_clones(clone)] == ["made-fmriprep", "made-transforms"]
    (clone / "derivatives" / "mine").mkdir()
    (clone / "derivatives" / "mine" / "notes.txt").write_text("mine")
    mine = Published(url=registry["ds999999"].raw.url, name="mine")
    taken = {"ds999999": RegistryEntry(raw=registry["ds999999"].raw, derivatives={"transforms": mine})}
    with pytest.raises(OutputError, match="derivatives/mine: exists, and is no clone"):
        fetch("ds999999", clone, derivative="transforms", registry=taken)


def test_disk_space_is_checked_before_fetching(datasets, tmp_path, commit_links):
    huge = f"sub-{FIRST}/func/sub-{FIRST}_task-movie_run-01_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt"
    commit_links(tmp_path / "huge", {huge: "MD5E-s900000000000000--1.txt"})
    entry = RegistryEntry(
        raw=Published(url=str(datasets[0] / "raw")),
        derivatives={"transforms": Published(url=str(tmp_path / "huge"), name="huge")},
    )
    options = {"derivative": "transforms", "registry": {"ds999999": entry}, "subjects": [FIRST]}
    assert fetch("ds999999", tmp_path / "clone", dry_run=True, **options).derivative.n_bytes == 900_000_000_000_000
    with pytest.raises(FetchError, match="the disk is too full: 900TB are to be fetched"):
        fetch("ds999999", tmp_path / "clone", **options)
    assert present(tmp_path / "clone") == []


def test_subjects_without_derivatives_are_named(datasets, tmp_path, commit_links):
    only = f"sub-{FIRST}/func/sub-{FIRST}_task-movie_run-01_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt"
    commit_links(tmp_path / "one", {only: "MD5E-s5--1.txt"})
    derivatives = {"transforms": Published(url=str(tmp_path / "one"), name="one")}
    entry = RegistryEntry(raw=Published(url=str(datasets[0] / "raw")), derivatives=derivatives)
    with pytest.raises(NoMatchError, match=f"no head-motion transform of participant '{SECOND}'"):
        fetch(
            "ds999999",
            tmp_path / "clone",
            derivative="transforms",
            registry={"ds999999": entry},
            subjects=[FIRST, SECOND],
        )


def test_drop_continues_after_files_that_are_kept(datasets, registry, tmp_path, run):
    clone, inner = tmp_path / "clone", tmp_path / "clone" / "derivatives" / "made-transforms"
    fetch("ds999999", clone, derivative="transforms", registry=registry, subjects=[FIRST], runs=["1"])
    run(clone, "git", "remote", "remove", "origin")
    # The two subjects' masks are one content.
    with pytest.raises(FetchError, match=rf"{clone}: 3 of 3 files are kept"):
        drop(clone)
    assert len(present(clone)) == 3
    assert present(inner) == []


@pytest.mark.slow
def test_interrupted_derivatives_are_resumed(datasets, tmp_path, serve):
    """The raw dataset's place works, the derivative's does not: what has come is kept."""
    folder, commits = datasets
    broken = {"transforms"}

    class HalfHandler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if "annex/objects" in self.path and self.path.split("/")[1] in broken:
                self.send_error(404)
            else:
                super().do_GET()

        do_HEAD = do_GET

    url = serve(folder, HalfHandler)
    inner = {"transforms": Published(url=f"{url}/transforms", commit=commits["transforms"], name="inner")}
    known = {"ds999999": RegistryEntry(raw=Published(url=f"{url}/raw"), derivatives=inner)}
    options = {"derivative": "transforms", "registry": known, "subjects": [FIRST]}
    with pytest.raises(FetchError, match=r"derivatives/inner: 7 of 7 files could not be fetched"):
        fetch("ds999999", tmp_path / "clone", **options)
    broken.clear()
    summary = fetch("ds999999", tmp_path / "clone", **options)
    assert (summary.n_files_to_get, summary.derivative.n_files_to_get) == (0, 7)
    assert len(present(tmp_path / "clone" / "derivatives" / "inner")) == 7
