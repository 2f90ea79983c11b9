"""The workflow on a real Slurm: to the report, and through jobs that are killed, that fail and that are cancelled."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from titan_neuro.cli.studies import find_pipelines
from titan_neuro.data.store import RunStore
from titan_neuro.training import load_forecaster

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]

# What the profile asks of a cluster's nodes, cut to this one; the rest of the profile stands.
ONE_NODE = [
    *("--slurm-init-seconds-before-status-checks", "1", "--default-resources", "mem_mb=2000", "runtime=10"),
    *("--set-resources", "train:mem_mb=3000", "--set-threads", "prepare=1", "train=1", "evaluate=1", "probe=1"),
]
# The smallest of everything.
SMALL = (
    "set=[training.max_epochs=1, training.steps_per_epoch=1, model.tokenizer.embed_dim=4, "
    "'model.tokenizer.num_heads=[1, 2, 4, 8]', model.tokenizer.window_size=2, 'model.horizons=[1, 2]', "
    "model.backbone.dim=16, model.backbone.n_heads=2, model.backbone.n_layers=1, model.recall.width=16, "
    "model.recall.n_components=8, probe.targets_per_run=8]"
)
TIMEOUT_S = 300
RUNS = tuple(f"sub-sid00000{number}_task-movie_run-01" for number in (5, 7, 9))


class Workflow:
    """Snakemake, begun with the shipped profile as a user would; what it says goes into a file."""

    def __init__(self, folder: Path, *arguments: str, config: list[str]) -> None:
        pipelines = find_pipelines()
        self.log = folder / "snakemake.log"
        command = ["snakemake", "--snakefile", str(pipelines / "Snakefile"), "--profile"]
        command += [str(pipelines / "profiles/slurm"), *ONE_NODE, *arguments, "--config", *config]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)

    def wait(self) -> tuple[int, str]:
        """Return the exit code, and all that was said."""
        try:
            code = self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(self.log.read_text()) from None
        return code, self.log.read_text()

    def until(self, condition: Callable[[], object]) -> object:
        """Wait for something true while the workflow runs, and return it."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if found := condition():
                return found
            time.sleep(0.02)
        raise AssertionError(f"did not happen: {condition.__name__}\n{self.log.read_text()}")


