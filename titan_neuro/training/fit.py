"""Train one fold with Lightning, choose the epoch on the validation runs, and write the model down."""

from __future__ import annotations

import copy
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass
from torch.utils.data import DataLoader

from titan_neuro.data.space import Space
from titan_neuro.data.splits import Fold, require_disjoint
from titan_neuro.data.store import FeatureStore, RunView
from titan_neuro.files import atomic
from titan_neuro.layers.tokenizer import SwinTokenizer, SwinTokenizerConfig
from titan_neuro.models.closed_form import fit_recall
from titan_neuro.models.forecaster import Forecaster, ForecasterConfig
from titan_neuro.models.recall import Recall
from titan_neuro.ops.autoregression import Autoregression, fit_autoregression
from titan_neuro.provenance import commit, digest, versions
from titan_neuro.training.checkpoint import discard_record, read_record, save_forecaster
from titan_neuro.training.features import cached_features
from titan_neuro.training.masked_volumes import PretrainingConfig
from titan_neuro.training.module import ForecastModule
from titan_neuro.training.pretrain import pretrain_swin, require_pretraining
from titan_neuro.training.streams import StreamWindows
from titan_neuro.training.trainer import fit, make_trainer, quiet_lightning

logger = logging.getLogger(__name__)

# Raised when the same settings and data come to other weights: models that are there already are then trained again.
_METHOD_VERSION = 3


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
    window_frames : int
        Frames that are back-propagated through; the memory goes on from window to window, its gradient does not.
    n_streams : int
        Runs that are read side by side.
    learning_rate, weight_decay : float
        Of AdamW.
    gradient_clip : float
        Largest norm of a step's gradient.
    pretraining : PretrainingConfig, optional
        Pre-train the Swin on masked volumes of the training runs; None does not.
    """

    max_epochs: Annotated[int, Field(ge=1)] = 12
    steps_per_epoch: Annotated[int, Field(ge=1)] = 32
    patience: Annotated[int, Field(ge=1)] = 4
    window_frames: Annotated[int, Field(ge=1)] = 64
    n_streams: Annotated[int, Field(ge=1)] = 4
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    pretraining: PretrainingConfig | None = None


@plain_dataclass(frozen=True, kw_only=True)
class FoldData:
    """The runs of a fold, seen through the study's mask.

    Raises
    ------
    MismatchError
        The parts of the fold share a subject, or what else its protocol holds apart.
    """

    fold: Fold
    protocol: str
    space: Space
    runs: Mapping[str, RunView]
    _linear: dict[tuple[int, ...], Autoregression] = field(default_factory=dict, init=False, repr=False, compare=False)
    _recall: dict[Any, Recall] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_disjoint(self.fold, self.protocol, self.runs)

    def part(self, keys: Sequence[str]) -> list[RunView]:
        """Return the runs of these keys."""
        return [self.runs[key] for key in keys]

    def identity(self) -> dict[str, Any]:
        """What a model trained on these data is bound to."""
        any_run = self.runs[self.fold.train[0]]
        return data_identity(self.space, any_run)

    def linear_skip(self, horizons: Sequence[int]) -> Autoregression:
        """Fit the linear skip of the fold's models, once for all seeds and rivals.

        It sees the validation runs too, as the AR baseline of this fold does: the learned part is judged against the
        very bar that it will be scored against.
        """
        key = tuple(horizons)
        if key not in self._linear:
            self._linear[key] = fit_autoregression(self.part((*self.fold.train, *self.fold.validation)), key)
        return self._linear[key]

    def recall(self, model: ForecasterConfig) -> Recall | None:
        """Fit the memories that a model begins with, once for all seeds.

        To the training and validation runs, as the linear skip; a validation run is then read with what was fitted
        without it. Where test runs show what no training run did, no film is remembered.
        """
        if model.recall is None:
            return None
        key = (model.recall, model.horizons, model.backbone.dim)
        if key not in self._recall:
            # What is drawn here is not used (`Recall.take`), and must not shift what is drawn later.
            with torch.random.fork_rng(devices=[]):
                recall = model.recall.build(
                    horizons=model.horizons, n_features=self.space.n_features, context_width=model.backbone.dim
                )
            linear = self.linear_skip(model.horizons)
            fit_recall(
                recall,
                self.part((*self.fold.train, *self.fold.validation)),
                linear.coefficients,
                linear.intercept,
                film_is_shared=self.protocol == "subject",
            )
            self._recall[key] = recall
        return self._recall[key]

    @property
    def caveats(self) -> list[str]:
        """Sentences that every table made from these runs must bear, each once."""
        return list(dict.fromkeys(caveat for run in self.runs.values() for caveat in run.store.caveats))


def data_identity(space: Space, run: RunView) -> dict[str, Any]:
    """Describe data in JSON: space (grid and mask, or parcels), repetition time, how they were prepared."""
    return {**space.identity(), "repetition_time": run.repetition_time, **run.store.preparation}


def fold_fingerprint(data: FoldData, model: ForecasterConfig, training: TrainingConfig, seed: int) -> str:
    """Digest of everything that a fold's model follows from."""
    fold = data.fold
    content = {
        "model": TypeAdapter(ForecasterConfig).dump_python(model, mode="json"),
        "training": TypeAdapter(TrainingConfig).dump_python(training, mode="json"),
        "seed": seed,
        # Another version may build another model from the same settings.
        "version": versions()["titan-neuro"],
        "method": _METHOD_VERSION,
        "data": data.identity(),
        "runs": {key: data.runs[key].store.record["fingerprint"] for key in (*fold.train, *fold.validation)},
        "parts": [fold.train, fold.validation],
    }
    return digest(content)


