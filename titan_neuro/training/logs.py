"""What is seen of a training while it runs: a bar, TensorBoard's curves, a table of steps."""

from __future__ import annotations

import datetime
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from titan_neuro.forecaster.recall.forecast_memory import ForecastMemory
from titan_neuro.titans.layers.neural_memory import NeuralMemory

logger = logging.getLogger(__name__)

LOG_EVERY_STEPS = 5
_GATES = ("forgetting", "momentum", "step_size")


def make_loggers(folder: Path, *, begins_at: int) -> list[Logger]:
    """Make what writes logs into `folder`, on this machine alone.

    TensorBoard's curves go on from step `begins_at`: what an interrupted training had written beyond it is not shown.
    Tables of steps (``version_<n>/metrics.csv``) are one for each start.
    """
    return [
        TensorBoardLogger(folder, name="", version="", purge_step=begins_at),
        CSVLogger(folder, name="steps", flush_logs_every_n_steps=LOG_EVERY_STEPS),
    ]


class Progress(TQDMProgressBar):
    """Lightning's bar, with volumes a second, and the time that is left of the whole training, at most.

    Where nobody watches, in the log of a job, it is a line for each epoch.
    """

    def __init__(self) -> None:
        self._is_watched = sys.stderr.isatty()
        super().__init__(refresh_rate=1 if self._is_watched else 0)
        self._began: tuple[float, float] | None = None

    def get_metrics(self, trainer: lightning.Trainer, pl_module: Any) -> dict[str, Any]:
        """Numbers beside the bar."""
        shown: dict[str, Any] = {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}
        if trainer.training:
            shown |= {"left": self._left(trainer, pl_module), "volumes/s": f"{pl_module.volumes_per_s:.3g}"}
        return shown

    def _left(self, trainer: lightning.Trainer, pl_module: Any) -> str:
        steps = trainer.fit_loop.batch_idx + 1
        progress = (trainer.current_epoch + steps / trainer.num_training_batches) / pl_module.max_epochs
        now = time.monotonic()
        if self._began is None:
            self._began = (now, progress)
        since, at_start = self._began
        if progress <= at_start:
            return "?"
        left = (now - since) * (1 - progress) / (progress - at_start)
        return str(datetime.timedelta(seconds=round(left)))

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *rest: Any) -> None:
        """Move the bar on."""
        super().on_train_batch_end(trainer, pl_module, *rest)
        if self._began is None:
            self._left(trainer, pl_module)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Say what the epoch came to, where no bar does."""
        super().on_train_epoch_end(trainer, pl_module)
        if not self._is_watched:
            row = pl_module.history[-1]
            logger.info(
                "Epoch %d of %d: skill %.4f over AR, %.4f over persistence; %.3g volumes/s, %s left at most.",
                *(row["epoch"], pl_module.max_epochs, row["validation_skill_ar"], row["validation_skill_persistence"]),
                *(row["volumes_per_s"], self._left(trainer, pl_module)),
            )


class MemoryLogs(Callback):
    """Log what the memories do: their gates, averaged over heads and tokens, and the norms of what they hold."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Watch every memory of the model."""
        for name, module in pl_module.named_modules():
            if isinstance(module, NeuralMemory | ForecastMemory):
                self._handles.append(module.register_forward_hook(_watch(trainer, pl_module, name)))

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Watch no longer."""
        self._stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Watch no longer."""
        self._stop()

    def _stop(self) -> None:
        while self._handles:
            self._handles.pop().remove()


def _watch(trainer: lightning.Trainer, pl_module: lightning.LightningModule, name: str) -> Any:
    def log(module: nn.Module, inputs: tuple[Any, ...], output: tuple[Any, Any]) -> None:
        if trainer.training and trainer.global_step % trainer.log_every_n_steps == 0:
            with torch.no_grad():
                values = dict(_read(module, inputs[0], output[1]))
            short = name.removeprefix("forecaster.").replace(".", "_")
            pl_module.log_dict({f"memory/{short}/{key}": value for key, value in values.items()}, batch_size=1)

    return log


def _read(module: nn.Module, x: Tensor, state: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(module, NeuralMemory):
        for gate, values in zip(_GATES, module.gate_values(x.detach()), strict=True):
            yield gate, values.float().mean()
    for layer, weights in enumerate(state.memory.weights):
        # Of one head's matrix, averaged over streams and heads.
        yield f"norm_{layer}", weights.detach().flatten(2).norm(dim=-1).mean()
