"""Snakemake on the workflow of this checkout, with the shipped profile for one machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_study

from titan_neuro.study import Study

PIPELINES = Path(__file__).parents[2] / "pipelines"


@pytest.fixture
def snakemake(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the workflow in a folder of its own: ``--config`` values by name, other arguments as they are."""

    def run(*arguments: object, profile: object = "local", **config: object) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).with_name("snakemake"), "--snakefile", PIPELINES / "Snakefile", "--profile"]
        command += [PIPELINES / "profiles" / str(profile), *arguments, "--config"]
        command += [f"{name}={value}" for name, value in config.items()]
        # Everything is said in English and in order, whatever the machine has set.
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment.pop("SNAKEMAKE_PROFILE", None)
        return subprocess.run(
            list(map(str, command)),
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )

    return run


@pytest.fixture
def listed(tiny: Path, tmp_path: Path) -> dict[str, object]:
    """Configuration of a finished study that nobody used the workflow for; runs and folds are listed."""
    tiny_study.copy(tiny, tmp_path)
    settings = tmp_path / "settings.yaml"
    study = Study.open(tmp_path / "bids", tmp_path / "out", config_file=settings)
    marks = tmp_path / "out/.work/workflow"
    study.write_filters(marks / "runs", study.plan())
    (marks / "folds.txt").touch()
    return {"study": "sitcom", "bids_dir": study.bids_dir, "output_dir": study.output.path, "settings": settings}
