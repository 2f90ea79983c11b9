"""Datasets known by name: what a source means, and that a pinned commit is what one gets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from titan_neuro.cli import main
from titan_neuro.data.bids.annex import is_missing
from titan_neuro.data.fetch import REGISTRY, Published, RegistryEntry, drop, fetch
from titan_neuro.data.fetch.clone import check_out, commit_of
from titan_neuro.data.fetch.registry import find_derivative, find_entry
from titan_neuro.errors import FetchError, InputNotFoundError, OutputError, UsageError

BOLD = "sub-01/func/sub-01_task-x_run-1_bold.nii.gz"
NEWER = "sub-01/func/sub-01_task-x_run-2_bold.nii.gz"


@pytest.fixture(scope="module")
def grown(tmp_path_factory, commit):
    """A dataset of two commits, and their hashes: the second has a run more, and another content of the first run."""
    root, hashes = tmp_path_factory.mktemp("grown") / "source", []
    for names in ([BOLD], [BOLD, NEWER]):
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).unlink(missing_ok=True)
            (root / name).write_bytes(f"{name} {len(hashes)}".encode())
        hashes.append(commit(root, *names))
    return root, hashes


def pinned(source, commit):
    return {"ds999999": RegistryEntry(raw=Published(url=str(source), commit=commit))}


# ---- what a source means ----------------------------------------------------------------------------


def test_ds003017_is_pinned():
    entry = REGISTRY["ds003017"]
    assert entry.raw.url == "https://github.com/OpenNeuroDatasets/ds003017"
    assert entry.raw.commit == "a47a61cbbc16642ed4100b19b47da0a6dffbd532"
    transforms, fmriprep = entry.derivatives["transforms"], entry.derivatives["fmriprep"]
    assert transforms.url == "https://github.com/OpenNeuroDerivatives/ds003017-fmriprep"
    assert transforms.commit == "1ea98b21482d2286a0b260a4e9bd8e5e93bff176"
    assert fmriprep.url == "https://github.com/neuroscout-datasets/ds003017"
    assert (fmriprep.commit, fmriprep.root) == ("e614576282fd8e36e6ac6dec401174ae97313c3f", "fmriprep")
    assert transforms.name != fmriprep.name


def test_sources_are_resolved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clone = tmp_path / "clone"
    assert find_entry("ds003017", clone) is REGISTRY["ds003017"]
    unknown = find_entry("ds000001", clone)
    assert unknown == RegistryEntry(raw=Published(url="https://github.com/OpenNeuroDatasets/ds000001"))
    # An address means what is there now.
    url = REGISTRY["ds003017"].raw.url
    assert find_entry(url, clone) == RegistryEntry(raw=Published(url=url))
    (tmp_path / "ds003017").mkdir()
    assert find_entry("ds003017", clone) == RegistryEntry(raw=Published(url=str(tmp_path / "ds003017")))
    # The clone to go on with has the dataset's name.
    assert find_entry("ds003017", Path("ds003017")) is REGISTRY["ds003017"]
    with pytest.raises(InputNotFoundError, match="no such dataset"):
        find_entry("./ds000001", clone)


def test_unknown_derivatives_are_refused():
    with pytest.raises(UsageError, match=r"no fmriprep of .*derivatives: ds003017 \(transforms, fmriprep\)") as caught:
        find_derivative(find_entry("ds000001", Path("clone")), "fmriprep", "ds000001")
    assert "-d DIR" in caught.value.hint


def test_wrong_combinations_of_flags_are_refused(tmp_path, capsys):
    assert main(["fetch", "ds000001", str(tmp_path / "clone"), "--with", "transforms"]) == UsageError.exit_code
    assert "fetch ds000001 --with transforms: no transforms of this dataset are known" in capsys.readouterr().err
    for other in (["--with", "fmriprep"], ["--dry-run"]):
        assert main(["fetch", str(tmp_path), "--drop", *other]) == UsageError.exit_code
        assert f"--drop and {other[0]} don't go together" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ---- a pinned commit --------------------------------------------------------------------------------


def test_the_pinned_commit_is_fetched(grown, tmp_path, run, serve):
    source, (first, second) = grown
    url = f"{serve(source.parent)}/{source.name}"
    clone = tmp_path / "clone"
    summary = fetch("ds999999", clone, registry=pinned(url, first))
    assert (summary.commit, summary.n_runs, summary.n_files_to_get) == (first, 1, 1)
    assert (clone / BOLD).read_bytes() == f"{BOLD} 0".encode()
    assert run(clone, "git", "rev-parse", "HEAD") == first
    # No pull moves it: the branch follows none.
    branch = run(clone, "git", "symbolic-ref", "--short", "HEAD")
    assert run(clone, "git", "for-each-ref", "--format=%(upstream)", f"refs/heads/{branch}") == ""
    assert run(clone, "git", "status", "--porcelain") == ""
    # git-annex goes on working: it knows where the content is, frees it, and gets it again.
    assert "2 copies" in run(clone, "git", "annex", "whereis", BOLD)
    assert drop(clone) == summary.n_bytes
    assert is_missing(clone / BOLD)
    assert fetch("ds999999", clone, registry=pinned(url, first)).n_files_to_get == 1
    # A clone at the commit is the dataset: its place, where nobody listens now, is not asked.
    assert fetch("ds999999", clone, registry=pinned("http://127.0.0.1:9/source", first)).n_files_to_get == 0
    assert fetch(url, tmp_path / "newest").commit == second
    assert (tmp_path / "newest" / NEWER).exists()


def test_clones_at_another_commit_are_refused(grown, tmp_path, run, monkeypatch):
    source, (first, second) = grown
    monkeypatch.chdir(tmp_path)
    fetch(str(source), Path("ds999999"))
    for dry_run in (False, True):
        with pytest.raises(
            OutputError, match=rf"is at commit {second}; expected {first}.* Nothing was changed"
        ) as caught:
            fetch("ds999999", Path("ds999999"), registry=pinned(source, first), dry_run=dry_run)
    clone = tmp_path / "ds999999"
    assert run(clone, "git", "rev-parse", "HEAD") == second
    # What the hint says helps: the clone as it is, or the published state.
    as_it_is, *commands = re.findall("`([^`]+)`", caught.value.hint)
    assert as_it_is == f"titan-neuro fetch {clone}"
    assert fetch(str(clone), clone, registry=pinned(source, first)).commit == second
    for command in commands:
        run(tmp_path, *command.split())
    assert fetch("ds999999", clone, registry=pinned(source, first)).commit == first


def test_missing_commits_are_named(grown, tmp_path):
    source, _ = grown
    with pytest.raises(FetchError, match=f"has no commit {'0' * 40}"):
        fetch("ds999999", tmp_path / "clone", registry=pinned(source, "0" * 40))
    assert not (tmp_path / "clone").exists()


def test_an_adjusted_branch_stays_adjusted(grown, tmp_path, run):
    """On a file system without links git-annex works on a branch of its own; entered here by hand."""
    source, (first, second) = grown
    clone = tmp_path / "clone"
    fetch(str(source), clone)
    run(clone, "git", "annex", "adjust", "--unlock", "--quiet")
    assert run(clone, "git", "rev-parse", "HEAD") != second
    assert commit_of(clone) == second
    check_out(clone, first)
    assert commit_of(clone) == first
    assert run(clone, "git", "symbolic-ref", "--short", "HEAD") == "adjusted/pinned(unlocked)"
    assert not (clone / BOLD).is_symlink()
    assert not (clone / NEWER).exists()


def test_incomplete_clones_are_refused(tmp_path, run, commit_links):
    """DataLad reports success; a missing object has the same effect as a full disk."""
    source = tmp_path / "source"
    commit_links(source, {BOLD: "MD5E-s5--1.nii.gz"})
    (source / "README").write_text("lost")
    run(source, "git", "add", "README")
    run(source, "git", "commit", "--quiet", "--message=more")
    lost = run(source, "git", "rev-parse", "HEAD:README")
    (source / ".git" / "objects" / lost[:2] / lost[2:]).unlink()
    with pytest.raises(FetchError, match=r"was cloned, but \d+ of its files could not be checked out"):
        fetch(str(source), tmp_path / "clone")
    assert not (tmp_path / "clone").exists()


def test_folders_within_a_clone_are_no_source(grown, tmp_path):
    source, _ = grown
    fetch(str(source), tmp_path / "clone")
    with pytest.raises(OutputError, match="holds another dataset"):
        fetch(str(source / "sub-01"), tmp_path / "clone")
