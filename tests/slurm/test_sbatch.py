"""The sbatch script on a real Slurm: a cluster of one node, brought up for the test."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "pipelines/titan-neuro.sbatch"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Slurm whose one node is this machine; workers that test side by side take turns."""
    lacking = [program for program in ("slurmctld", "slurmd", "sbatch", "munge") if not shutil.which(program)]
    if lacking:
        pytest.skip(f"{', '.join(lacking)} not installed (Debian: slurm-wlm, munge)")
    if os.geteuid() != 0:
        pytest.skip("only root can start the daemons of Slurm")
    state = tmp_path_factory.mktemp("slurm")
    with (
        FileLock(Path(tempfile.gettempdir(), "titan-neuro-one-node-slurm.lock")),
        pytest.MonkeyPatch.context() as patch,
    ):
        subprocess.run([str(Path(__file__).with_name("one_node.sh")), str(state)], check=True, timeout=60)
        patch.setenv("SLURM_CONF", str(state / "slurm.conf"))
        yield
        subprocess.run(["scancel", "--user", "root"], check=True, timeout=60)
        for pid_file in state.glob("*.pid"):
            stop(int(pid_file.read_text()))


def stop(process: int) -> None:
    """End a daemon and wait until it is gone: the next cluster wants its ports."""
    os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def submit(folder: Path, *arguments: object) -> tuple[str, str]:
    """Submit the script as a user would from an activated environment, wait, and return the job's state and log."""
    log = folder / "job.log"
    # The environment's programs first on PATH, as `source .venv/bin/activate` puts them.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    options = ["--parsable", "--cpus-per-task=1", "--mem=4G", "--time=30", f"--output={log}"]
    command = ["sbatch", *options, str(SCRIPT), *map(str, arguments)]
    job = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=folder, env=environment
    ).stdout.strip()
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
        state = re.search(r"JobState=(\S+)", shown)[1]
        if state in ENDED:
            return state, log.read_text()
        time.sleep(1)
    raise AssertionError(f"job {job} did not end:\n{shown}\n{log.read_text() if log.exists() else ''}")


def test_the_whole_way_as_one_job(cluster, study, tmp_path):
    output = tmp_path / "output"
    settings = ("--config-file", study / "debug.yaml", "--set", "training.max_epochs=1")
    state, log = submit(tmp_path, study / "bids", output, *settings)
    assert state == "COMPLETED", log
    assert (output / "report.html").stat().st_size > 10_000
    assert "titan-mac" in log
    # Submitted again, as after a requeue, it finds everything done.
    state, log = submit(tmp_path, study / "bids", output, *settings)
    assert state == "COMPLETED", log
    assert log.count("was trained before") == 3


def test_a_job_that_fails_says_why(cluster, tmp_path):
    state, log = submit(tmp_path, tmp_path / "nowhere", tmp_path / "output")
    assert state == "FAILED"
    assert "no such folder" in log
    state, log = submit(tmp_path)
    assert state == "FAILED"
    assert "usage: sbatch" in log
