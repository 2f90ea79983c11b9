"""Train one fold with Lightning, choose the epoch on the validation runs, and write the model down."""

from __future__ import annotations

import copy
import functools
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from titan_neuro.data.store import FeatureStore, RunView
from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.files import atomic, remove_leftovers
from titan_neuro.forecaster import Forecaster, ForecasterConfig
from titan_neuro.forecaster.tokenizers import SwinTokenizer, SwinTokenizerConfig
from titan_neuro.provenance import commit, digest, versions
from titan_neuro.training.checkpoint import discard_record, read_record, save_forecaster
from titan_neuro.training.closed_form import fitted_linear_skip, fitted_recall
from titan_neuro.training.features import cached_features
from titan_neuro.training.fold import FoldData
from titan_neuro.training.logs import LOG_EVERY_STEPS, MemoryLogs, Progress, make_loggers
from titan_neuro.training.masked_volumes import PretrainingConfig
from titan_neuro.training.module import ForecastModule
from titan_neuro.training.pretrain import pretrain_swin, require_pretraining
from titan_neuro.training.resume import (
    Checkpoints,
    answer_between_stages,
    best_epoch,
    best_path,
    find_checkpoint,
    training_lock,
)
from titan_neuro.training.streams import Share, StreamLoader, StreamWindows
from titan_neuro.training.trainer import Precision, Processes, Strategy, explained, fit, make_trainer, quiet_lightning

logger = logging.getLogger(__name__)

# Raised when the same settings and data come to other weights: models that are there already are then trained again.
_METHOD_VERSION = 4


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class TrainingConfig:
    """How a model is trained.

    Attributes
    ----------
    max_epochs : int
        Rounds of training, each followed by a validation.
    steps_per_epoch : int
        A round is one pass over the training runs, or as many as give so many steps.
    patience : int
        Epochs without a better validation error after which training stops.
    window_time_points : int
        Time points that are back-propagated through; the memory goes on from window to window, its gradient does not.
    n_streams : int
        Runs that are read side by side, by all processes together.
    learning_rate, weight_decay : float
        Of AdamW. The rate rises evenly, then falls as a cosine to 0, step by step.
    warmup_fraction : float
        Share of all steps in which the rate rises.
    gradient_clip : float
        Largest norm of a step's gradient.
    precision : {"float32", "bfloat16", "float16"}
        Of what tokenizer, backbone and decoder compute. Weights, what memories hold, and all that is fitted in closed
        form stay float32.
    gradient_checkpointing : bool
        Compute what is inside a block of the backbone again for its gradient, and keep it not: more time, less memory.
    strategy : {"ddp", "fsdp"}
        What several processes share out: the streams alone, or also the weights and what the optimizer keeps of them.
    checkpoint_every_s : float
        Seconds of work that an interruption may cost, roughly.
    pretraining : PretrainingConfig, optional
        Pre-train the Swin on masked volumes of the training runs; None does not.
    """

    max_epochs: Annotated[int, Field(ge=1)] = 12
    steps_per_epoch: Annotated[int, Field(ge=1)] = 32
    patience: Annotated[int, Field(ge=1)] = 4
    window_time_points: Annotated[int, Field(ge=1)] = 64
    n_streams: Annotated[int, Field(ge=1)] = 4
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.15
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    precision: Precision = "float32"
    gradient_checkpointing: bool = False
    strategy: Strategy = "ddp"
    checkpoint_every_s: Annotated[float, Field(ge=0)] = 120.0
    pretraining: PretrainingConfig | None = None

    def __post_init__(self) -> None:
        if self.strategy == "fsdp" and self.precision == "float16":
            raise ConfigError(
                "training.precision: float16 is not for training.strategy fsdp.", "Set training.precision to bfloat16."
            )


# Settings that say how a training is gone about, and change nothing of what comes of it but by rounding.
_NOT_OF_THE_RESULT = ("checkpoint_every_s", "gradient_checkpointing", "strategy")


def fold_fingerprint(data: FoldData, model: ForecasterConfig, training: TrainingConfig, seed: int) -> str:
    """Digest of everything that a fold's model follows from."""
    content = {
        **_settings(data, model, training, seed),
        "data": data.identity(),
        "runs": {run.key: run.store.record["fingerprint"] for run in data.fit_runs},
    }
    return digest(content)


def _settings(data: FoldData, model: ForecasterConfig, training: TrainingConfig, seed: int) -> dict[str, Any]:
    """What a fold's model follows from beside the data."""
    told = TypeAdapter(TrainingConfig).dump_python(training, mode="json")
    return {
        "model": TypeAdapter(ForecasterConfig).dump_python(model, mode="json"),
        "training": {name: value for name, value in told.items() if name not in _NOT_OF_THE_RESULT},
        "seed": seed,
        "fold": [data.fold.number, data.protocol, data.fold.train, data.fold.validation],
        # Another version may build another model from the same settings.
        "version": versions()["titan-neuro"],
        "method": _METHOD_VERSION,
    }


