"""What is seen of a training while it runs: a bar, TensorBoard's curves, a table of steps."""

from __future__ import annotations

import datetime
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

from titan_neuro.layers.forecast_memory import ForecastMemory
from titan_neuro.layers.neural_memory import NeuralMemory

LOG_EVERY_STEPS = 5
_GATES = ("forgetting", "momentum", "step_size")


def make_loggers(folder: Path, *, begins_at: int) -> list[Logger]:
    """Make what writes logs into `folder`, on this machine alone.

    TensorBoard's curves go on from step `begins_at`: what an interrupted training had written beyond it is not shown.
    Tables of steps (``version_<n>/metrics.csv``) are one for each start.
    """
    return [
        TensorBoardLogger(folder, name="", version="", purge_step=begins_at or None),
        CSVLogger(folder, name="steps"),
    ]


class Progress(TQDMProgressBar):
    """Lightning's bar, with volumes a second, and the time that is left of the whole training."""

    def __init__(self) -> None:
        super().__init__()
        self._began: tuple[float, float] | None = None

    def get_metrics(self, trainer: lightning.Trainer, pl_module: Any) -> dict[str, Any]:
        """Numbers beside the bar."""
        shown: dict[str, Any] = {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}
        if not trainer.training:
            return shown
        steps = trainer.fit_loop.batch_idx + 1
        progress = (trainer.current_epoch + steps / trainer.num_training_batches) / pl_module.max_epochs
        now = time.monotonic()
        if self._began is None:
            self._began = (now, progress)
        since, at_start = self._began
        if progress > at_start:
            left = (now - since) * (1 - progress) / (progress - at_start)
            # At most: training may stop early.
            shown["left"] = str(datetime.timedelta(seconds=round(left)))
        shown["volumes/s"] = f"{pl_module.volumes_per_s:.3g}"
        return shown


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
