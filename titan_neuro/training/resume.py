"""What lets a training be interrupted at any moment: checkpoints, signals, and who may write into a folder."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import signal
import socket
import subprocess
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch
import torch.distributed
from filelock import FileLock, Timeout
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint

from titan_neuro.errors import MismatchError, OutputError, TrainingError
from titan_neuro.files import write_bytes, write_text, writing_to

logger = logging.getLogger(__name__)

_BEST = "best-"
# What a training goes on from: its own, and what Lightning's requeue would have left.
_RESUMABLE = "[!b]*[0-9].ckpt"
_IDENTITY = "identity"
# What to do when a step is over; the highest of all processes holds.
_GO_ON, _SAVE, _REQUEUE, _STOP = range(4)
TIME_LIMIT = signal.SIGUSR1
_ANSWERS: dict[int, int] = {TIME_LIMIT: _REQUEUE, signal.SIGTERM: _STOP}
# An older one stays until the next is whole: should the disk spoil one, the other is there. So of the best.
_N_KEPT = 2


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write under a temporary name in the same folder, then rename."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """See the base class.

        Raises
        ------
        OutputError
            The disk is full or can't be written; what was there before stays.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(Path(path), content.getbuffer())


# Signals that were noted, and not answered yet.
_noted: set[int] = set()


def _note(number: int, time_point: FrameType | None) -> None:
    _noted.add(number)


def expect_time_limit() -> None:
    """In a job of Slurm, note the signal that comes before its end, whenever it comes; the next step answers it.

    Without this, it would end a process that still loads its data, or fits in closed form.
    """
    if "SLURM_JOB_ID" in os.environ:
        signal.signal(TIME_LIMIT, _note)


def answer_between_stages(*, is_first: bool) -> None:
    """Answer a signal that came while nothing was trained, and nothing has to be saved: queue again, and stop.

    The first of several processes does, whose end ends the others.

    Raises
    ------
    KeyboardInterrupt
    """
    if _noted and is_first:
        if TIME_LIMIT in _noted:
            _requeue()
        _noted.clear()
        raise KeyboardInterrupt