def train_fold(
    data: FoldData,
    model: ForecasterConfig,
    training: TrainingConfig,
    *,
    folder: Path,
    work_dir: Path,
    seed: int,
    processes: Processes | None = None,
) -> bool:
    """Train the model of one fold, unless it is there; an interrupted training goes on where it was last saved.

    Parameters
    ----------
    data : FoldData
    model, training : ForecasterConfig, TrainingConfig
    folder : Path
        Where ``model.safetensors``, ``config.json``, ``training.csv`` (a row for each validation) and ``logs`` (for
        TensorBoard, and a table of steps for each start) go.
    work_dir : Path
        Checkpoints of the trainer, one folder for each fold and setting, until the model is written; and what was
        fitted in closed form, for other trainings.
    seed : int
    processes : Processes, optional
        By default this one, on the CPU. Each of several calls this function; the first writes.

    Returns
    -------
    bool
        False when the model was there already.

    Raises
    ------
    TrainingError
        The loss, of training or validation, is not finite: what was trained before stays as it was, and the last good
        checkpoint is kept in `work_dir`. Or too few time points to fit, or another of the processes was lost.
    MismatchError
        The data are not those that the interrupted training began on.
    OutputError
        Another process trains into `folder`, or the disk is full.
    """
    fingerprint = fold_fingerprint(data, model, training, seed)
    processes = processes or Processes()
    checkpoints = _checkpoint_folder(work_dir, data, _settings(data, model, training, seed))
    if _is_trained(folder, fingerprint):
        if processes.is_first:
            # One that was killed when all was done but this.
            shutil.rmtree(checkpoints, ignore_errors=True)
        return False
    # Told before minutes are spent on what is fitted in closed form.
    require_pretraining(model, training.pretraining)
    run = functools.partial(_train, data, model, training, folder=folder, work_dir=work_dir, seed=seed)
    if not processes.is_first:
        run(processes=processes)
        return True
    start = time.monotonic()
    with training_lock(folder), training_lock(checkpoints):
        remove_leftovers(*(folder / name for name in ("model.safetensors", "config.json", "training.csv")))
        forecaster, history, epoch = run(processes=processes)
        table = pd.DataFrame(history)
        discard_record(folder)
        with atomic(folder / "training.csv") as path:
            table.to_csv(path, index=False)
        chosen = table.set_index("epoch").loc[epoch]
        record = {
            "fingerprint": fingerprint,
            "data": data.identity(),
            "protocol": data.protocol,
            "fold": data.fold.number,
            "train": data.fold.train,
            "validation": data.fold.validation,
            "test": data.fold.test,
            "selected_epoch": epoch,
            "validation_skill_ar": float(chosen["validation_skill_ar"]),
            "n_parameters": sum(each.numel() for each in forecaster.parameters() if each.requires_grad),
            "seed": seed,
            "versions": versions(),
            "commit": commit(),
            "wall_time_s": round(time.monotonic() - start, 1),
        }
        save_forecaster(folder, forecaster, record)
        shutil.rmtree(checkpoints, ignore_errors=True)
    return True


def _is_trained(folder: Path, fingerprint: str) -> bool:
    try:
        record = read_record(folder)
    except MismatchError as error:
        logger.warning("%s It is trained again.", error.message)
        return False
    return record is not None and record.get("fingerprint") == fingerprint


def _checkpoint_folder(work_dir: Path, data: FoldData, settings: Mapping[str, Any]) -> Path:
    return work_dir / f"fold-{data.fold.number}-{digest(settings)[:12]}"


