"""One training as one job on a real Slurm cluster: with two tasks, near its time limit, and cancelled."""

import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).parents[2] / "pipelines/train.sbatch"
# Long enough to be interrupted; checkpoints within an epoch are saved on signals only.
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
    """Copy the prepared runs of the study into an output folder of the test, without models."""
    output = folder / "output"
    shutil.copytree(study / "output", output, ignore=shutil.ignore_patterns("models", "group", ".work"))
    return output


@pytest.fixture(scope="module")
def undisturbed(study, titan_neuro, tmp_path_factory):
    """The weights of the same training, by one process without interruption."""
    output = prepared(study, tmp_path_factory.mktemp("undisturbed"))
    titan_neuro("train", output, *FLAGS)
    return weights(output)


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "models/seed-0/fold-1/titan-mac/model.safetensors")


def submit(folder: Path, *arguments: object, options: tuple[str, ...] = ()) -> str:
    resources = ["--cpus-per-task=1", "--mem=4G", "--time=30", f"--output={folder / 'job.log'}", *options]
    command = ["sbatch", "--parsable", *resources, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout.strip()


def state_of(job: str) -> dict[str, str]:
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"(\w+)=(\S+)", shown))


def wait(job: str, log: Path, is_over: Callable[[dict[str, str]], object]) -> None:
    """Wait until a condition on the job's state holds; fail with the log where the job ends before."""
    deadline = time.monotonic() + 300
    while not is_over(state := state_of(job)):
        has_ended = state["JobState"] in {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
        if has_ended or time.monotonic() > deadline:
            raise AssertionError(f"{state}\n{log.read_text() if log.exists() else 'no log'}")
        time.sleep(0.2)


def wait_until_completed(job: str, log: Path) -> None:
    wait(job, log, lambda state: state["JobState"] == "COMPLETED")


def is_training(output: Path) -> bool:
    """Whether the first steps of the training are logged."""
    tables = output.glob("models/seed-0/fold-1/titan-mac/logs/steps/version_0/metrics.csv")
    return any("gradient_norm" in table.read_text() for table in tables)


def start_soon(job: str, log: Path) -> None:
    """Start a requeued job in two seconds; by itself it would start after two minutes.

    It can't start at once: Slurm revokes the credentials of its first start for the current second.
    """
    wait(job, log, lambda state: state["JobState"] == "PENDING")
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now+2"], check=True)


def test_two_tasks_train_one_model(cluster, study, undisturbed, tmp_path):
    output = prepared(study, tmp_path)
    job = submit(tmp_path, output, *FLAGS, options=("--ntasks-per-node=2",))
    wait_until_completed(job, tmp_path / "job.log")
    log = (tmp_path / "job.log").read_text()
    assert "MEMBER: 2/2" in log
    # The second task trains, and logs nothing.
    assert log.count("titan-mac is trained") == 1
    for name, value in weights(output).items():
        torch.testing.assert_close(value, undisturbed[name], rtol=2e-3, atol=2e-5, msg=f"{name} differs")


def test_torchrun_inside_srun_trains_one_model(cluster, study, undisturbed, tmp_path):
    """The usual way on clusters with several GPUs in a node: one task, in which torchrun starts the processes."""
    output, log = prepared(study, tmp_path), tmp_path / "job.log"
    flags = ["--nproc-per-node", "2", "-m", "titan_neuro", "train", str(output), *FLAGS]
    command = shlex.join(["srun", "torchrun", "--standalone", *flags])
    resources = ["--cpus-per-task=1", "--mem=4G", "--time=30", f"--output={log}"]
    submitted = ["sbatch", "--parsable", *resources, "--wrap", command]
    job = subprocess.run(submitted, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.strip()
    wait_until_completed(job, log)
    assert "MEMBER: 2/2" in log.read_text()
    assert log.read_text().count("titan-mac is trained") == 1
    for name, value in weights(output).items():
        torch.testing.assert_close(value, undisturbed[name], rtol=2e-3, atol=2e-5, msg=f"{name} differs")


@pytest.mark.parametrize("n_tasks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_job_near_its_time_limit_is_requeued(cluster, study, undisturbed, tmp_path, n_tasks):
    output, log = prepared(study, tmp_path), tmp_path / "job.log"
    job = submit(tmp_path, output, *FLAGS, options=(f"--ntasks-per-node={n_tasks}",))
    wait(job, log, lambda state: is_training(output))
    # The signal that Slurm sends to the tasks before the time limit.
    subprocess.run(["scancel", "--signal=USR1", job], check=True)
    wait(job, log, lambda state: state["Restarts"] == "1")
    [checkpoint] = output.glob(".work/fold-1-*/step-*.ckpt")
    start_soon(job, log)
    wait_until_completed(job, log)
    messages = log.read_text()
    assert f"job {job} is queued again" in messages
    assert f"Training resumes from {checkpoint}" in messages
    for name, value in weights(output).items():
        # Bit for bit with one task; with two, sums are taken in another order.
        tolerance = {"rtol": 0, "atol": 0} if n_tasks == 1 else {"rtol": 2e-3, "atol": 2e-5}
        torch.testing.assert_close(value, undisturbed[name], **tolerance, msg=f"{name} differs")
    assert not list(output.glob(".work/fold-*"))


def test_a_cancelled_job_leaves_no_partial_files(cluster, study, undisturbed, tmp_path, titan_neuro):
    output, log = prepared(study, tmp_path), tmp_path / "job.log"
    job = submit(tmp_path, output, *FLAGS)
    wait(job, log, lambda state: is_training(output))
    subprocess.run(["scancel", job], check=True)
    wait(job, log, lambda state: state["JobState"] == "CANCELLED")
    assert not list(output.glob("models/**/model.*"))
    assert not [path for path in output.rglob("*") if path.suffix == ".tmp"]
    titan_neuro("train", output, *FLAGS)
    assert all(torch.equal(value, undisturbed[name]) for name, value in weights(output).items())


@pytest.mark.slow
def test_a_job_longer_than_its_time_limit(cluster, study, tmp_path, titan_neuro):
    """Slurm itself sends the signal, 10 to 40 s after each start of a job of one minute."""
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
        start_soon(job, log)
    assert restarts >= 1
    assert "resumes from" in log.read_text()
    expected, trained = weights(reference), weights(output)
    assert all(torch.equal(trained[name], value) for name, value in expected.items())