def processes(verb: str, *contains: str) -> list[int]:
    """Jobs' own processes, `titan-neuro VERB`, with arguments that hold these texts."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue  # it has ended
        if len(words) > 2 and words[1].endswith("/titan-neuro") and words[2] == verb:
            found += [int(folder.name)] * all(any(text in word for word in words) for text in contains)
    return found


def jobs_of(rule: str) -> list[tuple[str, str]]:
    """Wildcards and state of each job that Slurm had of a rule, the first job first."""
    command = ["squeue", "--states=all", "--sort=i", "--noheader", "--format=%k|%T"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    start = f"rule_{rule}_wildcards_"
    return [tuple(line.removeprefix(start).split("|")) for line in shown if line.startswith(start)]


def marks(output: Path, kind: str) -> list[str]:
    return sorted(path.name for path in (output / ".work/workflow" / kind).glob("*"))


def test_the_demo_to_the_report_though_a_job_is_killed(cluster, tmp_path):
    small = "simulate=[--subjects, 3, --runs, 1, --volume-scale, 0.12, --voxel-size-mm, 20]"
    workflow = Workflow(tmp_path, config=["study=demo", small, SMALL])
    victim = RUNS[1]
    output = tmp_path / "demo/output"
    [process] = workflow.until(lambda: processes("prepare", str(output), f"{victim}.json", "--no-datalad-get"))
    os.kill(process, signal.SIGKILL)
    code, said = workflow.wait()
    assert code == 0, said
    assert (output / "report.html").stat().st_size > 10_000
    assert f"Report: {output / 'report.html'}" in said
    # Each run is a job of its own; what was killed is run again, and nothing else is.
    prepared = jobs_of("prepare")
    assert [state for run, state in prepared if run == victim] == ["FAILED", "COMPLETED"]
    assert sorted(run for run, state in prepared if state == "COMPLETED") == list(RUNS)
    assert len(prepared) == len(RUNS) + 1
    assert sorted(jobs_of("train")) == [(f"0_{fold}", "COMPLETED") for fold in (1, 2, 3)]
    # Data come once, and no compute node gets any: the only fetch was over when the first job was submitted.
    assert said.count("localrule fetch:") == 1
    assert said.index("(Rule: fetch)") < said.index("has been submitted")
    # Again: there is nothing to do, and no job for it.
    code, said = Workflow(tmp_path, config=["study=demo", small, SMALL]).wait()
    assert code == 0
    assert "Nothing to be done" in said


def test_a_failed_job_shows_its_log_and_the_others_finish(cluster, study, tmp_path):
    bids, output = tmp_path / "bids", tmp_path / "output"
    shutil.copytree(study / "bids", bids, symlinks=True)
    image = bids / f"sub-sid000007/func/{RUNS[1]}_bold.nii.gz"
    image.unlink()
    image.write_bytes(b"no image")
    config = ["study=demo", "source=null", "prepare=[--run-id, 1]", f"bids_dir={bids}"]
    config += [f"output_dir={output}", f"settings={study / 'debug.yaml'}"]
    code, said = Workflow(tmp_path, "--retries", "1", config=config).wait()
    assert code != 0
    # It was tried again, as a killed job is; what the job itself said is shown, not only where it stands.
    assert [state for run, state in jobs_of("prepare") if run == RUNS[1]][-2:] == ["FAILED", "FAILED"]
    assert f"titan-neuro prepare: {image}" in said
    assert marks(output, "prepared") == [RUNS[0], RUNS[2]]
    assert not (output / ".work/workflow/folds.txt").exists()


def half_written(output: Path, whole: Path) -> list[str]:
    """What under final names is not as it should be: runs unlike those of an undisturbed study, models that don't load."""
    wrong = []
    for path in output.glob("sub-*/func/*.zarr"):
        expected = RunStore(whole / path.relative_to(output))
        frames = RunStore(path).read(0, expected.n_frames)
        wrong += [str(path)] * (not np.array_equal(frames, expected.read(0, expected.n_frames)))
    for folder in output.glob("models/seed-*/fold-*/[!.]*"):
        load_forecaster(folder)
    return wrong


def test_scancel_leaves_nothing_half_written(cluster, study, tmp_path):
    output = tmp_path / "output"
    config = ["study=demo", "source=null", "prepare=[--run-id, 1]", f"bids_dir={study / 'bids'}"]
    config += [f"output_dir={output}", f"settings={study / 'debug.yaml'}", "set=[training.max_epochs=3]"]
    target = f"{output}/.work/workflow/trained/seed-0_fold-1"

    def cancelled(in_the_middle: Callable[[], object]) -> str:
        workflow = Workflow(tmp_path, "--retries", "0", target, config=config)
        workflow.until(in_the_middle)
        subprocess.run(["scancel", "--user", "root"], check=True)
        code, said = workflow.wait()
        assert code != 0
        assert "CANCELLED" in said
        assert half_written(output, study / "output") == []
        return said

    cancelled(lambda: list(output.glob("sub-*/func/.*.tmp")))
    assert marks(output, "prepared") != list(RUNS)
    cancelled(lambda: processes("train", str(output)) and list(output.glob(".work/train/**/*")))
    assert marks(output, "prepared") == list(RUNS)
    assert marks(output, "trained") == []
    code, said = Workflow(tmp_path, target, config=config).wait()
    assert code == 0, said
    assert half_written(output, study / "output") == []
    assert (output / "models/seed-0/fold-1/titan-mac/model.json").exists()
    assert list(output.glob("**/.*.tmp")) == []
