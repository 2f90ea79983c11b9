"""One training as one job of a real Slurm: two tasks that train together, and a job whose time runs out."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).parents[2] / "pipelines/train.sbatch"
# Long enough to be interrupted, and saved seldom, so that it is the signal that saves.
SETTINGS = [
    "comparison_models=false",
    "training.max_epochs=2",
    "training.steps_per_epoch=60",
    "training.window_time_points=16",
]
SETTINGS += ["training.n_streams=2", "training.patience=2", "training.checkpoint_every_s=1000", "seeds=[0]"]
FLAGS = ["--fold", "1", *(part for setting in SETTINGS for part in ("--set", setting))]

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]


def prepared(study: Path, folder: Path) -> Path:
    """An output folder of one's own, where runs are prepared and nothing is trained."""
    output = folder / "output"
    shutil.copytree(study / "output", output, ignore=shutil.ignore_patterns("models", "group", ".work"))
    return output


@pytest.fixture(scope="module")
def undisturbed(study, titan_neuro, tmp_path_factory):
    """The weights of the same training, by one process that nobody disturbed."""
    output = prepared(study, tmp_path_factory.mktemp("undisturbed"))
    titan_neuro("train", output, *FLAGS)
    return weights(output)


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "models/seed-0/fold-1/titan-mac/model.safetensors")


def submit(folder: Path, *arguments: object, options: tuple[str, ...] = ()) -> str:
    given = ["--cpus-per-task=1", "--mem=4G", "--time=30", f"--output={folder / 'job.log'}", *options]
    command = ["sbatch", "--parsable", *given, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout.strip()


def state_of(job: str) -> dict[str, str]:
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"(\w+)=(\S+)", shown))


def wait(job: str, log: Path, is_over: Callable[[dict[str, str]], object]) -> None:
    """Wait while the job is queued or runs; where it ends without what is waited for, what it said is shown."""
    deadline = time.monotonic() + 300
    while not is_over(state := state_of(job)):
        has_ended = state["JobState"] in {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
        if has_ended or time.monotonic() > deadline:
            raise AssertionError(f"{state}\n{log.read_text() if log.exists() else 'it has said nothing'}")
        time.sleep(0.2)


def wait_until_completed(job: str, log: Path) -> None:
    wait(job, log, lambda state: state["JobState"] == "COMPLETED")


def hurry(job: str, log: Path) -> None:
    """Start a job soon that was queued again, which would wait for two minutes.

    Not at once: Slurm revokes what the job was allowed before by the second, and in that second it would not start.
    """
    wait(job, log, lambda state: state["JobState"] == "PENDING")
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now+2"], check=True)


def test_two_tasks_train_one_model(cluster, study, undisturbed, tmp_path):
    output = prepared(study, tmp_path)
    job = submit(tmp_path, output, *FLAGS, options=("--ntasks-per-node=2",))
    wait_until_completed(job, tmp_path / "job.log")
    log = (tmp_path / "job.log").read_text()
    assert "MEMBER: 2/2" in log
    # The second task trains, and says nothing of its own.
    assert log.count("titan-mac is trained") == 1
    for name, value in weights(output).items():
        torch.testing.assert_close(value, undisturbed[name], rtol=2e-3, atol=2e-5, msg=f"{name} differs")


@pytest.mark.parametrize("n_tasks", [1, 2])
def test_a_job_whose_time_runs_out_saves_and_queues_again(cluster, study, undisturbed, tmp_path, n_tasks):
    output, log = prepared(study, tmp_path), tmp_path / "job.log"
    job = submit(tmp_path, output, *FLAGS, options=(f"--ntasks-per-node={n_tasks}",))
    wait(job, log, lambda state: list(output.glob("models/seed-0/fold-1/titan-mac/logs/steps/version_0")))
    time.sleep(1)
    # What Slurm sends to the tasks as `--signal` asks, so long before the time limit as it says.
    subprocess.run(["scancel", "--signal=USR1", job], check=True)
    wait(job, log, lambda state: state["Restarts"] == "1")
    [kept] = output.glob(".work/fold-1-*/step-*.ckpt")
    hurry(job, log)
    wait_until_completed(job, log)
    said = log.read_text()
    assert f"job {job} is queued again" in said
    assert f"Training resumes from {kept}" in said
    for name, value in weights(output).items():
        # Bit for bit, but where sums are taken in another order.
        close = {"rtol": 0, "atol": 0} if n_tasks == 1 else {"rtol": 2e-3, "atol": 2e-5}
        torch.testing.assert_close(value, undisturbed[name], **close, msg=f"{name} differs")
    assert not list(output.glob(".work/fold-*"))


def test_a_job_that_is_cancelled_leaves_nothing_half_written(cluster, study, undisturbed, tmp_path, titan_neuro):
    output, log = prepared(study, tmp_path), tmp_path / "job.log"
    job = submit(tmp_path, output, *FLAGS)
    wait(job, log, lambda state: list(output.glob("models/seed-0/fold-1/titan-mac/logs/steps/version_0")))
    subprocess.run(["scancel", job], check=True)
    wait(job, log, lambda state: state["JobState"] == "CANCELLED")
    assert not list(output.glob("models/**/model.*"))
    assert not [path for path in output.rglob("*") if path.suffix == ".tmp"]
    titan_neuro("train", output, *FLAGS)
    assert all(torch.equal(value, undisturbed[name]) for name, value in weights(output).items())


@pytest.mark.slow
def test_a_job_that_takes_longer_than_its_time_limit(cluster, study, tmp_path, titan_neuro):
    """Slurm itself signals, again and again: 10 to 40 s after each start of a job of one minute."""
    longer = [flag.replace("steps_per_epoch=60", "steps_per_epoch=250") for flag in FLAGS]
    reference, output, log = (
        prepared(study, tmp_path / "reference"),
        prepared(study, tmp_path / "job"),
        tmp_path / "job.log",
    )
    titan_neuro("train", reference, *longer)
    job, restarts = submit(tmp_path, output, *longer, options=("--time=1", "--signal=USR1@20")), 0
    while True:
        wait(job, log, lambda state, seen=restarts: state["JobState"] == "COMPLETED" or int(state["Restarts"]) > seen)
        if state_of(job)["JobState"] == "COMPLETED":
            break
        restarts = int(state_of(job)["Restarts"])
        hurry(job, log)
    assert restarts >= 1
    assert "resumes from" in log.read_text()
    expected, found = weights(reference), weights(output)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
