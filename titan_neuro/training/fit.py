"""Training of one fold: fit, train with Lightning, choose the epoch on the validation runs, save the model."""

from __future__ import annotations

import copy
import dataclasses
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping

from titan_neuro.data.store import FeatureStore, RunView
from titan_neuro.files import atomic, remove_leftovers
from titan_neuro.forecaster import Forecaster, ForecasterConfig
from titan_neuro.forecaster.tokenizers import SwinTokenizer, SwinTokenizerConfig
from titan_neuro.manifests import ResultOf, State
from titan_neuro.provenance import digest, versions
from titan_neuro.seeds import epoch_seed, fold_seed
from titan_neuro.training.checkpoint import MODEL_FILES, save_forecaster
from titan_neuro.training.closed_form import fitted_closed_form, fitted_linear_skip
from titan_neuro.training.config import TrainingConfig, require_pretraining
from titan_neuro.training.features import cached_features
from titan_neuro.training.fold import FoldData, trained_result
from titan_neuro.training.logs import MemoryLogs, Progress, make_loggers
from titan_neuro.training.module import ForecastModule
from titan_neuro.training.pretrain import pretrain_swin
from titan_neuro.training.resume import (
    Checkpoints,
    best_epoch,
    best_path,
    find_checkpoint,
    stop_if_signaled,
    training_lock,
)
from titan_neuro.training.start import Start, fitted_on, load_start
from titan_neuro.training.streams import Rank, StreamLoader, StreamWindows
from titan_neuro.training.trainer import (
    Processes,
    explain_errors,
    fit,
    make_trainer,
    quiet_lightning,
)

logger = logging.getLogger(__name__)
# Most numbers in the forecasts of a validation window: a few such tensors are held at once.
_VALIDATION_NUMBERS = 2**26


@dataclasses.dataclass(frozen=True)
class _Job:
    """One training: data, settings, folders and processes."""

    result: ResultOf

    data: FoldData
    model: ForecasterConfig
    training: TrainingConfig
    folder: Path
    work_dir: Path
    seed: int
    processes: Processes
    start: Start | None

    @property
    def settings_digest(self) -> str:
        return digest([self.result.settings, self.result.method])

    @property
    def checkpoints(self) -> Path:
        """Folder of the trainer's checkpoints."""
        return self.work_dir / f"fold-{self.data.fold.number}-{self.settings_digest[:12]}"

    def build(self) -> Forecaster:
        """Make the model, with random weights."""
        mask = None if self.data.space.mask is None else torch.from_numpy(self.data.space.mask)
        return self.model.build(n_features=self.data.space.n_features, mask=mask)


@dataclasses.dataclass(frozen=True)
class _Trained:
    """A model with the weights of the chosen epoch, and one row for each validation."""

    forecaster: Forecaster
    history: list[dict[str, float]]
    epoch: int


def train_fold(
    data: FoldData,
    model: ForecasterConfig,
    training: TrainingConfig,
    *,
    folder: Path,
    work_dir: Path,
    seed: int,
    processes: Processes | None = None,
    root: Path | None = None,
) -> bool:
    """Train the model of one fold, unless it exists already; an interrupted training resumes at its last checkpoint.

    With ``training.max_epochs`` of 0 the closed form is the model: it is scored on the validation runs, and saved.

    Parameters
    ----------
    data : FoldData
    model, training : ForecasterConfig, TrainingConfig
    folder : Path
        For ``model.safetensors``, ``config.json``, ``training.csv`` (a row for each validation) and ``logs`` (for
        TensorBoard, and a table of steps for each start).
    work_dir : Path
        For checkpoints, in one folder for each fold and settings, until the model is written; and for closed-form fits,
        which other trainings load.
    seed : int
    processes : Processes, optional
        By default this process, on the CPU. Each of several processes calls this function; the first writes.
    root : Path, optional
        The output folder that `folder` lies in, for the model's manifest (see :func:`trained_result`); by default
        `folder` itself.

    Returns
    -------
    bool
        False when the model existed already.

    Raises
    ------
    TrainingError
        The loss of training or validation is not finite: an earlier model in `folder` stays, and the last good
        checkpoint stays in `work_dir`. Or there are too few time points to fit, or another process has died.
    InputNotFoundError, MismatchError, LeakageError
        The model of ``training.start``; see :func:`titan_neuro.training.start.load_start`.
    OutputError
        Another process trains into `folder`, or the disk is full.
    """
    result = trained_result(data, model, training, seed, root=root or folder)
    processes = processes or Processes()
    found = result.check()
    job = _Job(result, data, model, training, folder, work_dir, seed, processes, start=None)
    if found.is_done:
        if job.processes.is_first:
            # A process that was killed after it wrote the model has left its checkpoints.
            shutil.rmtree(job.checkpoints, ignore_errors=True)
        return False
    if found.state is not State.MISSING and job.processes.is_first:
        logger.info("%s is trained again: %s", folder, found)
    # Checked before minutes are spent on closed-form fits.
    require_pretraining(model, training.pretraining)
    job = dataclasses.replace(job, start=load_start(data, model, training))
    if job.processes.is_first:
        _train_and_save(job)
    else:
        _train(job)
    return True


