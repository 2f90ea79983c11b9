"""The workflow on a real Slurm cluster, with jobs that are killed, that fail, and that are cancelled."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from titan_neuro.data.store import RunStore
from titan_neuro.study.pipelines import find_pipelines
from titan_neuro.training import load_forecaster

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]

# Resources and waiting times of the profile, reduced for this node; the rest of the profile is unchanged.
ONE_NODE = [
    *(
        "--slurm-init-seconds-before-status-checks",
        "1",
        "--latency-wait",
        "2",
        "--default-resources",
        "mem_mb=2000",
        "runtime=10",
    ),
    *("--set-resources", "train:mem_mb=3000", "--set-threads", "prepare=1", "train=1", "evaluate=1", "probe=1"),
]
# A study with the smallest sizes.
SMALL = (
    "set=[training.max_epochs=1, training.steps_per_epoch=1, 'model.horizons=[1, 2]', "
    "model.backbone.dim=16, model.backbone.n_heads=2, model.backbone.n_layers=1, model.recall.width=16, "
    "model.recall.n_components=8, probe.context_length.origins_per_run=8]"
)
TIMEOUT_S = 600
RUNS = tuple(f"sub-sid00000{number}_task-movie_run-01" for number in (5, 7, 9))


class Workflow:
    """Snakemake, started with the shipped profile as a user would; its output goes into a file."""

    def __init__(self, folder: Path, *arguments: str, config: list[str]) -> None:
        pipelines = find_pipelines()
        self.log = folder / "snakemake.log"
        command = ["snakemake", *arguments, "--snakefile", str(pipelines / "Snakefile"), "--profile"]
        command += [str(pipelines / "profiles/slurm"), *ONE_NODE, "--config", *config]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)

    def wait(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and the log."""
        try:
            code = self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(self.log.read_text()) from None
        return code, self.log.read_text()

    def until(self, condition: Callable[[], object]) -> object:
        """Wait until the condition is true while the workflow runs; return its value."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(0.02)
        raise AssertionError(f"did not happen: {condition.__name__}\n{self.log.read_text()}")


def processes(subcommand: str, *contains: str) -> list[int]:
    """Return the processes `titan-neuro SUBCOMMAND` of jobs, with arguments that contain these texts."""
    numbers = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue  # it has ended
        if len(words) > 2 and words[1].endswith("/titan-neuro") and words[2] == subcommand:
            numbers += [int(folder.name)] * all(any(text in word for word in words) for text in contains)
    return numbers


def jobs_of(rule: str) -> list[tuple[str, str]]:
    """Return wildcards and state of each Slurm job of a rule, the first job first."""
    command = ["squeue", "--states=all", "--sort=i", "--noheader", "--format=%k|%T"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    start = f"rule_{rule}_wildcards_"
    return [tuple(line.removeprefix(start).split("|")) for line in shown if line.startswith(start)]


def marks(output: Path, kind: str) -> list[str]:
    return sorted(path.name for path in (output / ".work/workflow" / kind).glob("[!.]*"))


def require_complete(output: Path) -> None:
    """Every file with its final name is complete: stores fit their checksums, models load."""
    for path in output.glob("sub-*/func/[!.]*.zarr"):
        RunStore(path).verify()
    for record in output.glob("models/seed-*/fold-*/*/config.json"):
        load_forecaster(record.parent)


def cancels(workflow: Workflow) -> bool:
    """Cancel every job, also those that a fast workflow goes on to submit; return whether it failed by that."""
    deadline = time.monotonic() + TIMEOUT_S
    while workflow.process.poll() is None and time.monotonic() < deadline:
        subprocess.run(["scancel", "--user", "root"], check=True)
        time.sleep(0.2)
    code, log = workflow.wait()
    return code != 0 and "SLURM status is: 'CANCELLED'" in log


def test_the_demo_survives_cancelled_and_killed_jobs(cluster, tmp_path):
    config = ["study=demo", "simulate=[--subjects, 3, --runs, 1, --volume-scale, 0.12, --voxel-size-mm, 20]", SMALL]
    output = tmp_path / "demo/output"
    # One job at a time: however fast a run is prepared, others are still to come.
    workflow = Workflow(tmp_path, "--retries", "0", "--jobs", "1", config=config)
    workflow.until(lambda: list(output.glob("sub-*/func/.*.tmp")))
    assert cancels(workflow), workflow.log.read_text()
    require_complete(output)
    assert marks(output, "prepared") != list(RUNS)
    n_cancelled = len(jobs_of("prepare"))

    workflow = Workflow(tmp_path, config=config)
    victim = RUNS[1]
    [process] = workflow.until(lambda: processes("prepare", str(output), f"{victim}.json", "--no-datalad-get"))
    os.kill(process, signal.SIGKILL)
    code, log = workflow.wait()
    assert code == 0, log
    require_complete(output)
    assert list(output.glob("**/.*.tmp")) == []
    assert (output / "report.html").stat().st_size > 10_000
    assert f"Report: {output / 'report.html'}" in log
    # Each run is a job of its own. Only the killed job is run again.
    prepared = jobs_of("prepare")[n_cancelled:]
    assert [state for run, state in prepared if run == victim] == ["FAILED", "COMPLETED"]
    assert sorted(run for run, state in prepared if state == "COMPLETED") == list(RUNS)
    assert len(prepared) == len(RUNS) + 1
    assert sorted(jobs_of("train")) == [(f"0_{fold}", "COMPLETED") for fold in (1, 2, 3)]
    # Data were fetched once.
    assert "rule fetch:" not in log
    # The same command again has nothing to do, and submits no job.
    code, log = Workflow(tmp_path, config=config).wait()
    assert code == 0
    assert "Nothing to be done" in log


@pytest.fixture
def prepared(study, tmp_path):
    """Configuration for the study's dataset as it is, and the output folder."""
    config = ["study=demo", "source=null", f"output_dir={tmp_path / 'output'}", f"settings={study / 'debug.yaml'}"]
    return config, tmp_path / "output"


