"""The training step, for Lightning: truncated back-propagation through streams, the memory state carried over."""

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
from torch.distributed.tensor import DTensor

from titan_neuro.errors import TrainingError
from titan_neuro.forecaster import Forecaster, ForecasterState
from titan_neuro.linear.lead_time import scored_targets
from titan_neuro.training.schedule import rate_factor
from titan_neuro.training.streams import StreamLoader, WindowBatch

_NOT_FINITE_HINT = "Lower --set training.learning_rate, and check the data of the training and validation runs."
# Successive steps that float16's scaler may skip: from its first scale, 2^16, down to 1.
_MOST_SCALINGS = 16
# Order of the forecasts in sums of squared errors.
_FORECASTS = ("model", "linear", "persistence")


class ForecastModule(lightning.LightningModule):
    """Train a forecaster, already fitted in closed form, by the mean squared error over all lead times.

    Only scored time points are targets. With several processes, each reads its own streams; the result equals that of
    one process reading all of them. A checkpoint holds the memory state of every stream: training can resume in the
    middle of a stream.

    Parameters
    ----------
    forecaster : Forecaster
        Its linear skip must be fitted already; training does not change it.
    learning_rate, weight_decay : float
        Of AdamW; see :func:`titan_neuro.training.schedule.rate_factor`.
    warmup_fraction : float
        Fraction of all steps in which the learning rate rises.
    max_epochs : int

    Attributes
    ----------
    history : list of dict
        One row for each validation: epoch, step, losses, skill over the linear skip and over persistence.
    is_sharded : bool
        Whether the parameters are divided among the processes (FSDP).
    """

    def __init__(
        self,
        forecaster: Forecaster,
        *,
        learning_rate: float,
        weight_decay: float,
        warmup_fraction: float,
        max_epochs: int,
    ) -> None:
        super().__init__()
        self.forecaster = forecaster
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.warmup_fraction, self.max_epochs = warmup_fraction, max_epochs
        self.history: list[dict[str, float]] = []
        self.is_sharded = False
        self._state: ForecasterState | None = None
        self._saved_streams: Mapping[str, Any] | None = None
        self._n_not_finite = 0
        self._reset_epoch()
        self._validation_errors = torch.zeros(len(_FORECASTS), dtype=torch.float64)
        self._validation_count = 0

    def _reset_epoch(self) -> None:
        self._train_errors = torch.zeros(len(_FORECASTS), dtype=torch.float64)
        self._train_count, self._train_volumes, self._train_seconds = 0, 0, 0.0
        self._has_targets = True
        self._resumed_at = time.monotonic()

    @property
    def volumes_per_s(self) -> float:
        """Volumes per second of training in this epoch, over all processes; NaN before the first."""
        seconds = self._train_seconds + time.monotonic() - self._resumed_at
        return self._train_volumes / seconds if seconds else math.nan

    def configure_model(self) -> None:
        """Divide the parameters among the processes, where the strategy of the trainer is to do so (FSDP)."""
        if self.device_mesh is None or self.is_sharded:
            return
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        # As one group: resetting a stream needs the initial memory weights of every block at once.
        fully_shard(self, mesh=self.device_mesh["data_parallel"])
        for name in ("training_step", "validation_step"):
            # By default, parameters are gathered only before `forward`.
            register_fsdp_forward_method(self, name)
        self.is_sharded = True

    def training_step(self, batch: WindowBatch, batch_index: int) -> Tensor:
        """Return the loss of one window of every stream."""
        if self._saved_streams is not None:
            self._state, self._saved_streams = self._restore_streams(self._saved_streams), None
        errors, n_targets = self._sum_errors(batch)
        n_values = batch.n_targets * self.forecaster.n_features
        self._has_targets = n_values > 0
        # Lightning averages gradients over the processes. Each process contributes its part of the mean over all
        # streams, so that part is multiplied by the number of processes.
        loss = errors[0] * self.trainer.world_size / max(1, n_values)
        if self.trainer.world_size == 1 and not torch.isfinite(loss):
            raise self._not_finite(f"The loss is {loss.item()}", batch_index)
        self._train_errors += errors.detach().double().cpu()
        self._train_count += n_values
        self._train_volumes += batch.n_streams * (batch.series.shape[1] - max(self.forecaster.horizons))
        self._log_step(errors.detach(), n_targets)
        return loss

    def _log_step(self, errors: Tensor, n_targets: int) -> None:
        """Log the loss and skills of this process's streams."""
        model, linear, persistence = errors.tolist()
        if linear and persistence:
            skills = {"train_skill_ar": 1 - model / linear, "train_skill_persistence": 1 - model / persistence}
            self.log_dict(skills, batch_size=1)
            self.log("loss", model / (n_targets * self.forecaster.n_features), prog_bar=True, batch_size=1)
        self.log("volumes_per_s", self.volumes_per_s, batch_size=1)

    def validation_step(self, batch: WindowBatch, batch_index: int) -> None:
        """Add the squared errors of one window of every stream."""
        errors, _ = self._sum_errors(batch)
        self._validation_errors += errors.double().cpu()
        self._validation_count += batch.n_targets * self.forecaster.n_features

    def _sum_errors(self, batch: WindowBatch) -> tuple[Tensor, int]:
        """Read one window of this process's streams.

        Returns
        -------
        errors : torch.Tensor
            ``(3,)``: squared errors of the model, of its linear skip and of persistence, summed over streams, lead
            times, scored targets and features.
        n_targets : int
            Number of scored targets, over streams and lead times.
        """
        horizons, state = self.forecaster.horizons, self._state
        window = batch.series.shape[1] - max(horizons)
        series = batch.series[:, :window]
        if state is not None:
            state = self.forecaster.restart(state.detach(), batch.is_start)
        linear, beyond, state = self.forecaster.forecast_parts(
            series,
            state,
            held_out_index=self.forecaster.held_out_index(batch.keys),
            features=batch.features,
        )
        # The state of a model in half precision is carried over in full precision.
        self._state = state.detach().in_full_precision()
        errors, n_targets = batch.series.new_zeros(len(_FORECASTS)), 0
        for index, (has_target, targets) in enumerate(scored_targets(batch.series, batch.valid, horizons, window)):
            residual = targets - linear[:, :, index][has_target]
            parts = (residual - beyond[:, :, index][has_target], residual, targets - series[has_target])
            errors = errors + torch.stack([part.square().sum() for part in parts])
            n_targets += len(targets)
        return errors, n_targets

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient's norm; skip the step where the batch has no target.

        Raises
        ------
        TrainingError
            The gradient is not finite: the weights are still those of the step before.
        """
        if not self._has_targets:
            optimizer.zero_grad(set_to_none=True)
            return
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val or math.inf)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self._n_not_finite = 0 if torch.isfinite(norm) else self._n_not_finite + 1
        # In float16 the scaler skips such a step, and lowers its scale until the gradient is finite.
        allowed = 0 if getattr(self.trainer.precision_plugin, "scaler", None) is None else _MOST_SCALINGS
        if self._n_not_finite > allowed:
            raise self._not_finite(f"The gradient's norm is {norm.item()}", self.trainer.fit_loop.batch_idx)
        self.log("gradient_norm", norm, batch_size=1)

    def _not_finite(self, what: str, batch_index: int) -> TrainingError:
        return TrainingError(f"{what} in epoch {self.current_epoch}, step {batch_index}.", _NOT_FINITE_HINT)

    def on_train_epoch_start(self) -> None:
        """Reset all streams."""
        self._state = None
        self._reset_epoch()

    def on_validation_epoch_start(self) -> None:
        """End the training streams, and reset those of the validation."""
        self._train_seconds += time.monotonic() - self._resumed_at if self._train_volumes else 0.0
        self._state = None
        self._validation_errors.zero_()
        self._validation_count = 0

    def on_validation_epoch_end(self) -> None:
        """Append the errors and skills of the epoch to the history."""
        self._state = None
        mse, mse_linear, mse_persistence = (
            self._sum_over_processes(self._validation_errors) / max(1, self._validation_count)
        ).tolist()
        if not math.isfinite(mse):
            # Raised before anything is saved: no checkpoint holds such weights.
            raise TrainingError(f"The validation error is {mse} in epoch {self.current_epoch}.", _NOT_FINITE_HINT)
        skills = {
            "validation_skill_ar": 1 - mse / mse_linear,
            "validation_skill_persistence": 1 - mse / mse_persistence,
        }
        # The values are equal in all processes; `sync_dist` only avoids Lightning's advice to set it.
        self.log_dict({"validation_mse": mse, **skills}, prog_bar=True, batch_size=1, sync_dist=True)
        is_trained = self._train_count > 0
        train_error = float(self._sum_over_processes(self._train_errors)[0])
        self.history.append(
            {
                "epoch": self.current_epoch + 1 if is_trained else 0,
                "step": self.global_step,
                "train_loss": train_error / self._train_count if is_trained else math.nan,
                "validation_mse": mse,
                **skills,
                "seconds": self._train_seconds,
                "volumes_per_s": self._train_volumes / self._train_seconds if is_trained else math.nan,
            }
        )

    def _sum_over_processes(self, errors: Tensor) -> Tensor:
        # `reduce` works in place.
        total: Tensor = self.trainer.strategy.reduce(errors.clone().to(self.device), reduce_op="sum")
        return total.cpu()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save history and random state; within an epoch also the streams, and the sums of the epoch so far."""
        checkpoint["history"] = self.history
        checkpoint["random_state"] = torch.get_rng_state()
        if self._state is not None:
            checkpoint["streams"] = self._gather_streams(self._state)
            checkpoint["epoch_so_far"] = {
                "errors": self._sum_over_processes(self._train_errors),
                "count": self._train_count,
                "volumes": self._train_volumes,
                "seconds": self._train_seconds + time.monotonic() - self._resumed_at,
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` saved."""
        self.history = checkpoint["history"]
        torch.set_rng_state(checkpoint["random_state"])
        self._reset_epoch()
        self._saved_streams = checkpoint.get("streams")
        if "epoch_so_far" in checkpoint:
            so_far = checkpoint["epoch_so_far"]
            # The errors were summed over all processes: the first process continues the sum.
            self._train_errors += so_far["errors"] * (self.global_rank == 0)
            self._train_count, self._train_volumes = so_far["count"], so_far["volumes"]
            self._train_seconds = so_far["seconds"]

    def _gather_streams(self, state: ForecasterState) -> dict[str, Any]:
        """Return the state of the streams of all processes, in the order of the streams."""
        loader, n_processes = self.trainer.train_dataloader, self.trainer.world_size
        if not isinstance(loader, StreamLoader):
            raise TypeError(f"ForecastModule: expected a StreamLoader, found a {type(loader).__name__}.")
        local = state.to("cpu")
        saved: list[Any] = [local.state_dict()]
        if n_processes > 1:
            saved = [None] * n_processes
            torch.distributed.all_gather_object(saved, local.state_dict())
        parts = [local.load_state_dict(part) for part in saved]
        first_rows = [0, *itertools.accumulate(part.batch_size for part in parts)]
        # Stream i is row i // n of process i % n. A process without a stream has one row, of an empty stream.
        rows = [first_rows[stream % n_processes] + stream // n_processes for stream in range(loader.windows.n_streams)]
        return parts[0].join(parts[1:]).select(torch.tensor(rows)).state_dict()

    def _restore_streams(self, saved: Mapping[str, Any]) -> ForecasterState:
        """Return the state of this process's streams, from those that any number of processes saved."""
        of_all = self.forecaster.init_state(1).load_state_dict(saved)
        rows = torch.arange(self.global_rank, of_all.batch_size, self.trainer.world_size)
        return of_all.select(rows.to(self.device)) if len(rows) else self.forecaster.init_state(1)

    def on_train_batch_start(self, batch: WindowBatch, batch_index: int) -> None:
        """Set the learning rate of this step."""
        # Epochs differ in their number of steps, since runs start at random offsets: progress is counted in epochs.
        fraction_of_epoch = (batch_index + 0.5) / self.trainer.num_training_batches
        progress = (self.current_epoch + fraction_of_epoch) / self.max_epochs
        rate = self.learning_rate * rate_factor(progress, self.warmup_fraction)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate
        self.log("learning_rate", rate, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