def _train_and_save(job: _Job) -> None:
    """Train under locks, and write the model with its manifest."""
    start, folder = time.monotonic(), job.folder
    with training_lock(folder), training_lock(job.checkpoints):
        remove_leftovers(*(folder / name for name in (*MODEL_FILES, "training.csv")))
        trained = _train(job)
        with job.result.writing(wall_time_s=round(time.monotonic() - start, 1)) as written:
            _save(job, trained)
            written.files += [folder / name for name in MODEL_FILES]
            written.timed.append(folder / "training.csv")
        shutil.rmtree(job.checkpoints, ignore_errors=True)


def _save(job: _Job, trained: _Trained) -> None:
    """Write the table of epochs and the model with its record."""
    data, forecaster = job.data, trained.forecaster
    with atomic(job.folder / "training.csv") as path:
        pd.DataFrame(trained.history).to_csv(path, index=False)
    chosen = next(row for row in trained.history if row["epoch"] == trained.epoch)
    record = {
        "data": data.identity(),
        "protocol": data.protocol,
        "fold": data.fold.number,
        "train": data.fold.train,
        "validation": data.fold.validation,
        "fitted_on": [fitted_on(data), *(job.start.record["fitted_on"] if job.start else ())],
        "start": None if job.start is None else job.start.record["sha256"],
        "selected_epoch": trained.epoch,
        "validation_skill_ar": chosen["validation_skill_ar"],
        "n_parameters": sum(each.numel() for each in forecaster.parameters() if each.requires_grad),
        "seed": job.seed,
        # The commit is in the manifest: training again at another one makes the same model.
        "versions": versions(),
    }
    save_forecaster(job.folder, forecaster, record)


def _train(job: _Job) -> _Trained:
    """Fit and train. In the processes that don't write, the weights are those of the last epoch, not of the best."""
    is_first, training = job.processes.is_first, job.training
    identity = {"settings": job.settings_digest, "data": job.result.inputs}
    checkpoint = find_checkpoint(job.checkpoints, identity, may_clean_up=is_first)
    forecaster = _init_forecaster(job)
    streams = _StreamData(job, _features(job, forecaster))
    stop_if_signaled(is_first=is_first)
    forecaster.backbone.stack.gradient_checkpointing = training.gradient_checkpointing
    module = ForecastModule(
        forecaster,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        warmup_fraction=training.warmup_fraction,
        max_epochs=training.max_epochs,
    )
    fitted_weights = copy.deepcopy(forecaster.state_dict())
    with quiet_lightning():
        trainer = make_trainer(
            job.checkpoints,
            job.processes,
            training.max_epochs,
            precision=training.precision,
            strategy=training.strategy,
            gradient_clip_val=training.gradient_clip,
            logger=make_loggers(job.folder / "logs", first_step=_step_of(checkpoint)),
            callbacks=[
                EarlyStopping(monitor="validation_mse", patience=training.patience),
                Progress(),
                MemoryLogs(),
                Checkpoints(job.checkpoints, every_s=training.checkpoint_every_s, identity=identity),
            ],
        )
        if checkpoint is None:
            with explain_errors(trainer):
                trainer.validate(module, datamodule=streams, verbose=False)
            stop_if_signaled(is_first=is_first)
        else:
            logger.info("Training resumes from %s.", checkpoint)
        if training.max_epochs:
            fit(trainer, module, streams, checkpoint)
        else:
            _log_closed_form(module.history[-1])
    epoch = best_epoch(module.history)
    if is_first:
        # Weights that were divided among processes can't be joined in place.
        forecaster = job.build() if module.is_sharded else forecaster
        weights = _best_weights(job.checkpoints, epoch) if epoch else fitted_weights
        forecaster.to("cpu").load_state_dict(weights)
    return _Trained(forecaster, module.history, epoch)


