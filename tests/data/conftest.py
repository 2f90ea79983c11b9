"""A small synthetic dataset for every test of datasets, and copies of it that may be changed."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from titan_neuro.data.simulate import SimulateConfig, simulate


def _run(root: Path, *command: str) -> str:
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Run a program in a folder, with git-annex on PATH, and return its output."""
    return _run


@pytest.fixture(scope="session")
def _simulated(tmp_path_factory) -> Callable[..., Path]:
    @functools.cache
    def make(n_subjects: int, n_runs: int) -> Path:
        root = tmp_path_factory.mktemp("simulated") / "synthetic"
        simulate(root, SimulateConfig(n_subjects=n_subjects, n_runs=n_runs, volume_scale=0.05, voxel_size_mm=20))
        return root

    return make


@pytest.fixture(scope="session")
def small_synthetic(_simulated) -> Path:
    """Two subjects, two runs of few large voxels, in a folder of its own named ``synthetic``; don't change it."""
    return _simulated(2, 2)


@pytest.fixture(scope="session")
def copy_synthetic(_simulated) -> Callable[..., Path]:
    """Copy a small dataset with its content to a folder; equal sizes are simulated once, and have one DataLad id."""

    def copy(root: Path, *, n_subjects: int, n_runs: int) -> Path:
        shutil.copytree(_simulated(n_subjects, n_runs), root, symlinks=True)
        return root

    return copy
