"""Interruptions of a training: checkpoints, signals, and the lock of a folder that is being trained into."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import signal
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

from titan_neuro.errors import OutputError, TrainingError, list_names
from titan_neuro.files import make_folder, write_bytes, write_text, writing_to
from titan_neuro.stage_locks import Holder

logger = logging.getLogger(__name__)

_BEST = "best-"
# Checkpoints that a training may resume from: its own, and those that Lightning's requeue would have written.
_RESUMABLE = "[!b]*[0-9].ckpt"
_IDENTITY = "identity"
# Actions at the end of a step. Of several processes that ask for different ones, the highest is carried out by all.
_CONTINUE, _SAVE, _REQUEUE, _STOP = range(4)
TIME_LIMIT = signal.SIGUSR1
_ACTIONS: dict[int, int] = {TIME_LIMIT: _REQUEUE, signal.SIGTERM: _STOP}
# Two checkpoints, and two best weights: should one be damaged, the other can be used.
_N_CHECKPOINTS = 2


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write under a temporary name in the same folder, then rename."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """See the base class.

        Raises
        ------
        OutputError
            The disk is full or can't be written; an earlier checkpoint at `path` stays.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(Path(path), content.getbuffer())


# Signals that were received and not yet acted on.
_received: set[int] = set()


def _record(number: int, frame: FrameType | None) -> None:
    _received.add(number)


def expect_time_limit() -> None:
    """In a Slurm job, record the signal that precedes the time limit; the training acts on it at the end of a step.

    Call it early: without a handler the signal would end a process that still loads data, or fits in closed form.
    """
    if "SLURM_JOB_ID" in os.environ:
        signal.signal(TIME_LIMIT, _record)


def ignore_time_limit() -> None:
    """In a Slurm job in which all is trained, let the signal come too late, even while the interpreter ends.

    There Python gives signals their default back, and the job of a finished training would count as failed.
    """
    if "SLURM_JOB_ID" in os.environ:
        signal.signal(TIME_LIMIT, signal.SIG_IGN)


def stop_if_signaled(*, is_first: bool) -> None:
    """Stop where a signal was received outside of training steps, when nothing has to be saved.

    On the time limit's signal the job is put back into the queue before. Of several processes the first does this; when
    it ends, the others end, too.

    Raises
    ------
    KeyboardInterrupt
        A signal was received.
    """
    if _received and is_first:
        if TIME_LIMIT in _received:
            _requeue()
        _received.clear()
        raise KeyboardInterrupt