class StopWhenAsked(Callback):
    """Answer a signal in a training that saves at the ends of its epochs alone."""

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Queue again, and stop."""
        answer_between_stages(is_first=True)


class Checkpoints(Checkpoint):
    """Save now and then in the middle of an epoch, at its end, and when a signal asks for an end.

    SIGTERM saves and stops. The signal before a time limit (``sbatch --signal=USR1@180``) saves, puts the job back into
    Slurm's queue and stops. Both wait for the end of a step: what is saved between two steps is consistent, and all
    processes save the same step. (Lightning's own answer saves in the middle of whatever was being done.)

    Parameters
    ----------
    folder : Path
        ``step-<number>.ckpt``, the last two; ``best-<epoch>.ckpt``, the weights of the best validations, the last two.
    every_s : float
        Seconds between two of them, at least.
    identity : mapping
        JSON: what the training follows from. Kept in each, to be compared by :func:`find_checkpoint`.
    """

    def __init__(self, folder: Path, *, every_s: float, identity: Mapping[str, Any]) -> None:
        self._folder, self._every_s, self._identity = folder, every_s, identity
        self._saved_at = time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Answer SIGTERM, which Lightning gives back when the training is over.

        Raises
        ------
        TrainingError
            Processes that share a folder have not found the same checkpoint in it.
        """
        self._saved_at = time.monotonic()
        steps = {int(_reduced(trainer, trainer.global_step, kind)) for kind in ("MIN", "MAX")}
        if len(steps) > 1:
            raise TrainingError(
                f"{self._folder}: processes go on from different steps, {min(steps)} and {max(steps)}.",
                "The folder's disk shows them different files: wait until it has settled, and give the command again.",
            )
        # One that was killed after it had decided to stop must not learn on.
        trainer.should_stop |= any(each.wait_count >= each.patience for each in trainer.early_stopping_callbacks)
        self._listen()

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Answer SIGTERM in the validation before all training, too."""
        self._listen()

    def _listen(self) -> None:
        with contextlib.suppress(ValueError):  # Not in the main thread, which alone is told of signals.
            signal.signal(signal.SIGTERM, _note)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any, **__: Any
    ) -> None:
        """Save where it is time, or asked for."""
        if trainer.is_last_batch:
            # The validation comes next, and its checkpoint. One from before it would go on after it.
            return
        is_time = time.monotonic() - self._saved_at >= self._every_s
        self._answer(trainer, _SAVE if is_time else _GO_ON)

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any, **__: Any
    ) -> None:
        """Stop where that is asked for; what was learned since the last checkpoint is learned again."""
        self._answer(trainer, _GO_ON, may_save=False)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save what was validated; the decision whether to stop early is made before, and saved with it."""
        history: list[dict[str, float]] = pl_module.history  # type: ignore[assignment]
        if best_epoch(history) == history[-1]["epoch"]:
            trainer.save_checkpoint(best_path(self._folder, best_epoch(history)), weights_only=True)
        self._answer(trainer, _SAVE)

    def _answer(self, trainer: lightning.Trainer, wish: int, *, may_save: bool = True) -> None:
        wish = int(_reduced(trainer, max([wish, *(_ANSWERS[number] for number in _noted)]), "MAX"))
        if wish == _GO_ON:
            return
        if may_save:
            self._save(trainer)
        if wish == _REQUEUE:
            if trainer.is_global_zero:
                _requeue()
            # srun ends all tasks as soon as one has ended: not before the job is queued.
            trainer.strategy.barrier()
        if wish > _SAVE:
            _noted.clear()
            raise KeyboardInterrupt

    def _save(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(self._folder / f"step-{trainer.global_step:07d}.ckpt", weights_only=False)
        self._saved_at = time.monotonic()
        if trainer.is_global_zero:
            for kind in (_RESUMABLE, f"{_BEST}*.ckpt"):
                for path in _newest_first(self._folder, kind)[_N_KEPT:]:
                    path.unlink()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say what the training follows from."""
        checkpoint[_IDENTITY] = dict(self._identity)


def best_epoch(history: Sequence[Mapping[str, float]]) -> int:
    """Return the epoch with the least validation error, the first of equal ones; 0 is the closed form."""
    return int(min(history, key=lambda row: row["validation_mse"])["epoch"])


def best_path(folder: Path, epoch: int) -> Path:
    """Return where the weights of a best epoch lie."""
    return folder / f"{_BEST}{epoch:04d}.ckpt"


def _reduced(trainer: lightning.Trainer, value: int, kind: str) -> int:
    """The least or greatest value of all processes."""
    if trainer.world_size == 1:
        return value
    tensor = torch.tensor(value, device=trainer.strategy.root_device)
    return int(trainer.strategy.reduce(tensor, reduce_op=getattr(torch.distributed.ReduceOp, kind)))


def _requeue() -> None:
    """Put this job back into Slurm's queue; its own end follows."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        why = asked.stderr.strip() if asked.returncode else ""
    except OSError as error:  # a container without Slurm's programs
        why = f"scontrol: {error.strerror}"
    if why:
        logger.warning(
            "The time limit is near; what can be saved is saved, but job %s can't be queued again (%s): submit the "
            "same command once more.",
            *(job, why),
        )
    else:
        logger.info("The time limit is near; what can be saved is saved, and job %s is queued again.", job)


def _newest_first(folder: Path, kind: str) -> list[Path]:
    """Checkpoints of a kind, by when they were written: what a lost training has left is older than what is new."""
    found = {}
    for path in folder.glob(kind):
        with contextlib.suppress(FileNotFoundError):  # Another process of this training has just put it aside.
            found[path] = (path.stat().st_mtime_ns, path.name)
    return sorted(found, key=lambda path: found[path], reverse=True)


def find_checkpoint(folder: Path, identity: Mapping[str, Any], *, may_tidy: bool = True) -> Path | None:
    """Find the newest checkpoint that is whole; None where there is none.

    One that is damaged, or not of this training, is never loaded. Processes that look at the same time find the same.

    Parameters
    ----------
    folder : Path
    identity : mapping
        What the training follows from, of which ``settings`` must be the same; ``data`` maps what it reads to digests.
    may_tidy : bool
        Put such checkpoints aside, and remove what a killed process has left half written: for one process.

    Raises
    ------
    MismatchError
        The data have changed since the training began.
    """
    if may_tidy:
        for path in folder.glob(".*.ckpt.*.tmp"):
            path.unlink()
    for path in _newest_first(folder, _RESUMABLE):
        found, why = _read_identity(path, folder)
        if found.get("settings") != identity["settings"]:
            logger.warning("%s is %s; it is not gone on from.", path, why)
            if may_tidy:
                # Inside Slurm, Lightning loads by itself whatever bears the name of its own requeue.
                path.rename(path.with_name(f"refused-{path.stem.replace('hpc_ckpt', 'requeue')}"))
            continue
        _require_same_data(folder, identity["data"], found["data"])
        return path
    return None


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is what was written: the sums in its archive tell."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (FileNotFoundError, zipfile.BadZipFile, EOFError):
        return False


def _read_identity(path: Path, folder: Path) -> tuple[dict[str, Any], str]:
    """What the training followed from; and why nothing is known of it, if so."""
    if not is_whole(path):
        return {}, "damaged"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        found, epoch = dict(content[_IDENTITY]), best_epoch(content["history"])
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, TypeError):
        return {}, "of another training"
    if found.get("settings") and epoch and not is_whole(best_path(folder, epoch)):
        return {}, f"of a training whose best weights, of epoch {epoch}, are damaged"
    return found, "of another training"


def _require_same_data(folder: Path, now: Mapping[str, str], before: Mapping[str, str]) -> None:
    for name in sorted(set(now) | set(before)):
        if now.get(name) != before.get(name):
            raise MismatchError(
                f"{folder}: the training there began on other data: {name} was {before.get(name)}, now it is "
                f"{now.get(name)}.",
                "Put the data back and run the same command, or remove this folder to begin anew on what is there now.",
            )


@contextlib.contextmanager
def training_lock(folder: Path) -> Iterator[None]:
    """Keep others from training into `folder`, for as long as the block runs or this process lives.

    Raises
    ------
    OutputError
        Somebody else does; says who.
    """
    path, who = folder / ".lock", folder / ".locked-by"
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        holder = who.read_text(encoding="utf-8").strip() if who.is_file() else "another process"
        raise OutputError(
            f"{folder}: is being trained already, by {holder}.",
            "Wait for it to end, or give this training an OUTPUT_DIR of its own.",
        ) from error
    try:
        job = os.environ.get("SLURM_JOB_ID")
        name = f"process {os.getpid()} on {socket.gethostname()}" + (f", Slurm job {job}" if job else "")
        write_text(who, f"{name}\n")
        yield
    finally:
        who.unlink(missing_ok=True)
        lock.release()
