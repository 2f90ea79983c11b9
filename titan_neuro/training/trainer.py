"""Lightning's trainer as this package uses it: processes, devices, precision, error messages."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import lightning
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, ParallelStrategy

from titan_neuro.errors import ConfigError, TrainingError, UsageError
from titan_neuro.files import writing_to
from titan_neuro.training.config import Precision, Strategy
from titan_neuro.training.logs import LOG_EVERY_STEPS
from titan_neuro.training.resume import AtomicCheckpointIO

# Words of the messages of gloo and NCCL when another process is gone.
_LOST_PROCESS_WORDS = ("gloo", "NCCL", "Connection closed", "reset by peer", "Broken pipe")
_PRECISIONS: dict[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "float32": "32-true",
    "bfloat16": "bf16-mixed",
    "float16": "16-mixed",
}


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of one training: a single one, by default.

    Attributes
    ----------
    device : {"cpu", "cuda", "cuda:N"}
    n : int
        Processes on each machine. On GPUs each has a GPU of its own.
    n_nodes : int
        Machines.
    environment : ClusterEnvironment
        Starts the processes, or knows the rank of each where another program started them.
    """

    device: str = "cpu"
    n: int = 1
    n_nodes: int = 1
    environment: ClusterEnvironment = field(default_factory=LightningEnvironment)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.environment.node_rank() == 0 and self.environment.local_rank() == 0

    @property
    def local_device(self) -> str:
        """Device on which this process computes outside of Lightning's loops."""
        return f"cuda:{self.environment.local_rank()}" if self.device == "cuda" and self.n > 1 else self.device


