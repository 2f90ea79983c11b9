"""One training as one job on a real Slurm cluster: with two tasks, near its time limit, and cancelled."""

import functools
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
# Checkpoints within an epoch are saved on signals only.
SETTINGS = ["comparison_models=false", "training.max_epochs=2", "training.window_time_points=16", "seeds=[0]"]
SETTINGS += ["training.n_streams=2", "training.patience=2", "training.checkpoint_every_s=1000"]
STEPS = [60, 240, 960, 3840, 15360, 61440]
"""Steps of each of two epochs. A test that interrupts a training takes the first number that is enough."""
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]


def flags(n_steps: int) -> list[str]:
    settings = [*SETTINGS, f"training.steps_per_epoch={n_steps}"]
    return ["--fold", "1", *(part for setting in settings for part in ("--set", setting))]


def prepared(study: Path, folder: Path) -> Path:
    """Copy the prepared runs of the study into an output folder of the test, without models."""
    output = folder / "output"
    shutil.copytree(study / "output", output, ignore=shutil.ignore_patterns("models", "group", ".work"))
    return output


@pytest.fixture(scope="module")
def undisturbed(study, titan_neuro, tmp_path_factory):
    """The weights of the training with this many steps, by one process without interruption."""

    @functools.cache
    def train(n_steps: int) -> dict[str, torch.Tensor]:
        output = prepared(study, tmp_path_factory.mktemp("undisturbed"))
        titan_neuro("train", output, *flags(n_steps))
        return weights(output)

    return train


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
        if state["JobState"] in ENDED or time.monotonic() > deadline:
            raise AssertionError(f"{state}\n{log.read_text() if log.exists() else 'no log'}")
        time.sleep(0.2)


def wait_until_completed(job: str, log: Path) -> None:
    wait(job, log, lambda state: state["JobState"] == "COMPLETED")


def is_training(output: Path) -> bool:
    """Whether the first steps of the training are logged."""
    tables = output.glob("models/seed-0/fold-1/titan-mac/logs/steps/version_0/metrics.csv")
    return any("gradient_norm" in table.read_text() for table in tables)


def submit_until_interrupted(
    study: Path,
    folder: Path,
    interrupt: Callable[[str, Path, Path], bool],
    *,
    options: tuple[str, ...] = (),
    n_steps: list[int] = STEPS,
) -> tuple[str, Path, Path, int]:
    """Submit a training, and others of more steps, until one is interrupted before its end: a machine may be fast.

    `interrupt` takes the job, its output folder and its log, and returns whether it came before the end. Returns these
    three and the number of steps.
    """
    for n in n_steps:
        attempt = folder / f"{n}-steps"
        output, log = prepared(study, attempt), attempt / "job.log"
        job = submit(attempt, output, *flags(n), options=options)
        if interrupt(job, output, log):
            return job, output, log, n
        assert state_of(job)["JobState"] == "COMPLETED", log.read_text()
    raise AssertionError(f"the training of {n} steps ended before it was interrupted")


def start_soon(job: str, log: Path) -> None:
    """Start a requeued job in two seconds; by itself it would start after two minutes.

    It can't start at once: Slurm revokes the credentials of its first start for the current second.
    """
    wait(job, log, lambda state: state["JobState"] == "PENDING")
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now+2"], check=True)


def test_two_tasks_train_one_model(cluster, study, undisturbed, tmp_path):
    output = prepared(study, tmp_path)
    job = submit(tmp_path, output, *flags(STEPS[0]), options=("--ntasks-per-node=2",))
    wait_until_completed(job, tmp_path / "job.log")
    log = (tmp_path / "job.log").read_text()
    assert "MEMBER: 2/2" in log
    # The second task trains, and logs nothing.
    assert log.count("titan-mac is trained:") == 1
    for name, value in weights(output).items():
        torch.testing.assert_close(value, undisturbed(STEPS[0])[name], rtol=2e-3, atol=2e-5, msg=f"{name} differs")


