"""Annexed files recognized from the working tree alone, compared with git-annex's own answers."""

from __future__ import annotations

import subprocess

import pytest

from titan_neuro.data.bids.annex import annex_key, dataset_id, is_missing, key_bytes
from titan_neuro.data.fetch import fetch

RUN = "sub-sid000005/func/sub-sid000005_task-movie_run-01_bold.nii.gz"


@pytest.fixture
def annex(run):
    """Run a git-annex command in a folder, and return its output."""
    return lambda root, *arguments: run(root, "git", "annex", *arguments)


def test_locked_files_with_content(small_synthetic, annex):
    assert annex_key(small_synthetic / RUN) == annex(small_synthetic, "lookupkey", RUN)
    assert not is_missing(small_synthetic / RUN)
    assert key_bytes(annex_key(small_synthetic / RUN)) == (small_synthetic / RUN).stat().st_size


def test_files_in_git_have_no_key(small_synthetic, tmp_path):
    assert annex_key(small_synthetic / "truth.json") is None
    assert not is_missing(small_synthetic / "truth.json")
    assert annex_key(small_synthetic / "nothing.nii.gz") is None
    (tmp_path / "link").symlink_to("nowhere")
    assert annex_key(tmp_path / "link") is None
    assert not is_missing(tmp_path / "link")


def test_files_without_content(small_synthetic, annex, tmp_path):
    """A clone without content: a dangling link first, then, unlocked, a pointer file."""
    clone = tmp_path / "clone"
    fetch(str(small_synthetic), clone, subjects=["sid000005"])
    annex(clone, "drop", "--force", RUN)
    key = annex_key(small_synthetic / RUN)
    assert (annex_key(clone / RUN), is_missing(clone / RUN)) == (key, True)
    annex(clone, "unlock", RUN)
    assert (clone / RUN).is_file() and not (clone / RUN).is_symlink()
    assert (annex_key(clone / RUN), is_missing(clone / RUN)) == (key, True)


def test_dataset_ids_are_read(small_synthetic, tmp_path):
    config = ["git", "config", "--file", small_synthetic / ".datalad" / "config", "datalad.dataset.id"]
    expected = subprocess.run(config, capture_output=True, text=True, check=True).stdout.strip()
    assert dataset_id(small_synthetic) == expected
    assert dataset_id(tmp_path) is None


@pytest.mark.parametrize(
    ("key", "size"),
    [
        ("MD5E-s227526384--1a20752ace79b263bcd8662d974e9fc8.nii.gz", 227526384),
        ("SHA256E-s10-m5--abc-s3--x.nii.gz", 10),
        ("URL--http&c%%example.org%a-s12--b.nii.gz", None),
    ],
)
def test_keys_contain_sizes(key, size):
    assert key_bytes(key) == size