def train_fold(
    data: FoldData,
    model: ForecasterConfig,
    training: TrainingConfig,
    *,
    folder: Path,
    work_dir: Path,
    seed: int,
    device: str = "cpu",
) -> bool:
    """Train the model of one fold, unless it is there already; an interrupted training goes on at its last epoch.

    Parameters
    ----------
    data : FoldData
    model, training : ForecasterConfig, TrainingConfig
    folder : Path
        Where ``model.safetensors``, ``model.json`` and ``training.csv`` go.
    work_dir : Path
        Checkpoints of the trainer, one folder for each fold and setting, until the model is written.
    seed : int
    device : {"cpu", "cuda", "cuda:N"}

    Returns
    -------
    bool
        False when the model was there already.

    Raises
    ------
    TrainingError
        The loss, of training or validation, is not finite: what was trained before stays as it was, and the checkpoint
        of the last good epoch is kept in `work_dir`. Or too few frames to fit.
    """
    fingerprint = fold_fingerprint(data, model, training, seed)
    before = read_record(folder)
    if before is not None and before.get("fingerprint") == fingerprint:
        return False
    require_pretraining(model, training.pretraining)
    start = time.monotonic()
    forecaster = _begin(data, model, training, work_dir=work_dir, seed=seed, device=device)
    module = ForecastModule(
        forecaster,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        max_epochs=training.max_epochs,
    )
    train_runs, validation_runs = data.part(data.fold.train), data.part(data.fold.validation)
    features = None
    if isinstance(forecaster.tokenizer, SwinTokenizer) and forecaster.tokenizer.frozen:
        runs = [*train_runs, *validation_runs]
        features = cached_features(runs, forecaster.tokenizer, work_dir=work_dir, device=device)
    checkpoints = work_dir / f"fold-{data.fold.number}-{fingerprint[:12]}"
    epoch = _run_trainer(
        module, training, _Windows(train_runs, validation_runs, model, training, seed, features), checkpoints, device
    )
    table = pd.DataFrame(module.history)
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


def _begin(
    data: FoldData, model: ForecasterConfig, training: TrainingConfig, *, work_dir: Path, seed: int, device: str
) -> Forecaster:
    """Build the model, and give it what is known before any gradient: a pre-trained encoder, and the closed form."""
    swin = None
    if training.pretraining is not None and isinstance(model.tokenizer, SwinTokenizerConfig):
        swin = pretrain_swin(data, model.tokenizer, training.pretraining, work_dir=work_dir, seed=seed, device=device)
    # Of both numbers, so that no fold of one seed begins with the weights of another fold of another seed.
    lightning.seed_everything(int(np.random.SeedSequence([seed, data.fold.number]).generate_state(1)[0]), verbose=False)
    mask = None if data.space.mask is None else torch.from_numpy(data.space.mask)
    forecaster = model.build(n_features=data.space.n_features, mask=mask)
    if swin is not None:
        forecaster.tokenizer.swin.load_state_dict(swin)
    forecaster.take_linear(data.linear_skip(model.horizons))
    fitted = data.recall(model)
    if forecaster.recall is not None and fitted is not None:
        forecaster.recall.take(fitted)
    return forecaster


class _Windows(lightning.LightningDataModule):
    """Training windows in a new order and at new offsets each epoch; validation windows always the same."""

    def __init__(
        self,
        train: Sequence[RunView],
        validation: Sequence[RunView],
        model: ForecasterConfig,
        training: TrainingConfig,
        seed: int,
        features: Mapping[str, FeatureStore] | None,
    ) -> None:
        super().__init__()
        self._train, self._validation, self._seed = train, validation, seed
        self._min_steps = training.steps_per_epoch
        self._options = {
            "window_frames": training.window_frames,
            "n_streams": training.n_streams,
            "max_horizon": max(model.horizons),
            "features": features,
        }

    def train_dataloader(self) -> DataLoader[Any]:
        """Windows of this epoch."""
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        seed = self._seed * 100_003 + epoch
        return DataLoader(
            StreamWindows(self._train, seed=seed, min_steps=self._min_steps, **self._options), batch_size=None
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Windows of the validation runs."""
        return DataLoader(StreamWindows(self._validation, seed=None, **self._options), batch_size=None)


def _run_trainer(
    module: ForecastModule, training: TrainingConfig, data: _Windows, checkpoints: Path, device: str
) -> int:
    """Fit, put the best epoch's weights into the module, and return that epoch; 0 is what was fitted in closed form."""
    fitted = copy.deepcopy(module.state_dict())
    best = ModelCheckpoint(dirpath=checkpoints, filename="best", monitor="validation_mse", save_last=True)
    last = checkpoints / "last.ckpt"
    with quiet_lightning():
        trainer = make_trainer(
            checkpoints,
            device,
            training.max_epochs,
            gradient_clip_val=training.gradient_clip,
            callbacks=[best, EarlyStopping(monitor="validation_mse", patience=training.patience), TQDMProgressBar()],
        )
        if last.is_file():
            logger.info("Training goes on from %s.", last)
        else:
            trainer.validate(module, datamodule=data, verbose=False)
        fit(trainer, module, data, last)
    rows = module.history
    chosen = min(rows, key=lambda row: row["validation_mse"])
    if chosen["epoch"] == 0:
        module.load_state_dict(fitted)
    else:
        content = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
        module.load_state_dict(content["state_dict"])
    return int(chosen["epoch"])
