"""Pre-train the Swin of a fold on masked volumes, before anything is forecast."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import DataLoader

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.files import file_lock, write_bytes
from titan_neuro.forecaster.forecaster import ForecasterConfig
from titan_neuro.forecaster.tokenizers import SwinTokenizer, SwinTokenizerConfig
from titan_neuro.provenance import digest, versions
from titan_neuro.training.masked_volumes import MaskedVolumes, PretrainingConfig, ScatteredVolumes
from titan_neuro.training.resume import StopWhenAsked, is_whole
from titan_neuro.training.trainer import Processes, fit, make_trainer, quiet_lightning
from titan_neuro.typing import RunData

if TYPE_CHECKING:
    from titan_neuro.training.fold import FoldData

logger = logging.getLogger(__name__)


def require_pretraining(model: ForecasterConfig, pretraining: PretrainingConfig | None) -> None:
    """Refuse a frozen Swin that was never trained, and masked volumes where there are none.

    Raises
    ------
    ConfigError
    """
    tokenizer = model.tokenizer
    if pretraining is not None and not isinstance(tokenizer, SwinTokenizerConfig):
        raise ConfigError(
            f"training.pretraining: masked volumes are for the Swin; model.tokenizer.kind is {tokenizer.kind}.",
            "Set training.pretraining to null.",
        )
    if pretraining is None and isinstance(tokenizer, SwinTokenizerConfig) and tokenizer.frozen:
        raise ConfigError(
            "model.tokenizer.frozen is true, but nothing pre-trains the Swin: its random weights would stay.",
            "Give training.pretraining its settings ({} for the defaults), or set model.tokenizer.frozen to false.",
        )


class _Batches(lightning.LightningDataModule):
    """Other places in each epoch."""

    def __init__(self, runs: Sequence[RunData], config: PretrainingConfig, seed: int) -> None:
        super().__init__()
        self._runs, self._config, self._seed = runs, config, seed

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of this epoch."""
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        options = {"batch_time_points": self._config.batch_time_points, "n_batches": self._config.steps_per_epoch}
        series = ScatteredVolumes(self._runs, seed=self._seed * 100_003 + epoch, **options)
        return DataLoader(series, batch_size=None)


def pretrain_swin(
    data: FoldData,
    tokenizer: SwinTokenizerConfig,
    config: PretrainingConfig,
    *,
    work_dir: Path,
    seed: int,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """Pre-train the Swin of a fold on its training runs alone, unless that was done; return its weights.

    Models of one fold, seed and tokenizer share it, whatever their backbone and decoder.

    Parameters
    ----------
    data : FoldData
        Validation and test runs are not read.
    tokenizer : SwinTokenizerConfig
    config : PretrainingConfig
    work_dir : Path
        ``swin-<digest>.safetensors`` is kept there, and while it trains, a folder of checkpoints: an interrupted
        training goes on at its last epoch.
    seed : int
    device : {"cpu", "cuda", "cuda:N"}

    Returns
    -------
    dict of str to torch.Tensor
        What ``SwinTokenizer.swin`` loads.

    Raises
    ------
    TrainingError
        The loss is not finite.
    """
    # Frozen or not, it is pre-trained alike.
    tokenizer = dataclasses.replace(tokenizer, frozen=False)
    name = _fingerprint(data, tokenizer, config, seed)[:12]
    path, folder = work_dir / f"swin-{name}.safetensors", work_dir / f"swin-{name}"
    if data.space.mask is None:
        raise MismatchError("Masked volumes need volumes, found parcels.")
    with file_lock(path, work_dir=work_dir):
        if path.is_file():
            try:
                return load_file(path)
            except SafetensorError:
                logger.warning("%s is damaged; the Swin is pre-trained again.", path)
        weights = _pretrain(data, tokenizer, config, folder=folder, seed=seed, device=device)
        write_bytes(path, save(weights))
        shutil.rmtree(folder, ignore_errors=True)
    return weights


def _pretrain(
    data: FoldData,
    tokenizer: SwinTokenizerConfig,
    config: PretrainingConfig,
    *,
    folder: Path,
    seed: int,
    device: str,
) -> dict[str, Tensor]:
    # Of both numbers, so that no fold of one seed draws what another fold of another seed does.
    drawn = int(np.random.SeedSequence([seed, data.fold.number]).generate_state(1)[0])
    lightning.seed_everything(drawn, verbose=False)
    swin = SwinTokenizer(tokenizer, torch.from_numpy(data.space.mask), dim=1)
    module = MaskedVolumes(swin, tokenizer, config, seed=drawn)
    with quiet_lightning():
        trainer = make_trainer(
            folder,
            Processes(device=device),
            config.n_epochs,
            logger=False,
            gradient_clip_val=config.gradient_clip,
            callbacks=[ModelCheckpoint(dirpath=folder, save_last=True), TQDMProgressBar(), StopWhenAsked()],
        )
        batches = _Batches(data.select(data.fold.train), config, drawn)
        last = folder / "last.ckpt"
        fit(trainer, module, batches, last if is_whole(last) else None)
    logger.info("Hidden voxels' mean squared error: %s.", ", ".join(f"{loss:.3f}" for loss in module.losses))
    return {name: value.detach().cpu().contiguous() for name, value in swin.swin.state_dict().items()}


def _fingerprint(data: FoldData, tokenizer: SwinTokenizerConfig, config: PretrainingConfig, seed: int) -> str:
    """Digest of everything that the weights follow from."""
    content = {
        "tokenizer": TypeAdapter(SwinTokenizerConfig).dump_python(tokenizer, mode="json"),
        "pretraining": TypeAdapter(PretrainingConfig).dump_python(config, mode="json"),
        "seed": [seed, data.fold.number],
        "version": versions()["titan-neuro"],
        "data": data.identity(),
        "runs": {key: data.runs[key].store.record["fingerprint"] for key in data.fold.train},
    }
    return digest(content)
