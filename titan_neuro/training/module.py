"""Lightning's side of training: truncated back-propagation through streams, the memory carried along."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from typing import Any

import lightning
import torch
import torch.distributed
from torch import Tensor

from titan_neuro.errors import TrainingError
from titan_neuro.forecaster import Forecaster, ForecasterState
from titan_neuro.training.streams import Windows

_NOT_FINITE_HINT = "Lower --set training.learning_rate, and look at the data of the runs in training and validation."
# Steps in a row that float16's scaler may leave out: from its first scale, 2^16, down to 1.
_MOST_SCALINGS = 16
# What errors are summed up of, in this order.
_FORECASTS = ("model", "linear", "persistence")


class ForecastModule(lightning.LightningModule):
    """Train a forecaster, once it is fitted in closed form, by the mean squared error of all horizons.

    Scored time points alone count. Several processes have streams of their own, and take the step that one would take
    that has them all. A checkpoint holds the memory of every stream: training goes on in the middle of one.

    Parameters
    ----------
    forecaster : Forecaster
        Its linear skip is fitted already, and stays.
    learning_rate, weight_decay : float
        Of AdamW; the rate rises evenly at first, then falls as a cosine to 0.
    warmup_fraction : float
        Share of all steps in which the rate rises.
    max_epochs : int
    fully_sharded : bool
        Parameters and what the optimizer keeps of them are divided among the processes (FSDP).

    Attributes
    ----------
    history : list of dict
        One row for each validation: epoch, step, losses, skill over the linear skip and over persistence.
    is_sharded : bool
        Whether the parameters are divided by now.
    volumes_per_s : float
        Volumes that were learned from in a second, in this epoch, by all processes together.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        *,
        learning_rate: float,
        weight_decay: float,
        warmup_fraction: float,
        max_epochs: int,
        fully_sharded: bool = False,
    ) -> None:
        super().__init__()
        self.forecaster = forecaster
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.warmup_fraction, self.max_epochs = warmup_fraction, max_epochs
        self.history: list[dict[str, float]] = []
        self._fully_sharded, self.is_sharded = fully_sharded, False
        self._state: ForecasterState | None = None
        self._saved_streams: Mapping[str, Any] | None = None
        self._n_not_finite = 0
        self._begin_epoch()
        self._validation_errors = torch.zeros(len(_FORECASTS), dtype=torch.float64)
        self._validation_count = 0

    def _begin_epoch(self) -> None:
        self._train_errors = torch.zeros(len(_FORECASTS), dtype=torch.float64)
        self._train_count, self._train_volumes, self._train_seconds = 0, 0, 0.0
        self._has_targets = True
        self._since = time.monotonic()

    @property
    def volumes_per_s(self) -> float:
        """See the class."""
        seconds = self._train_seconds + time.monotonic() - self._since
        return self._train_volumes / seconds if seconds else math.nan

    def configure_model(self) -> None:
        """Divide the parameters among the processes, where that was asked for."""
        if not self._fully_sharded or self.is_sharded:
            return
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        # As one group: a stream that is reset takes its memories' first weights from every block at once.
        fully_shard(self, mesh=self.device_mesh["data_parallel"])
        for name in ("training_step", "validation_step"):
            # Parameters are gathered before `forward` alone, unless another way in is named.
            register_fsdp_forward_method(self, name)
        self.is_sharded = True

    def training_step(self, batch: Windows, batch_index: int) -> Tensor:
        """Learn from one window of every stream."""
        if self._saved_streams is not None:
            self._state, self._saved_streams = self._restored(self._saved_streams), None
        errors = self._read(batch)
        count = batch.n_targets * self.forecaster.n_features
        self._has_targets = count > 0
        # Gradients are averaged over the processes: each gives its part of the mean over all streams, times their
        # number.
        loss = errors[0] * self.trainer.world_size / max(1, count)
        if self.trainer.world_size == 1 and not torch.isfinite(loss):
            raise self._not_finite(f"The loss is {loss.item()}", batch_index)
        self._train_errors += errors.detach().double().cpu()
        self._train_count += count
        self._train_volumes += batch.n_streams * (batch.series.shape[1] - max(self.forecaster.horizons))
        self._log_step(errors.detach(), batch)
        return loss

    def _log_step(self, errors: Tensor, batch: Windows) -> None:
        """Log what this process has just learned from."""
        window = batch.series.shape[1] - max(self.forecaster.horizons)
        scored = sum(batch.valid[:, horizon : horizon + window].sum() for horizon in self.forecaster.horizons)
        model, linear, persistence = errors.tolist()
        if linear and persistence:
            shown = {"train_skill_ar": 1 - model / linear, "train_skill_persistence": 1 - model / persistence}
            self.log_dict(shown, batch_size=1)
            self.log("loss", model / (float(scored) * self.forecaster.n_features), prog_bar=True, batch_size=1)
        self.log("volumes_per_s", self.volumes_per_s, batch_size=1)

    def validation_step(self, batch: Windows, batch_index: int) -> None:
        """Add the errors of one window of every stream."""
        self._validation_errors += self._read(batch).double().cpu()
        self._validation_count += batch.n_targets * self.forecaster.n_features

    def _read(self, batch: Windows) -> Tensor:
        """Squared errors of the model, of its linear part and of persistence, summed over this process's streams."""
        series, valid = batch.series, batch.valid
        window = series.shape[1] - max(self.forecaster.horizons)
        state = self._state
        if state is not None:
            state = self.forecaster.restart(state.detach(), batch.is_start)
        linear, beyond, state = self.forecaster.forecast_parts(
            series[:, :window],
            state,
            held_out_index=self.forecaster.held_out_index(batch.keys),
            features=batch.features,
        )
        # Of what ran in half precision nothing half precise is carried on.
        self._state = state.detach().to(dtype=torch.float32)
        errors = series.new_zeros(len(_FORECASTS))
        for index, horizon in enumerate(self.forecaster.horizons):
            scored = valid[:, horizon : horizon + window]
            target = series[:, horizon : horizon + window][scored]
            left = target - linear[:, :, index][scored]
            parts = (left - beyond[:, :, index][scored], left, target - series[:, :window][scored])
            errors = errors + torch.stack([part.square().sum() for part in parts])
        return errors

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, **_: Any
    ) -> None:
        """Clip; stop before a step that would leave no good weights, and take none where nothing could be learned."""
        if not self._has_targets:
            optimizer.zero_grad(set_to_none=True)
            return
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val or math.inf)
        norm = norm.full_tensor() if self.is_sharded else norm
        self._n_not_finite = 0 if torch.isfinite(norm) else self._n_not_finite + 1
        # In float16 the scaler leaves such a step out, and lowers its scale until it fits.
        allowed = 0 if getattr(self.trainer.precision_plugin, "scaler", None) is None else _MOST_SCALINGS
        if self._n_not_finite > allowed:
            raise self._not_finite(f"The gradient's norm is {norm.item()}", self.trainer.fit_loop.batch_idx)
        self.log("gradient_norm", norm, batch_size=1)

    def _not_finite(self, what: str, batch_index: int) -> TrainingError:
        return TrainingError(f"{what} in epoch {self.current_epoch}, step {batch_index}.", _NOT_FINITE_HINT)

    def on_train_epoch_start(self) -> None:
        """Start all streams anew."""
        self._state = None
        self._begin_epoch()

    def on_validation_epoch_start(self) -> None:
        """End the training streams and start those of the validation."""
        self._train_seconds += time.monotonic() - self._since if self._train_volumes else 0.0
        self._state = None
        self._validation_errors.zero_()
        self._validation_count = 0

    def on_validation_epoch_end(self) -> None:
        """Note what the epoch came to."""
        self._state = None
        mse, mse_linear, mse_persistence = (
            self._of_all_processes(self._validation_errors) / max(1, self._validation_count)
        ).tolist()
        if not math.isfinite(mse):
            # Said before anything is saved: no checkpoint holds weights like these.
            raise TrainingError(f"The validation error is {mse} in epoch {self.current_epoch}.", _NOT_FINITE_HINT)
        skills = {
            "validation_skill_ar": 1 - mse / mse_linear,
            "validation_skill_persistence": 1 - mse / mse_persistence,
        }
        # The same in all processes; saying so keeps Lightning from advising it.
        self.log_dict({"validation_mse": mse, **skills}, prog_bar=True, batch_size=1, sync_dist=True)
        fitting = self._train_count > 0
        train_error = float(self._of_all_processes(self._train_errors)[0])
        self.history.append(
            {
                "epoch": self.current_epoch + 1 if fitting else 0,
                "step": self.global_step,
                "train_loss": train_error / self._train_count if fitting else math.nan,
                "validation_mse": mse,
                **skills,
                "seconds": self._train_seconds,
                "volumes_per_s": self._train_volumes / self._train_seconds if fitting else math.nan,
            }
        )

    def _of_all_processes(self, errors: Tensor) -> Tensor:
        # Reduced in place.
        total: Tensor = self.trainer.strategy.reduce(errors.clone().to(self.device), reduce_op="sum")
        return total.cpu()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history with the weights, what is drawn next, and in the middle of an epoch, where it stands."""
        checkpoint["history"] = self.history
        checkpoint["random_state"] = torch.get_rng_state()
        if self._state is not None:
            checkpoint["streams"] = self._all_streams(self._state)
            checkpoint["epoch_so_far"] = {
                "errors": self._of_all_processes(self._train_errors),
                "count": self._train_count,
                "volumes": self._train_volumes,
                "seconds": self._train_seconds + time.monotonic() - self._since,
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the history of the interrupted run, and where it stood."""
        self.history = checkpoint["history"]
        torch.set_rng_state(checkpoint["random_state"])
        self._begin_epoch()
        self._saved_streams = checkpoint.get("streams")
        if "epoch_so_far" in checkpoint:
            so_far = checkpoint["epoch_so_far"]
            # They are of all processes together: the first goes on with them.
            self._train_errors += so_far["errors"] * (self.global_rank == 0)
            self._train_count, self._train_volumes = so_far["count"], so_far["volumes"]
            self._train_seconds = so_far["seconds"]

    def _all_streams(self, state: ForecasterState) -> dict[str, Any]:
        """State of the streams of all processes, in the streams' own order."""
        n_streams, n_parts = self.trainer.train_dataloader.windows.n_streams, self.trainer.world_size
        own = state.to("cpu")
        saved: list[Any] = [own.state_dict()]
        if n_parts > 1:
            saved = [None] * n_parts
            torch.distributed.all_gather_object(saved, own.state_dict())
        parts = [own.load_state_dict(part) for part in saved]
        begins = [0, *itertools.accumulate(part.batch_size for part in parts)]
        # Stream i is the (i // n)-th of process i % n; a process without a stream has read an empty one.
        order = [begins[stream % n_parts] + stream // n_parts for stream in range(n_streams)]
        return parts[0].join(parts[1:]).select(torch.tensor(order)).state_dict()

    def _restored(self, saved: Mapping[str, Any]) -> ForecasterState:
        """State of this process's streams, among those that were saved by however many processes."""
        whole = self.forecaster.init_state(1).load_state_dict(saved)
        own = torch.arange(self.global_rank, whole.batch_size, self.trainer.world_size)
        return whole.select(own.to(self.device)) if len(own) else self.forecaster.init_state(1)

    def on_train_batch_start(self, batch: Windows, batch_index: int) -> None:
        """Set the rate of this step: an even rise, then a cosine to 0."""
        # Epochs differ in their steps, since runs begin at random offsets: progress counts epochs and parts of them.
        part = (batch_index + 0.5) / self.trainer.num_training_batches
        progress = (self.current_epoch + part) / self.max_epochs
        rate = self.learning_rate * rate_at(progress, self.warmup_fraction)
        for group in self.optimizers().param_groups:
            group["lr"] = rate
        self.log("learning_rate", rate, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)


def rate_at(progress: float, warmup_fraction: float) -> float:
    """Share of the learning rate at a progress from 0 to 1: an even rise up to `warmup_fraction`, then a cosine to 0."""
    if progress < warmup_fraction:
        return progress / warmup_fraction
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup_fraction) / (1 - warmup_fraction)))
