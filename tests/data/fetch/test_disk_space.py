"""Room on the disk: git-annex's reserve and the copies of unlocked files count, as they do for git-annex itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from titan_neuro.data.bids.annex import is_missing
from titan_neuro.data.fetch import fetch, get_content
from titan_neuro.data.fetch.disk_space import disk_space
from titan_neuro.data.fetch.tree import read_tree
from titan_neuro.errors import FetchError

BOLD = "sub-01/func/sub-01_task-x_bold.nii.gz"
SAME = "sub-02/func/sub-02_task-x_bold.nii.gz"


def space_of(clone):
    return disk_space(clone, [(clone, [file for file in read_tree(clone) if file.missing])])


def fill(root, commit_links, n_bytes):
    """A dataset of two runs with the same content, of this size, that is nowhere."""
    commit_links(root, dict.fromkeys((BOLD, SAME), f"MD5E-s{n_bytes}--1a20752ace79b263bcd8662d974e9fc8.nii.gz"))
    return root


def free_fraction(folder, fraction):
    return int(fraction * shutil.disk_usage(folder).free)


# ---- the reserve -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "n_reserved"),
    [
        (None, 100_000_000),
        ("0", 0),
        ("3000", 3000),
        ("1.5 GB", 1_500_000_000),
        ("2 gigabytes", 2_000_000_000),
        ("1KiB", 1024),
        ("many", 100_000_000),
    ],
)
def test_reserve_is_that_of_git_annex(tmp_path, commit_links, run, setting, n_reserved):
    root = fill(tmp_path / "source", commit_links, 1000)
    if setting:
        run(root, "git", "config", "annex.diskreserve", setting)
    space = space_of(root)
    assert (space.n_bytes, space.n_copied_bytes, space.n_reserved_bytes) == (1000, 0, n_reserved)
    assert f"(+{n_reserved} reserved)" in run(root, "git", "annex", "info", "--fast", "--bytes")
    assert space.is_enough and f"git-annex keeps {n_reserved:,}; 1,000 are to be fetched: enough" in space.describe()


@pytest.mark.parametrize(("setting", "n_reserved"), [("", 100_000_000), ("2 GB", 2_000_000_000)])
def test_the_question_changes_nothing(tmp_path, commit_links, run, setting, n_reserved):
    """Also in a clone that git-annex does not know yet: by git alone."""
    source, clone = fill(tmp_path / "source", commit_links, 1000), tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(source), "clone")
    if setting:
        run(clone, "git", "config", "annex.diskreserve", setting)
    before = sorted(clone.rglob("*"))
    assert space_of(clone).n_reserved_bytes == n_reserved
    assert sorted(clone.rglob("*")) == before


def test_content_that_would_take_from_the_reserve_is_refused(synthetic, tmp_path, run):
    clone = tmp_path / "clone"
    fetch(str(synthetic), clone, runs=["1"])
    run(clone, "git", "config", "annex.diskreserve", "900 TB")
    with pytest.raises(FetchError, match=r"disk is too full: .* git-annex keeps 900TB \(annex.diskreserve\)"):
        fetch(str(synthetic), clone)
    missing = [path for path in clone.glob("sub-*/func/*_bold.nii.gz") if is_missing(path)]
    with pytest.raises(FetchError, match="the disk is too full"):
        get_content(missing)
    # git-annex says the same of each file.
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["git", "annex", "get", str(missing[0].relative_to(clone))],
        **{"cwd": clone, "env": {**os.environ, "PATH": path}, "capture_output": True, "text": True},
    )
    assert done.returncode and "not enough free space" in done.stdout + done.stderr
    # What needs nothing is not refused, on however full a disk.
    assert fetch(str(synthetic), clone, runs=["1"]).n_files_to_get == 0
    run(clone, "git", "config", "annex.diskreserve", "0")
    assert fetch(str(synthetic), clone).n_files_to_get == 2


def test_a_dry_run_counts_the_reserve(tmp_path, commit_links, caplog, monkeypatch):
    source = fill(tmp_path / "source", commit_links, free_fraction(tmp_path, 0.6))
    for name, value in (("COUNT", "1"), ("KEY_0", "annex.diskreserve"), ("VALUE_0", "900 TB")):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    with caplog.at_level("INFO", "titan_neuro"):
        fetch(str(source), tmp_path / "clone", dry_run=True)
    assert "git-annex keeps 900,000,000,000,000;" in caplog.text and ": not enough." in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


# ---- unlocked files ----------------------------------------------------------------------------------


def test_unlocked_files_need_twice_the_room(tmp_path, commit_links, run, caplog):
    n_bytes = free_fraction(tmp_path, 0.4)
    source, clone = fill(tmp_path / "source", commit_links, n_bytes), tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(source), "clone")
    run(clone, "git", "annex", "init", "--quiet")
    # Locked, the two runs are links to one content.
    assert (space_of(clone).n_copied_bytes, space_of(clone).is_enough) == (0, True)
    run(clone, "git", "annex", "adjust", "--unlock", "--quiet")
    assert (space_of(clone).n_bytes, space_of(clone).n_copied_bytes) == (n_bytes, 2 * n_bytes)
    with caplog.at_level("INFO", "titan_neuro"):
        fetch(str(clone), clone, dry_run=True)
    assert f"and as much as {2 * n_bytes:,} for copies of unlocked files: not enough." in caplog.text
    with pytest.raises(FetchError, match="more for copies of unlocked files") as caught:
        fetch(str(clone), clone)
    assert "annex.thin" in caught.value.hint
    run(clone, "git", "config", "annex.thin", "true")
    assert (space_of(clone).n_copied_bytes, space_of(clone).is_enough) == (0, True)
    # On a file system without links git-annex can't keep to it.
    run(clone, "git", "config", "annex.crippledfilesystem", "true")
    assert space_of(clone).n_copied_bytes == 2 * n_bytes


@pytest.mark.parametrize(("thin", "n_times"), [("false", 2), ("true", 1)])
def test_room_is_what_git_annex_takes(synthetic, tmp_path, run, thin, n_times):
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(synthetic), "clone")
    run(clone, "git", "config", "annex.thin", thin)
    run(clone, "git", "annex", "init", "--quiet")
    run(clone, "git", "annex", "adjust", "--unlock", "--quiet")
    missing = [file for file in read_tree(clone) if file.missing and "sid000005" in file.name.name]
    images = [file for file in missing if file.name.name.endswith("_bold.nii.gz")]
    space = disk_space(clone, [(clone, images)])
    get_content([file.path for file in images])
    blocks = {path.stat().st_ino: path.stat().st_size for path in _contents(clone, images)}
    assert sum(blocks.values()) == space.n_bytes + space.n_copied_bytes == n_times * space.n_bytes


def _contents(clone: Path, files) -> list[Path]:
    keys = {file.key for file in files}
    objects = [path for path in (clone / ".git/annex/objects").rglob("*") if path.is_file() and path.name in keys]
    return [*objects, *(file.path for file in files)]
