"""What the trainers of this room share: one process, one device, and nothing on the terminal that does not apply."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.plugins.environments import LightningEnvironment

from titan_neuro.errors import TrainingError


def make_trainer(folder: Path, device: str, max_epochs: int, **options: Any) -> lightning.Trainer:
    """Make a trainer that keeps its files in `folder`; call it, and what it makes, inside :func:`quiet_lightning`.

    Parameters
    ----------
    folder : Path
    device : {"cpu", "cuda", "cuda:N"}
    max_epochs : int
    **options
        Of `lightning.Trainer`.
    """
    accelerator, _, index = device.partition(":")
    return lightning.Trainer(
        accelerator="gpu" if accelerator == "cuda" else "cpu",
        devices=[int(index)] if index else 1,
        # One process, also inside a Slurm job that was given several tasks.
        plugins=[LightningEnvironment()],
        max_epochs=max_epochs,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        logger=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )


def fit(trainer: lightning.Trainer, module: lightning.LightningModule, data: Any, last: Path) -> None:
    """Train, from the checkpoint `last` on where there is one.

    Raises
    ------
    TrainingError
        A loss is not finite; names the checkpoint that is kept.
    KeyboardInterrupt
        The user has stopped it.
    """
    try:
        trainer.fit(module, datamodule=data, ckpt_path=last if last.is_file() else None, weights_only=True)
    except TrainingError as error:
        if not last.is_file():
            raise
        kept = f"The last good epoch is kept, and the same command goes on from there: {last}."
        raise TrainingError(error.message, f"{error.hint} {kept}") from error
    except SystemExit as stop:
        # Lightning turns Ctrl-C into an exit without a word; the command line has one to say.
        raise KeyboardInterrupt from stop


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
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
        try:
            yield
        finally:
            for log, level in zip(loud, levels, strict=True):
                log.setLevel(level)