def find_processes(device: str, n: int | None) -> Processes:
    """Join the processes that ``srun`` or ``torchrun`` has started, or else plan `n` processes on this machine.

    Parameters
    ----------
    device : {"cpu", "cuda", "cuda:N"}
    n : int, optional
        Processes on this machine; by default those that were started, or 1.

    Raises
    ------
    UsageError
        `n` differs from the number of processes that were started; ``srun`` does not tell how many tasks each machine
        has; or there are too few GPUs.
    """
    processes = Processes(device=device, n=n or 1)
    # `srun torchrun ...` sets both: torchrun, which srun has started, has started this process, so that its variables
    # are the inner ones. A Slurm task of its own is one of torchrun's agents, not a process of the training.
    if TorchElasticEnvironment.detect():
        elastic, n_local = TorchElasticEnvironment(), int(os.environ["LOCAL_WORLD_SIZE"])
        processes = Processes(device=device, n=n_local, n_nodes=elastic.world_size() // n_local, environment=elastic)
    # A batch script has the variables of the job; a task of `srun` has those of its step as well.
    elif "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in {"bash", "interactive"}:
        n_tasks, n_nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_NNODES", "1"))
        if n_tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise UsageError(
                f"srun has started {n_tasks} tasks, and does not tell how many run on each node.",
                "Give --ntasks-per-node to sbatch, instead of --ntasks.",
            )
        # The signal before a time limit is handled between two steps (`resume.Checkpoints`), not by Lightning.
        slurm = SLURMEnvironment(auto_requeue=False)
        processes = Processes(device=device, n=n_tasks // n_nodes, n_nodes=n_nodes, environment=slurm)
    if n is not None and n != processes.n:
        raise UsageError(
            f"--devices {n}: {processes.n} processes were started on this machine.", "Omit the option --devices."
        )
    kind, _, index = device.partition(":")
    if kind == "cuda" and processes.n > 1 and (index or processes.n > torch.cuda.device_count()):
        available = f"the one GPU of --device {device}" if index else f"{torch.cuda.device_count()} GPUs"
        raise UsageError(
            f"{processes.n} processes need a GPU each; available: {available}.",
            "Start fewer, or use --device cpu. In Slurm ask with --gres=gpu:N, so that each task sees all of its node.",
        )
    return processes


def make_trainer(
    folder: Path,
    processes: Processes,
    max_epochs: int,
    *,
    callbacks: Sequence[Callback] = (),
    logger: Sequence[Logger] | bool = False,
    gradient_clip_val: float | None = None,
    precision: Precision = "float32",
    strategy: Strategy = "ddp",
) -> lightning.Trainer:
    """Make a trainer that keeps its files in `folder`; call it, and use it, inside :func:`quiet_lightning`.

    Parameters
    ----------
    folder : Path
    processes : Processes
    max_epochs : int
    callbacks, logger, gradient_clip_val
        See `lightning.Trainer`.
    precision : {"float32", "bfloat16", "float16"}
    strategy : {"ddp", "fsdp"}
        Of several processes; see `TrainingConfig`.

    Raises
    ------
    ConfigError
        float16 on a CPU.
    """
    accelerator, _, index = processes.device.partition(":")
    if precision == "float16" and accelerator == "cpu":
        raise ConfigError(
            "training.precision: float16 needs a GPU, and this training runs on the CPU.",
            "Use --set training.precision=bfloat16, or float32.",
        )
    return lightning.Trainer(
        accelerator="gpu" if accelerator == "cuda" else "cpu",
        devices=[int(index)] if index else processes.n,
        num_nodes=processes.n_nodes,
        strategy=_lightning_strategy(processes.n * processes.n_nodes, strategy),
        precision=_PRECISIONS[precision],
        plugins=[processes.environment, AtomicCheckpointIO()],
        max_epochs=max_epochs,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        enable_model_summary=False,
        default_root_dir=folder,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
        logger=logger,
        log_every_n_steps=LOG_EVERY_STEPS,
        gradient_clip_val=gradient_clip_val,
    )


def _lightning_strategy(n_processes: int, strategy: Strategy) -> str | ParallelStrategy:
    if n_processes == 1:
        return "auto"
    if strategy == "ddp":
        return DDPStrategy()
    return ModelParallelStrategy(
        data_parallel_size=n_processes, tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def fit(
    trainer: lightning.Trainer,
    module: lightning.LightningModule,
    data: lightning.LightningDataModule,
    checkpoint: Path | None,
) -> None:
    """Train; resume from `checkpoint` where there is one.

    Raises
    ------
    TrainingError
        A loss is not finite, or another process of this training has died; names the folder of the last checkpoint.
    KeyboardInterrupt
        The user, or a signal, has stopped it.
    """
    with explain_errors(trainer):
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)


@contextlib.contextmanager
def explain_errors(trainer: lightning.Trainer) -> Iterator[None]:
    """Raise the errors of :func:`fit` for whatever ends a training, or the validation before it."""
    try:
        with writing_to(Path(trainer.default_root_dir)):
            yield
    except TrainingError as error:
        raise TrainingError(error.message, f"{error.hint}{_resume_hint(trainer)}") from error
    except RuntimeError as error:
        if not any(word in str(error) for word in _LOST_PROCESS_WORDS):
            raise
        # The messages of gloo and NCCL name addresses, not the cause.
        raise TrainingError(
            f"Process {trainer.global_rank} of {trainer.world_size} lost the connection to the others: {error}",
            f"One of them has ended, perhaps for lack of memory; see its log.{_resume_hint(trainer)}",
        ) from error
    except SystemExit as stop:
        # Lightning exits without a message on Ctrl-C and SIGTERM; the command line prints one.
        raise KeyboardInterrupt from stop


def _resume_hint(trainer: lightning.Trainer) -> str:
    folder = Path(trainer.default_root_dir)
    if not list(folder.glob("*.ckpt")):
        return ""
    return f" The last good checkpoint is kept, and the same command resumes from it: {folder}."


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Suppress Lightning's information and advice that does not apply: streams must be read in order, by one worker."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*The `srun` command is available.*")
        warnings.filterwarnings("ignore", ".*Checkpoint directory.*exists and is not empty.*")
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
