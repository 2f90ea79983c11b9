"""Annexed files told from others by what lies in the working tree, against git-annex's own answers."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from titan_neuro.data.bids.annex import annex_key, dataset_id, is_missing, key_bytes
from titan_neuro.data.fetch import fetch
from titan_neuro.data.simulate import SimulateConfig, simulate

RUN = "sub-sid000005/func/sub-sid000005_task-movie_run-01_bold.nii.gz"


def annex(root: Path, *arguments: str) -> str:
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    command = ["git", "annex", *arguments]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    root = tmp_path_factory.mktemp("annex") / "synthetic"
    simulate(root, SimulateConfig(n_subjects=1, n_runs=1, volume_scale=0.05, voxel_size_mm=25))
    return root


def test_a_locked_file_with_its_content(synthetic):
    assert annex_key(synthetic / RUN) == annex(synthetic, "lookupkey", RUN)
    assert not is_missing(synthetic / RUN)
    assert key_bytes(annex_key(synthetic / RUN)) == (synthetic / RUN).stat().st_size


def test_files_in_git_have_no_key(synthetic, tmp_path):
    assert annex_key(synthetic / "truth.json") is None
    assert not is_missing(synthetic / "truth.json")
    assert annex_key(synthetic / "nothing.nii.gz") is None
    (tmp_path / "link").symlink_to("nowhere")
    assert annex_key(tmp_path / "link") is None
    assert not is_missing(tmp_path / "link")


def test_files_whose_content_is_elsewhere(synthetic, tmp_path):
    """A clone without content: a dangling link first, then, unlocked, a pointer file."""
    clone = tmp_path / "clone"
    fetch(str(synthetic), clone, subjects=["sid000005"])
    annex(clone, "drop", "--force", RUN)
    key = annex_key(synthetic / RUN)
    assert (annex_key(clone / RUN), is_missing(clone / RUN)) == (key, True)
    annex(clone, "unlock", RUN)
    assert (clone / RUN).is_file() and not (clone / RUN).is_symlink()
    assert (annex_key(clone / RUN), is_missing(clone / RUN)) == (key, True)


def test_identity_of_a_dataset(synthetic, tmp_path):
    config = ["git", "config", "--file", synthetic / ".datalad" / "config", "datalad.dataset.id"]
    expected = subprocess.run(config, capture_output=True, text=True, check=True).stdout.strip()
    assert dataset_id(synthetic) == expected
    assert dataset_id(tmp_path) is None


@pytest.mark.parametrize(
    ("key", "size"),
    [
        ("MD5E-s227526384--1a20752ace79b263bcd8662d974e9fc8.nii.gz", 227526384),
        ("SHA256E-s10-m5--abc-s3--x.nii.gz", 10),
        ("URL--http&c%%example.org%a-s12--b.nii.gz", None),
    ],
)
def test_bytes_of_a_key(key, size):
    assert key_bytes(key) == size