class StopOnSignal(Callback):
    """Act on signals in a training that saves at the ends of its epochs only."""

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Put the job back into the queue where its time limit is near, and stop."""
        stop_if_signaled(is_first=True)


class Checkpoints(Checkpoint):
    """Save a checkpoint at intervals within an epoch, at the end of an epoch, and when a signal asks to stop.

    On SIGTERM the training saves and stops. On the signal before a time limit (``sbatch --signal=USR1@180``) it saves,
    puts the job back into Slurm's queue, and stops. Both happen at the end of a step: between two steps the saved state
    is consistent, and all processes save the same step. (Lightning's own handler would save in the middle of a step.)

    Parameters
    ----------
    folder : Path
        For ``step-<number>.ckpt``, the last two, and ``best-<epoch>.ckpt``, the weights of the last two epochs that had
        the least validation error so far.
    every_s : float
        Seconds between two checkpoints within an epoch, at least.
    identity : mapping
        JSON: what the training depends on. Stored in each checkpoint, and compared by :func:`find_checkpoint`.
    """

    def __init__(self, folder: Path, *, every_s: float, identity: Mapping[str, Any]) -> None:
        self._folder, self._every_s, self._identity = folder, every_s, identity
        self._saved_at = time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Handle SIGTERM (Lightning restores its own handler at the end), and check that all processes agree.

        Raises
        ------
        TrainingError
            The processes found different checkpoints in the folder that they share.
        """
        self._saved_at = time.monotonic()
        steps = {int(_reduced(trainer, trainer.global_step, kind)) for kind in ("MIN", "MAX")}
        if len(steps) > 1:
            raise TrainingError(
                f"{self._folder}: processes resume from different steps, {min(steps)} and {max(steps)}.",
                "They see different files in this folder: wait until its file system is consistent, and run the same "
                "command again.",
            )
        # A training that was killed after its decision to stop early must not continue.
        trainer.should_stop |= any(each.wait_count >= each.patience for each in trainer.early_stopping_callbacks)
        self._handle_sigterm()

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Handle SIGTERM in the validation before the first epoch, too."""
        self._handle_sigterm()

    def _handle_sigterm(self) -> None:
        with contextlib.suppress(ValueError):  # Only the main thread can handle signals.
            signal.signal(signal.SIGTERM, _record)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any, **__: Any
    ) -> None:
        """Save where the interval is over, or a signal asks for it."""
        if trainer.is_last_batch:
            # A checkpoint is saved after the validation that follows. One from before would skip the validation.
            return
        is_time = time.monotonic() - self._saved_at >= self._every_s
        self._act(trainer, _SAVE if is_time else _CONTINUE)

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any, **__: Any
    ) -> None:
        """Stop where a signal asks for it; the steps since the last checkpoint are repeated later."""
        self._act(trainer, _CONTINUE, may_save=False)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the validated epoch, with the decision whether to stop early, which was made before."""
        history = _history(pl_module)
        if best_epoch(history) == history[-1]["epoch"]:
            trainer.save_checkpoint(best_path(self._folder, best_epoch(history)), weights_only=True)
        self._act(trainer, _SAVE)

    def _act(self, trainer: lightning.Trainer, action: int, *, may_save: bool = True) -> None:
        action = int(_reduced(trainer, max([action, *(_ACTIONS[number] for number in _received)]), "MAX"))
        if action == _CONTINUE:
            return
        if may_save:
            self._save(trainer)
        if action == _REQUEUE:
            if trainer.is_global_zero:
                _requeue()
            # srun ends all tasks as soon as one has ended: none may end before the job is queued.
            trainer.strategy.barrier()
        if action > _SAVE:
            _received.clear()
            raise KeyboardInterrupt

    def _save(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(self._folder / f"step-{trainer.global_step:07d}.ckpt", weights_only=False)
        self._saved_at = time.monotonic()
        if trainer.is_global_zero:
            for kind in (_RESUMABLE, f"{_BEST}*.ckpt"):
                for path in _newest_first(self._folder, kind)[_N_CHECKPOINTS:]:
                    path.unlink()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the identity of the training."""
        checkpoint[_IDENTITY] = dict(self._identity)


def _history(module: lightning.LightningModule) -> list[dict[str, float]]:
    history: object = module.history
    if not isinstance(history, list):
        raise TypeError(f"{type(module).__name__}.history: expected a list, found {type(history).__name__}.")
    return history


def best_epoch(history: Sequence[Mapping[str, float]]) -> int:
    """Return the epoch with the least validation error, the first of equal ones; epoch 0 is the closed-form fit."""
    return int(min(history, key=lambda row: row["validation_mse"])["epoch"])


def best_path(folder: Path, epoch: int) -> Path:
    """Return the path of the weights of a best epoch."""
    return folder / f"{_BEST}{epoch:04d}.ckpt"


def _reduced(trainer: lightning.Trainer, value: int, kind: str) -> int:
    """Return the least (``MIN``) or greatest (``MAX``) value of all processes."""
    if trainer.world_size == 1:
        return value
    tensor = torch.tensor(value, device=trainer.strategy.root_device)
    return int(trainer.strategy.reduce(tensor, reduce_op=getattr(torch.distributed.ReduceOp, kind)))


def _requeue() -> None:
    """Put this Slurm job back into the queue; it ends soon after."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        reason = done.stderr.strip() if done.returncode else ""
    except OSError as error:  # a container without Slurm's programs
        reason = f"scontrol: {error.strerror}"
    if reason:
        logger.warning(
            "The time limit is near and the training is saved, but job %s can't be queued again (%s). Submit the same "
            "command once more.",
            *(job, reason),
        )
    else:
        logger.info("The time limit is near: the training is saved, and job %s is queued again.", job)


def _newest_first(folder: Path, pattern: str) -> list[Path]:
    """Sort checkpoints by the time of writing, not by step: those of a lost training may have higher steps."""
    times = {}
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # Another process of this training has just renamed it.
            times[path] = (path.stat().st_mtime_ns, path.name)
    return sorted(times, key=lambda path: times[path], reverse=True)


def find_checkpoint(folder: Path, identity: Mapping[str, Any], *, may_clean_up: bool = True) -> Path | None:
    """Find the newest checkpoint of this training that is intact; None where there is none.

    Checkpoints that are damaged or of another training are never loaded. Several processes that search at the same time
    find the same one.

    Parameters
    ----------
    folder : Path
    identity : mapping
        What the training depends on: ``settings``, which must be those of the checkpoint, and ``data``, a digest of
        each input by its name.
    may_clean_up : bool
        Rename the checkpoints that can't be used, and remove files that a killed process left unfinished: for one
        process only.
    """
    if may_clean_up:
        for path in folder.glob(".*.ckpt.*.tmp"):
            path.unlink()
    for path in _newest_first(folder, _RESUMABLE):
        saved, problem = _read_identity(path, folder)
        if saved.get("settings") == identity["settings"]:
            problem = _changed_data(identity["data"], saved["data"])
        if problem:
            logger.warning("%s is %s; the training does not resume from it.", path, problem)
            if may_clean_up:
                # In a Slurm job, Lightning would load any file that is named as its own requeue names them.
                path.rename(path.with_name(f"refused-{path.stem.replace('hpc_ckpt', 'requeue')}"))
            continue
        return path
    return None


def is_intact(path: Path) -> bool:
    """Return whether a checkpoint exists and fits the checksums in its archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (FileNotFoundError, zipfile.BadZipFile, EOFError):
        return False


def _read_identity(path: Path, folder: Path) -> tuple[dict[str, Any], str]:
    """Return the identity stored in a checkpoint (empty where it can't be used), and the problem with it, in words."""
    if not is_intact(path):
        return {}, "damaged"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        identity, epoch = dict(content[_IDENTITY]), best_epoch(content["history"])
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, TypeError):
        return {}, "of another training"
    if identity.get("settings") and epoch and not is_intact(best_path(folder, epoch)):
        return {}, f"of a training whose best weights, of epoch {epoch}, are damaged"
    return identity, "of another training"


def _changed_data(now: Mapping[str, str], before: Mapping[str, str]) -> str:
    changed = [name for name in sorted(set(now) | set(before)) if now.get(name) != before.get(name)]
    return f"of a training of other data ({list_names(changed)} changed)" if changed else ""


@contextlib.contextmanager
def training_lock(folder: Path) -> Iterator[None]:
    """Keep other processes from training into `folder`, until the block ends or this process dies.

    Raises
    ------
    OutputError
        Another process trains into `folder`; names it.
    """
    path, holder_path = folder / ".lock", folder / ".locked-by"
    with writing_to(folder):
        make_folder(folder)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        holder = None
        with contextlib.suppress(FileNotFoundError):  # It has only just begun, or has just ended.
            holder = Holder.from_json(holder_path.read_text(encoding="utf-8"))
        raise OutputError(
            f"{folder}: is being trained already, by {holder.who if holder else 'another process'}.",
            "Wait for it to end, or give this training another OUTPUT_DIR.",
        ) from error
    try:
        write_text(holder_path, Holder.this_process("train", {}).to_json())
        yield
    finally:
        holder_path.unlink(missing_ok=True)
        lock.release()
