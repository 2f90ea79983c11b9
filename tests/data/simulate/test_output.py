"""Writing a synthetic dataset: occupied folders, a kill, a machine without git settings, settings out of range."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from titan_neuro.data.simulate import SimulateConfig, simulate
from titan_neuro.errors import ConfigError, FetchError, OutputError

SMALL = SimulateConfig(n_subjects=2, n_runs=2, volume_scale=0.05, voxel_size_mm=20)  # of `small_synthetic`


# ---- occupied folders ----------------------------------------------------------------------------


def test_finished_datasets_stay_and_other_settings_are_refused(small_synthetic):
    heads = small_synthetic / ".git" / "refs" / "heads"
    before = {path: path.read_text() for path in heads.iterdir()}
    start = time.perf_counter()
    simulate(small_synthetic, SMALL)
    assert time.perf_counter() - start < 0.5
    assert before == {path: path.read_text() for path in heads.iterdir()}
    with pytest.raises(OutputError, match=r"synthetic dataset with other settings \(they differ in seed\)"):
        simulate(small_synthetic, replace(SMALL, seed=5))


def test_folders_with_other_files_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is no synthetic dataset"):
        simulate(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(OutputError):
        simulate(tmp_path / "notes.txt" / "synthetic", SMALL)


def test_after_a_kill_the_next_call_starts_over(tmp_path):
    script = (
        "from pathlib import Path; from titan_neuro.data.simulate import *; "
        f"simulate(Path({str(tmp_path / 'synthetic')!r}), "
        "SimulateConfig(n_subjects=1, n_runs=1, volume_scale=1, voxel_size_mm=6))"
    )
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True, stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob(".synthetic.*.tmp/sub-*/func/.*_bold.nii.gz.*.tmp")):
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "synthetic").exists()
    simulate(tmp_path / "synthetic", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic"]


# ---- the machine ---------------------------------------------------------------------------------


def test_silent_without_activated_environment_and_git_identity(tmp_path):
    """The interpreter is called by its path, and git has no user name: it works, and only our bar is printed."""
    script = (
        "from pathlib import Path; from titan_neuro.data.simulate import *; "
        "simulate(Path('my dataset'), SimulateConfig(n_subjects=1, n_runs=1, volume_scale=0.05, voxel_size_mm=20))"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert all("Simulating" in line for line in done.stderr.split("\n") if line.strip()), done.stderr
    log = subprocess.run(
        ["git", "-C", tmp_path / "my dataset", "log", "--all", "--format=%an <%ae>"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(log.stdout.split("\n")) - {""} == {"Titan-Neuro <titan-neuro@localhost>"}


def test_missing_git_annex_is_named(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git").symlink_to("/usr/bin/git")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "bin"))
    with pytest.raises(FetchError, match="git-annex was not found"):
        simulate(tmp_path / "synthetic", SMALL)
    assert not (tmp_path / "synthetic").exists()


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"n_runs: .* less than or equal to 5; found 6"):
        SimulateConfig(n_runs=6)
    with pytest.raises(ConfigError, match="Did you mean 'n_subjects'"):
        SimulateConfig(subjects=3)
    with pytest.raises(ConfigError, match="must not exceed 1"):
        SimulateConfig(stimulus_fraction=0.9, spontaneous_fraction=0.2)
    with pytest.raises(ConfigError, match="one length"):
        SimulateConfig(lags_s=(0, 3))
