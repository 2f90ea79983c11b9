"""Progress bar, TensorBoard curves and a table of steps, written while a training runs."""

from __future__ import annotations

import datetime
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from titan_neuro.titans.layers.neural_memory import NeuralMemory
from titan_neuro.training.module import ForecastModule

logger = logging.getLogger(__name__)

LOG_EVERY_STEPS = 5
_GATES = ("forgetting", "momentum", "step_size")


def make_loggers(folder: Path, *, first_step: int) -> list[Logger]:
    """Make the loggers of a training; they write into `folder`, and nothing leaves the machine.

    Parameters
    ----------
    folder : Path
    first_step : int
        Step from which the training resumes. TensorBoard's curves continue there: later steps of an interrupted
        training are not shown. Each start writes a table of steps of its own (``steps/version_<n>/metrics.csv``).
    """
    return [
        TensorBoardLogger(folder, name="", version="", purge_step=first_step),
        CSVLogger(folder, name="steps", flush_logs_every_n_steps=LOG_EVERY_STEPS),
    ]


class Progress(TQDMProgressBar):
    """Lightning's progress bar, with volumes per second, and the longest time that the training can still take.

    Where the output is no terminal, as in the log of a job, it is a line for each epoch.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        super().__init__(refresh_rate=1 if self._is_terminal else 0)
        self._start: tuple[float, float] | None = None

    def get_metrics(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the numbers beside the bar, by name."""
        metrics = {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
        if trainer.training:
            module = _forecast_module(pl_module)
            metrics |= {"left": self._time_left(trainer, module), "volumes/s": f"{module.volumes_per_s:.3g}"}
        return metrics

    def _time_left(self, trainer: lightning.Trainer, module: ForecastModule) -> str:
        steps = trainer.fit_loop.batch_idx + 1
        progress = (trainer.current_epoch + steps / trainer.num_training_batches) / module.max_epochs
        now = time.monotonic()
        if self._start is None:
            self._start = (now, progress)
        start, progress_at_start = self._start
        if progress <= progress_at_start:
            return "?"
        seconds = (now - start) * (1 - progress) / (progress - progress_at_start)
        return str(datetime.timedelta(seconds=round(seconds)))

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *rest: Any) -> None:
        """Advance the bar."""
        super().on_train_batch_end(trainer, pl_module, *rest)
        if self._start is None:
            self._time_left(trainer, _forecast_module(pl_module))

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log a line about the epoch, where there is no bar."""
        super().on_train_epoch_end(trainer, pl_module)
        if not self._is_terminal:
            module = _forecast_module(pl_module)
            row = module.history[-1]
            logger.info(
                "Epoch %d of %d: skill %.4f over AR, %.4f over persistence; %.3g volumes/s, %s left at most.",
                *(row["epoch"], module.max_epochs, row["validation_skill_ar"], row["validation_skill_persistence"]),
                *(row["volumes_per_s"], self._time_left(trainer, module)),
            )


def _forecast_module(module: lightning.LightningModule) -> ForecastModule:
    if not isinstance(module, ForecastModule):
        raise TypeError(f"Progress: expected a ForecastModule, found a {type(module).__name__}.")
    return module


class MemoryLogs(Callback):
    """Log the gates of the backbone's memories, averaged over heads and tokens, and the norms of their weights."""

    def __init__(self) -> None:
        self._hooks: list[RemovableHandle] = []

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Add a hook to every memory of the model."""
        for name, module in pl_module.named_modules():
            if isinstance(module, NeuralMemory):
                self._hooks.append(module.register_forward_hook(_memory_hook(trainer, pl_module, name)))

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Remove the hooks."""
        self._remove_hooks()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Remove the hooks."""
        self._remove_hooks()

    def _remove_hooks(self) -> None:
        while self._hooks:
            self._hooks.pop().remove()


def _memory_hook(
    trainer: lightning.Trainer, pl_module: lightning.LightningModule, name: str
) -> Callable[[NeuralMemory, tuple[Any, ...], tuple[Any, Any]], None]:
    def log(module: NeuralMemory, inputs: tuple[Any, ...], output: tuple[Any, Any]) -> None:
        if trainer.training and trainer.global_step % LOG_EVERY_STEPS == 0:
            with torch.no_grad():
                values = dict(_memory_values(module, inputs[0], output[1]))
            short = name.removeprefix("forecaster.").replace(".", "_")
            pl_module.log_dict({f"memory/{short}/{key}": value for key, value in values.items()}, batch_size=1)

    return log


def _memory_values(module: NeuralMemory, x: Tensor, state: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield mean gates, and the norm of each layer's weights: of one head's matrix, averaged over streams and heads."""
    for gate, values in zip(_GATES, module.gate_values(x.detach()), strict=True):
        yield gate, values.float().mean()
    for layer, weights in enumerate(state.memory.weights):
        yield f"norm_{layer}", weights.detach().flatten(2).norm(dim=-1).mean()
