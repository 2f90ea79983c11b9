"""Pre-training of a fold's Swin on masked volumes, before the forecaster is trained."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from pydantic import TypeAdapter
from torch import Tensor
from torch.utils.data import DataLoader

from titan_neuro.errors import MismatchError
from titan_neuro.forecaster.tokenizers import SwinTokenizer, SwinTokenizerConfig
from titan_neuro.provenance import digest, versions
from titan_neuro.seeds import epoch_seed, fold_seed
from titan_neuro.training.config import PretrainingConfig
from titan_neuro.training.masked_volumes import MaskedVolumes, RandomVolumes
from titan_neuro.training.resume import StopOnSignal, is_intact
from titan_neuro.training.tensors import TensorsAndMetadata, cached_tensors, tensors_path
from titan_neuro.training.trainer import Processes, fit, make_trainer, quiet_lightning
from titan_neuro.typing import RunData

if TYPE_CHECKING:
    from titan_neuro.training.fold import FoldData

logger = logging.getLogger(__name__)


class _VolumeData(lightning.LightningDataModule):
    """Batches of volumes, from other places in each epoch."""

    def __init__(self, runs: Sequence[RunData], config: PretrainingConfig, seed: int) -> None:
        super().__init__()
        self._runs, self._config, self._seed = runs, config, seed

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of the current epoch."""
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        volumes = RandomVolumes(
            self._runs,
            batch_volumes=self._config.batch_volumes,
            n_batches=self._config.steps_per_epoch,
            seed=epoch_seed(self._seed, epoch),
        )
        return DataLoader(volumes, batch_size=None)


def pretrain_swin(
    data: FoldData,
    tokenizer: SwinTokenizerConfig,
    config: PretrainingConfig,
    *,
    work_dir: Path,
    seed: int,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """Pre-train the Swin of a fold on its training runs, unless that was done before; return its weights.

    Models of one fold, seed and tokenizer share these weights, whatever their backbone and decoder.

    Parameters
    ----------
    data : FoldData
        Validation and test runs are not read.
    tokenizer : SwinTokenizerConfig
    config : PretrainingConfig
    work_dir : Path
        For the weights, ``swin-<digest>.safetensors``, and during the training for a folder of checkpoints: an
        interrupted training resumes at its last epoch.
    seed : int
    device : {"cpu", "cuda", "cuda:N"}

    Returns
    -------
    dict of str to torch.Tensor
        The state dict of ``SwinTokenizer.swin``.

    Raises
    ------
    TrainingError
        The loss is not finite.
    MismatchError
        The data are parcels.
    """
    if data.space.mask is None:
        raise MismatchError("Masked volumes: expected volumes, found parcels.")
    # The weights are the same whether the tokenizer is frozen afterwards or not.
    tokenizer = dataclasses.replace(tokenizer, frozen=False)
    fingerprint = _fingerprint(data, tokenizer, config, seed)
    checkpoints = tensors_path(work_dir, "swin", fingerprint).with_suffix("")

    def train() -> TensorsAndMetadata:
        return _train(data, tokenizer, config, folder=checkpoints, seed=seed, device=device), {}

    weights, _ = cached_tensors(work_dir, "swin", fingerprint, train)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return weights


def _train(
    data: FoldData,
    tokenizer: SwinTokenizerConfig,
    config: PretrainingConfig,
    *,
    folder: Path,
    seed: int,
    device: str,
) -> dict[str, Tensor]:
    seed = fold_seed(seed, data.fold.number)
    lightning.seed_everything(seed, verbose=False)
    swin = SwinTokenizer(tokenizer, torch.from_numpy(data.space.mask), dim=1)
    module = MaskedVolumes(swin, tokenizer, config, seed=seed)
    with quiet_lightning():
        trainer = make_trainer(
            folder,
            Processes(device=device),
            config.n_epochs,
            logger=False,
            gradient_clip_val=config.gradient_clip,
            callbacks=[ModelCheckpoint(dirpath=folder, save_last=True), TQDMProgressBar(), StopOnSignal()],
        )
        volumes = _VolumeData(data.select(data.fold.train), config, seed)
        last = folder / "last.ckpt"
        fit(trainer, module, volumes, last if is_intact(last) else None)
    logger.info("Mean squared error of hidden voxels: %s.", ", ".join(f"{loss:.3f}" for loss in module.losses))
    return dict(swin.swin.state_dict())


def _fingerprint(data: FoldData, tokenizer: SwinTokenizerConfig, config: PretrainingConfig, seed: int) -> str:
    """Return the digest of everything that the weights depend on."""
    content = {
        "tokenizer": TypeAdapter(SwinTokenizerConfig).dump_python(tokenizer, mode="json"),
        "pretraining": TypeAdapter(PretrainingConfig).dump_python(config, mode="json"),
        "seed": [seed, data.fold.number],
        "version": versions()["titan-neuro"],
        "data": data.identity(),
        "runs": {key: data.runs[key].store.record["fingerprint"] for key in data.fold.train},
    }
    return digest(content)