def test_torchrun_inside_srun_trains_one_model(cluster, study, undisturbed, tmp_path):
    """The usual way on clusters with several GPUs in a node: one task, in which torchrun starts the processes."""
    output, log = prepared(study, tmp_path), tmp_path / "job.log"
    arguments = ["--nproc-per-node", "2", "-m", "titan_neuro", "train", str(output), *flags(STEPS[0])]
    command = shlex.join(["srun", "torchrun", "--standalone", *arguments])
    resources = ["--cpus-per-task=1", "--mem=4G", "--time=30", f"--output={log}"]
    submitted = ["sbatch", "--parsable", *resources, "--wrap", command]
    job = subprocess.run(submitted, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.strip()
    wait_until_completed(job, log)
    assert "MEMBER: 2/2" in log.read_text()
    assert log.read_text().count("titan-mac is trained:") == 1
    for name, value in weights(output).items():
        torch.testing.assert_close(value, undisturbed(STEPS[0])[name], rtol=2e-3, atol=2e-5, msg=f"{name} differs")


@pytest.mark.parametrize("n_tasks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_job_near_its_time_limit_is_requeued(cluster, study, undisturbed, tmp_path, n_tasks):
    def signaled(job: str, output: Path, log: Path) -> bool:
        wait(job, log, lambda state: is_training(output) or state["JobState"] == "COMPLETED")
        # The signal that Slurm sends to the tasks before the time limit.
        subprocess.run(["scancel", "--signal=USR1", job], check=False)
        wait(job, log, lambda state: state["Restarts"] == "1" or state["JobState"] == "COMPLETED")
        return state_of(job)["Restarts"] == "1"

    options = (f"--ntasks-per-node={n_tasks}",)
    job, output, log, n_steps = submit_until_interrupted(study, tmp_path, signaled, options=options)
    [checkpoint] = output.glob(".work/fold-1-*/step-*.ckpt")
    start_soon(job, log)
    wait_until_completed(job, log)
    messages = log.read_text()
    assert f"job {job} is queued again" in messages
    assert f"Training resumes from {checkpoint}" in messages
    for name, value in weights(output).items():
        # Bit for bit with one task; with two, sums are taken in another order.
        tolerance = {"rtol": 0, "atol": 0} if n_tasks == 1 else {"rtol": 2e-3, "atol": 2e-5}
        torch.testing.assert_close(value, undisturbed(n_steps)[name], **tolerance, msg=f"{name} differs")
    assert not list(output.glob(".work/fold-*"))


def test_a_cancelled_job_leaves_no_partial_files(cluster, study, undisturbed, tmp_path, titan_neuro):
    def cancelled(job: str, output: Path, log: Path) -> bool:
        wait(job, log, lambda state: is_training(output) or state["JobState"] == "COMPLETED")
        subprocess.run(["scancel", job], check=False)
        wait(job, log, lambda state: state["JobState"] in {"CANCELLED", "COMPLETED"})
        return state_of(job)["JobState"] == "CANCELLED"

    _, output, _, n_steps = submit_until_interrupted(study, tmp_path, cancelled)
    assert not list(output.glob("models/**/model.*"))
    assert not [path for path in output.rglob("*") if path.suffix == ".tmp"]
    titan_neuro("train", output, *flags(n_steps))
    assert all(torch.equal(value, undisturbed(n_steps)[name]) for name, value in weights(output).items())


@pytest.mark.slow
def test_a_job_longer_than_its_time_limit(cluster, study, undisturbed, tmp_path):
    """Slurm itself sends the signal, 30 to 60 s after each start of a job of two minutes."""

    def restarted(job: str, output: Path, log: Path, *, seen: int = 0) -> bool:
        wait(job, log, lambda state: state["JobState"] == "COMPLETED" or int(state["Restarts"]) > seen)
        return int(state_of(job)["Restarts"]) > seen

    options = ("--time=2", "--signal=USR1@60")
    job, output, log, n_steps = submit_until_interrupted(study, tmp_path, restarted, options=options, n_steps=STEPS[1:])
    restarts = 1
    start_soon(job, log)
    while restarted(job, output, log, seen=restarts):
        restarts += 1
        start_soon(job, log)
    assert log.read_text().count("resumes from") == restarts
    trained = weights(output)
    assert all(torch.equal(trained[name], value) for name, value in undisturbed(n_steps).items())