def test_failed_jobs_show_logs_while_others_finish(cluster, study, prepared, tmp_path):
    config, output = prepared
    bids = tmp_path / "bids"
    shutil.copytree(study / "bids", bids, symlinks=True)
    image = bids / f"sub-sid000007/func/{RUNS[1]}_bold.nii.gz"
    image.unlink()
    image.write_bytes(b"no image")
    config += ["prepare=[--run-id, 1]", f"bids_dir={bids}"]
    code, log = Workflow(tmp_path, "--retries", "0", config=config).wait()
    assert code != 0
    # The log of the job is shown, not only its path.
    assert f"titan-neuro prepare: {image}" in log
    assert dict(jobs_of("prepare")[-3:]) == {RUNS[0]: "COMPLETED", RUNS[1]: "FAILED", RUNS[2]: "COMPLETED"}
    assert marks(output, "prepared") == [RUNS[0], RUNS[2]]
    assert not (output / ".work/workflow/folds.txt").exists()


@pytest.mark.slow
def test_a_cancelled_training_resumes(cluster, study, prepared, tmp_path):
    config, output = prepared
    config.append(f"bids_dir={study / 'bids'}")
    target = f"{output}/.work/workflow/trained/seed-0_fold-1"
    # Longer trainings, until one is cancelled before its end: a machine may be fast.
    for n_epochs in (6, 24, 96, 384, 1536):
        shutil.rmtree(output, ignore_errors=True)
        without = shutil.ignore_patterns("models", "group", "train", ".work")
        shutil.copytree(study / "output", output, symlinks=True, ignore=without)
        lasting = f"set=[comparison_models=false, training.max_epochs={n_epochs}, training.patience={n_epochs}]"
        longer = [*config, lasting]
        code, log = Workflow(tmp_path, "runs", config=longer).wait()
        assert code == 0, log
        # All runs are prepared there: no job is submitted for them.
        workflow = Workflow(tmp_path, target, "--retries", "0", config=longer)
        workflow.until(lambda: list(output.glob(".work/fold-*/step-*.ckpt")) or marks(output, "trained"))
        if cancels(workflow):
            break
    require_complete(output)
    assert marks(output, "trained") == []

    code, log = Workflow(tmp_path, target, config=longer).wait()
    assert code == 0, log
    require_complete(output)
    assert "resumes from" in (output / ".work/workflow/logs/train/seed-0_fold-1.log").read_text()
    assert (output / "models/seed-0/fold-1/titan-mac/config.json").exists()
    assert list(output.glob("**/.*.tmp")) == []
