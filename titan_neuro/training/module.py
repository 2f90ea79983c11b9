"""Lightning's side of training: truncated back-propagation through streams, the memory carried along."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning
import torch
from torch import Tensor

from titan_neuro.errors import TrainingError
from titan_neuro.models.forecaster import Forecaster, ForecasterState
from titan_neuro.training.streams import Windows

_NOT_FINITE_HINT = "Lower --set training.learning_rate, and look at the data of the runs in training and validation."


class ForecastModule(lightning.LightningModule):
    """Train a forecaster, once it is fitted in closed form, by the mean squared error of all horizons.

    Scored frames alone count.

    Parameters
    ----------
    forecaster : Forecaster
        Its linear skip is fitted already, and stays.
    learning_rate, weight_decay : float
        Of AdamW; half the rate in the first epoch, then falling as a cosine to 0.
    max_epochs : int

    Attributes
    ----------
    history : list of dict
        One row for each validation: epoch, step, losses, skill over the linear skip.
    """

    def __init__(self, forecaster: Forecaster, *, learning_rate: float, weight_decay: float, max_epochs: int) -> None:
        super().__init__()
        self.forecaster = forecaster
        self.learning_rate, self.weight_decay, self.max_epochs = learning_rate, weight_decay, max_epochs
        self.history: list[dict[str, float]] = []
        self._state: ForecasterState | None = None
        self._train_sum, self._train_count = 0.0, 0
        self._train_volumes, self._train_seconds = 0, 0.0
        self._errors = torch.zeros(2, dtype=torch.float64)
        self._error_count = 0

    def training_step(self, batch: Windows, batch_index: int) -> Tensor | None:
        """Learn from one window of every stream."""
        squared, _, count = self._read(batch)
        if count == 0:
            return None
        loss = squared / count
        if not torch.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss.item()} in epoch {self.current_epoch}, step {batch_index}.",
                _NOT_FINITE_HINT,
            )
        n_streams = sum(key != "" for key in batch.keys)
        self._train_volumes += n_streams * (batch.frames.shape[1] - max(self.forecaster.horizons))
        self._train_sum += float(squared.detach())
        self._train_count += count
        self.log("loss", loss.detach(), prog_bar=True, batch_size=1)
        return loss

    def validation_step(self, batch: Windows, batch_index: int) -> None:
        """Add the errors of one window of every stream."""
        squared, linear, count = self._read(batch)
        self._errors += torch.stack([squared, linear]).double().cpu()
        self._error_count += count

    def _read(self, batch: Windows) -> tuple[Tensor, Tensor, int]:
        """Squared errors of the model and of its linear part, summed, and the number of terms."""
        frames, valid, is_start, keys, features = batch
        ahead = max(self.forecaster.horizons)
        window = frames.shape[1] - ahead
        state = self._state
        if state is not None:
            state = self.forecaster.restart(state.detach(), is_start)
        left_out = self.forecaster.left_out(keys)
        linear, beyond, state = self.forecaster.forecast_parts(
            frames[:, :window], state, left_out=left_out, features=features
        )
        self._state = state.detach()
        squared, squared_linear, count = frames.new_zeros(()), frames.new_zeros(()), 0
        for index, horizon in enumerate(self.forecaster.horizons):
            scored = valid[:, horizon : horizon + window]
            left = frames[:, horizon : horizon + window][scored] - linear[:, :, index][scored]
            squared = squared + (left - beyond[:, :, index][scored]).square().sum()
            squared_linear = squared_linear + left.square().sum()
            count += left.numel()
        return squared, squared_linear, count

    def on_train_epoch_start(self) -> None:
        """Start all streams anew."""
        self._state = None
        self._train_sum, self._train_count, self._train_volumes = 0.0, 0, 0
        self._train_start = time.monotonic()

    def on_validation_epoch_start(self) -> None:
        """Put the training streams aside and start those of the validation."""
        self._train_seconds = time.monotonic() - self._train_start if self._train_volumes else 0.0
        self._training_state, self._state = self._state, None
        self._errors.zero_()
        self._error_count = 0

    def on_validation_epoch_end(self) -> None:
        """Note what the epoch came to."""
        self._state = self._training_state
        mse, mse_linear = (self._errors / max(1, self._error_count)).tolist()
        if not math.isfinite(mse):
            # Said before anything is saved: no checkpoint holds weights like these.
            raise TrainingError(f"The validation error is {mse} in epoch {self.current_epoch}.", _NOT_FINITE_HINT)
        skill = 1 - mse / mse_linear
        self.log_dict({"validation_mse": mse, "validation_skill_ar": skill}, prog_bar=True, batch_size=1)
        fitting = self._train_count > 0
        self.history.append(
            {
                "epoch": self.current_epoch + 1 if fitting else 0,
                "step": self.global_step,
                "train_loss": self._train_sum / self._train_count if fitting else math.nan,
                "validation_mse": mse,
                "validation_skill_ar": skill,
                "seconds": self._train_seconds,
                "volumes_per_s": self._train_volumes / self._train_seconds if fitting else math.nan,
            }
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history with the weights."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the history of the interrupted run."""
        self.history = checkpoint["history"]

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW; half the rate in the first epoch, then a cosine to 0."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)

        def rate(epoch: int) -> float:
            return 0.5 * (1 + math.cos(math.pi * epoch / self.max_epochs)) if epoch else 0.5

        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, rate)}