def _train(
    data: FoldData,
    model: ForecasterConfig,
    training: TrainingConfig,
    *,
    folder: Path,
    work_dir: Path,
    seed: int,
    processes: Processes,
) -> tuple[Forecaster, list[dict[str, float]], int]:
    """Fit; return the model with the best epoch's weights, what was noted of each, and that epoch.

    Epoch 0 is what was fitted in closed form. In the processes that write nothing the weights are those of the last.
    """
    settings = _settings(data, model, training, seed)
    checkpoints = _checkpoint_folder(work_dir, data, settings)
    identity = {"settings": digest(settings), "data": data.digests()}
    last = find_checkpoint(checkpoints, identity, may_tidy=processes.is_first)
    forecaster = _begin(data, model, training, work_dir=work_dir, seed=seed, device=processes.own_device)
    windows = _Windows(data, model, training, seed, _features(data, forecaster, work_dir, processes.own_device))
    answer_between_stages(is_first=processes.is_first)
    forecaster.backbone.gradient_checkpointing = training.gradient_checkpointing
    module = ForecastModule(
        forecaster,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        warmup_fraction=training.warmup_fraction,
        max_epochs=training.max_epochs,
        fully_sharded=training.strategy == "fsdp" and processes.n * processes.n_nodes > 1,
    )
    fitted = copy.deepcopy(forecaster.state_dict())
    with quiet_lightning():
        trainer = make_trainer(
            checkpoints,
            processes,
            training.max_epochs,
            precision=training.precision,
            strategy=training.strategy,
            gradient_clip_val=training.gradient_clip,
            logger=make_loggers(folder / "logs", begins_at=_step_of(last)),
            log_every_n_steps=LOG_EVERY_STEPS,
            callbacks=[
                EarlyStopping(monitor="validation_mse", patience=training.patience),
                Progress(),
                MemoryLogs(),
                Checkpoints(checkpoints, every_s=training.checkpoint_every_s, identity=identity),
            ],
        )
        if last is None:
            with explained(trainer):
                trainer.validate(module, datamodule=windows, verbose=False)
            answer_between_stages(is_first=processes.is_first)
        else:
            logger.info("Training goes on from %s.", last)
        fit(trainer, module, windows, last)
    epoch = best_epoch(module.history)
    if processes.is_first:
        weights = fitted
        if epoch:
            saved = torch.load(best_path(checkpoints, epoch), map_location="cpu", weights_only=True)["state_dict"]
            weights = {name.removeprefix("forecaster."): value for name, value in saved.items()}
        # Weights that were divided among processes can't be put together again in place.
        forecaster = forecaster if not module.is_sharded else _empty(model, data)
        forecaster.to("cpu").load_state_dict(weights)
    return forecaster, module.history, epoch


def _step_of(checkpoint: Path | None) -> int:
    if checkpoint is None:
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def _features(data: FoldData, forecaster: Forecaster, work_dir: Path, device: str) -> dict[str, FeatureStore] | None:
    if not isinstance(forecaster.tokenizer, SwinTokenizer) or not forecaster.tokenizer.frozen:
        return None
    return cached_features(data.fit_runs, forecaster.tokenizer, work_dir=work_dir, device=device)


def _empty(model: ForecasterConfig, data: FoldData) -> Forecaster:
    mask = None if data.space.mask is None else torch.from_numpy(data.space.mask)
    return model.build(n_features=data.space.n_features, mask=mask)


def _begin(
    data: FoldData, model: ForecasterConfig, training: TrainingConfig, *, work_dir: Path, seed: int, device: str
) -> Forecaster:
    """Build the model, and give it what is known before any gradient: a pre-trained encoder, and the closed form."""
    swin = None
    if training.pretraining is not None and isinstance(model.tokenizer, SwinTokenizerConfig):
        swin = pretrain_swin(data, model.tokenizer, training.pretraining, work_dir=work_dir, seed=seed, device=device)
    # Of both numbers, so that no fold of one seed begins with the weights of another fold of another seed.
    lightning.seed_everything(int(np.random.SeedSequence([seed, data.fold.number]).generate_state(1)[0]), verbose=False)
    forecaster = _empty(model, data)
    if swin is not None:
        forecaster.tokenizer.swin.load_state_dict(swin)
    forecaster.linear_skip.load(fitted_linear_skip(data, model.horizons, work_dir=work_dir))
    fitted = fitted_recall(data, model, work_dir=work_dir)
    if forecaster.recall is not None and fitted is not None:
        forecaster.recall.load(fitted)
    return forecaster


class _Windows(lightning.LightningDataModule):
    """Training windows in a new order and at new offsets each epoch; validation windows always the same."""

    def __init__(
        self,
        data: FoldData,
        model: ForecasterConfig,
        training: TrainingConfig,
        seed: int,
        features: Mapping[str, FeatureStore] | None,
    ) -> None:
        super().__init__()
        self._train, self._validation = data.select(data.fold.train), data.select(data.fold.validation)
        self._seed, self._min_steps = seed, training.steps_per_epoch
        self._options = {
            "window_time_points": training.window_time_points,
            "n_streams": training.n_streams,
            "horizons": model.horizons,
            "features": features,
        }

    def train_dataloader(self) -> StreamLoader:
        """Windows of this epoch."""
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        return self._load(self._train, seed=self._seed * 100_003 + epoch, min_steps=self._min_steps)

    def val_dataloader(self) -> StreamLoader:
        """Windows of the validation runs."""
        return self._load(self._validation, seed=None)

    def _load(self, runs: Sequence[RunView], **options: Any) -> StreamLoader:
        share, on_gpu = Share(), False
        if self.trainer is not None:
            share = Share(self.trainer.global_rank, self.trainer.world_size)
            on_gpu = self.trainer.strategy.root_device.type == "cuda"
        windows = StreamWindows(runs, share=share, **options, **self._options)
        return StreamLoader(windows, pin_memory=on_gpu)
