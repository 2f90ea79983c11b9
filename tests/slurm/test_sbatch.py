"""The sbatch script of a whole study, on a real Slurm cluster of one node."""

import re
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "pipelines/titan-neuro.sbatch"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]


def submit(folder: Path, *arguments: object) -> tuple[str, str]:
    """Submit the script as a user would from an activated environment, wait, and return the job's state and log."""
    log = folder / "job.log"
    options = ["--parsable", "--cpus-per-task=1", "--mem=4G", "--time=30", f"--output={log}"]
    command = ["sbatch", *options, str(SCRIPT), *map(str, arguments)]
    job = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout.strip()
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
        state = re.search(r"JobState=(\S+)", shown)[1]
        if state in ENDED:
            return state, log.read_text()
        time.sleep(0.2)
    raise AssertionError(f"job {job} did not end:\n{shown}\n{log.read_text() if log.exists() else ''}")


def test_a_whole_study_as_one_job(cluster, study, tmp_path):
    output = tmp_path / "output"
    settings = ("--config-file", study / "debug.yaml", "--set", "training.max_epochs=1")
    state, log = submit(tmp_path, study / "bids", output, *settings)
    assert state == "COMPLETED", log
    assert (output / "report.html").stat().st_size > 10_000
    assert "titan-mac" in log
    # Submitted again, as after a requeue, it has nothing to do.
    state, log = submit(tmp_path, study / "bids", output, *settings)
    assert state == "COMPLETED", log
    assert log.count("was trained before") == 3


def test_a_failed_job_logs_the_cause(cluster, tmp_path):
    state, log = submit(tmp_path, tmp_path / "nowhere", tmp_path / "output")
    assert state == "FAILED"
    assert "no such folder" in log
    state, log = submit(tmp_path)
    assert state == "FAILED"
    assert "usage: sbatch" in log