def _log_closed_form(row: dict[str, float]) -> None:
    logger.info(
        "The closed form alone, without an epoch: skill %.4f over AR, %.4f over persistence on the validation runs.",
        *(row["validation_skill_ar"], row["validation_skill_persistence"]),
    )


def _best_weights(checkpoints: Path, epoch: int) -> dict[str, torch.Tensor]:
    saved = torch.load(best_path(checkpoints, epoch), map_location="cpu", weights_only=True)["state_dict"]
    return {name.removeprefix("forecaster."): value for name, value in saved.items()}


def _step_of(checkpoint: Path | None) -> int:
    if checkpoint is None:
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def _features(job: _Job, forecaster: Forecaster) -> dict[str, FeatureStore] | None:
    if not isinstance(forecaster.tokenizer, SwinTokenizer) or not forecaster.tokenizer.frozen:
        return None
    device = job.processes.local_device
    return cached_features(job.data.fit_runs, forecaster.tokenizer, work_dir=job.work_dir, device=device)


def _init_forecaster(job: _Job) -> Forecaster:
    """Make the model that training starts from: a pre-trained encoder where asked for, and the closed-form fits."""
    data, model, pretraining = job.data, job.model, job.training.pretraining
    encoder = None
    if pretraining is not None and isinstance(model.tokenizer, SwinTokenizerConfig):
        device = job.processes.local_device
        encoder = pretrain_swin(data, model.tokenizer, pretraining, work_dir=job.work_dir, seed=job.seed, device=device)
    lightning.seed_everything(fold_seed(job.seed, data.fold.number), verbose=False)
    forecaster = job.build()
    if job.start is not None:
        job.start.load_trained_parts(forecaster)
    if encoder is not None and isinstance(forecaster.tokenizer, SwinTokenizer):
        forecaster.tokenizer.swin.load_state_dict(encoder)
    forecaster.linear_skip.load(fitted_linear_skip(data, model.horizons, work_dir=job.work_dir))
    fit = fitted_closed_form(data, model, work_dir=job.work_dir, start=job.start)
    if fit is not None:
        forecaster.load_closed_form(fit)
    return forecaster


class _StreamData(lightning.LightningDataModule):
    """Training windows in a new order and at new offsets in each epoch; validation windows always the same."""

    def __init__(self, job: _Job, features: Mapping[str, FeatureStore] | None) -> None:
        super().__init__()
        self._job, self._features = job, features

    def train_dataloader(self) -> StreamLoader:
        """Return the windows of the current epoch."""
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        runs = self._job.data.select(self._job.data.fold.train)
        training = self._job.training
        seed = epoch_seed(self._job.seed, epoch)
        return self._load(runs, seed=seed, min_steps=training.steps_per_epoch, window=training.window_time_points)

    def val_dataloader(self) -> StreamLoader:
        """Return the windows of the validation runs, shorter than those of the training where these are large.

        No gradient is cut off between them: their length changes nothing.
        """
        training, model = self._job.training, self._job.model
        n_numbers = training.n_streams * len(model.horizons) * self._job.data.space.n_features
        restart = model.restart_time_points
        window = min(training.window_time_points, restart * max(1, _VALIDATION_NUMBERS // (n_numbers * restart)))
        return self._load(self._job.data.select(self._job.data.fold.validation), seed=None, min_steps=1, window=window)

    def _load(self, runs: Sequence[RunView], *, seed: int | None, min_steps: int, window: int) -> StreamLoader:
        rank, on_gpu = Rank(), False
        if self.trainer is not None:
            rank = Rank(self.trainer.global_rank, self.trainer.world_size)
            on_gpu = self.trainer.strategy.root_device.type == "cuda"
        windows = StreamWindows(
            runs,
            window_time_points=window,
            n_streams=self._job.training.n_streams,
            horizons=self._job.model.horizons,
            min_steps=min_steps,
            features=self._features,
            seed=seed,
            rank=rank,
        )
        return StreamLoader(windows, pin_memory=on_gpu)
