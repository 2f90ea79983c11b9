"""What the trainers of this room share: where they run, and nothing on the terminal that does not apply."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from titan_neuro.errors import ConfigError, TrainingError, UsageError
from titan_neuro.files import writing_to
from titan_neuro.training.resume import AtomicCheckpointIO

Precision = Literal["float32", "bfloat16", "float16"]
Strategy = Literal["ddp", "fsdp"]
_OF_PEERS = ("gloo", "NCCL", "Connection closed", "reset by peer", "Broken pipe")
_PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Where a training runs: one process, by default.

    Attributes
    ----------
    device : {"cpu", "cuda", "cuda:N"}
    n : int
        Processes on each machine, each with a GPU of its own where there are GPUs.
    n_nodes : int
        Machines.
    environment : ClusterEnvironment
        Who starts them, and tells each its rank.
    """

    device: str = "cpu"
    n: int = 1
    n_nodes: int = 1
    environment: ClusterEnvironment = field(default_factory=LightningEnvironment)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.environment.node_rank() == 0 and self.environment.local_rank() == 0

    @property
    def own_device(self) -> str:
        """Where this process computes what is no matter of Lightning's."""
        return f"cuda:{self.environment.local_rank()}" if self.device == "cuda" and self.n > 1 else self.device


def find_processes(device: str, n: int | None) -> Processes:
    """Join the processes that ``srun`` or ``torchrun`` has started, or else plan for `n` on this machine.

    Raises
    ------
    UsageError
        `n` is not what they have started, tasks of ``srun`` that nobody can count by machine, or too few GPUs.
    """
    found = Processes(device=device, n=n or 1)
    # A batch script has the variables of the job alone, a task of `srun` those of its step as well.
    if "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in {"bash", "interactive"}:
        n_tasks, n_nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_NNODES", "1"))
        if n_tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise UsageError(
                f"srun has started {n_tasks} tasks, and does not say how many on each node.",
                "Give --ntasks-per-node to sbatch, instead of --ntasks.",
            )
        # The signal before a time limit is answered between two steps (`resume.Checkpoints`).
        slurm = SLURMEnvironment(auto_requeue=False)
        found = Processes(device=device, n=n_tasks // n_nodes, n_nodes=n_nodes, environment=slurm)
    elif TorchElasticEnvironment.detect():
        elastic, on_each = TorchElasticEnvironment(), int(os.environ["LOCAL_WORLD_SIZE"])
        found = Processes(device=device, n=on_each, n_nodes=elastic.world_size() // on_each, environment=elastic)
    if n is not None and n != found.n:
        raise UsageError(f"--devices {n}: {found.n} processes were started on this machine.", "Leave --devices out.")
    kind, _, index = device.partition(":")
    if kind == "cuda" and found.n > 1 and (index or found.n > torch.cuda.device_count()):
        there = f"the one GPU of --device {device}" if index else f"{torch.cuda.device_count()} GPUs"
        raise UsageError(
            f"{found.n} processes need a GPU each, and there is {there}.",
            "Start fewer, or use --device cpu. In Slurm ask with --gres=gpu:N, so that each task sees all of its node.",
        )
    return found


def make_trainer(
    folder: Path,
    processes: Processes,
    max_epochs: int,
    *,
    precision: Precision = "float32",
    strategy: Strategy = "ddp",
    **options: Any,
) -> lightning.Trainer:
    """Make a trainer that keeps its files in `folder`; call it, and what it makes, inside :func:`quiet_lightning`.

    Parameters
    ----------
    folder : Path
    processes : Processes
    max_epochs : int
    precision : {"float32", "bfloat16", "float16"}
    strategy : {"ddp", "fsdp"}
        Of several processes; see `TrainingConfig`.
    **options
        Of `lightning.Trainer`.

    Raises
    ------
    ConfigError
        float16 on a CPU.
    """
    accelerator, _, index = processes.device.partition(":")
    if precision == "float16" and accelerator == "cpu":
        raise ConfigError(
            "training.precision: float16 needs a GPU, and this training runs on the CPU.",
            "Set training.precision to bfloat16 or float32.",
        )
    n_processes = processes.n * processes.n_nodes
    chosen: Any = "auto"
    if n_processes > 1 and strategy == "ddp":
        chosen = DDPStrategy()
    elif n_processes > 1:
        sizes = {"data_parallel_size": n_processes, "tensor_parallel_size": 1}
        chosen = ModelParallelStrategy(save_distributed_checkpoint=False, **sizes)
    return lightning.Trainer(
        accelerator="gpu" if accelerator == "cuda" else "cpu",
        devices=[int(index)] if index else processes.n,
        num_nodes=processes.n_nodes,
        strategy=chosen,
        precision=_PRECISIONS[precision],  # type: ignore[arg-type]
        plugins=[processes.environment, AtomicCheckpointIO()],
        max_epochs=max_epochs,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        enable_model_summary=False,
        default_root_dir=folder,
        use_distributed_sampler=False,
        **options,
    )


def fit(trainer: lightning.Trainer, module: lightning.LightningModule, data: Any, checkpoint: Path | None) -> None:
    """Train, from `checkpoint` on where there is one.

    Raises
    ------
    TrainingError
        A loss is not finite, or another process of this training has died; names the folder of what is kept.
    KeyboardInterrupt
        The user, or a signal, has stopped it.
    """
    with explained(trainer):
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)


@contextlib.contextmanager
def explained(trainer: lightning.Trainer) -> Iterator[None]:
    """Say what ended a training, or the validation before it, as :func:`fit` does."""
    try:
        with writing_to(Path(trainer.default_root_dir)):
            yield
    except TrainingError as error:
        raise TrainingError(error.message, f"{error.hint}{_kept(trainer)}") from error
    except RuntimeError as error:
        if not any(word in str(error) for word in _OF_PEERS):
            raise
        # What gloo and NCCL say when a peer is gone names addresses and no cause.
        raise TrainingError(
            f"Process {trainer.global_rank} of {trainer.world_size} lost the others: {error}",
            f"One of them has ended, perhaps killed for want of memory; its log says more.{_kept(trainer)}",
        ) from error
    except SystemExit as stop:
        # Lightning turns Ctrl-C, and SIGTERM, into an exit without a word; the command line has one to say.
        raise KeyboardInterrupt from stop


def _kept(trainer: lightning.Trainer) -> str:
    folder = Path(trainer.default_root_dir)
    if not list(folder.glob("*.ckpt")):
        return ""
    return f" The last good checkpoint is kept, and the same command goes on from there: {folder}."


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep advice that does not apply here off the terminal: streams must be read in order, by one worker."""
    loud = [logging.getLogger(name) for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch")]
    levels = [log.level for log in loud]
    for log in loud:
        log.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*The `srun` command is available.*")
        warnings.filterwarnings("ignore", ".*Checkpoint directory.*exists and is not empty.*")
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
        try:
            yield
        finally:
            for log, level in zip(loud, levels, strict=True):
                log.setLevel(level)
