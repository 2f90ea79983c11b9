"""Masked volumes: hide parts of a brain, and tell them from the rest.

Masked-volume modeling after SimMIM (Xie et al., 2022, arXiv:2111.09886), which is masked autoencoding (MAE: He et al.,
2022, arXiv:2111.06377) for encoders that need the whole grid: cubes of patches are replaced by a learned patch, and a
light decoder tells from the encoder's features what was hidden; hidden voxels of the brain alone count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import lightning
import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.utils.data import Dataset

from titan_neuro.errors import TrainingError
from titan_neuro.forecaster.decoders import UpsamplingConfig, UpsamplingDecoder
from titan_neuro.forecaster.tokenizers import SwinTokenizer, SwinTokenizerConfig
from titan_neuro.typing import RunData

# Neighbours in time are read together: a chunk of the store holds at least as many.
_BLOCK_TIME_POINTS = 4


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class PretrainingConfig:
    """How the Swin is pre-trained on masked volumes. Brains are not flipped, rotated or scaled.

    Attributes
    ----------
    mask_fraction : float
        Of the cubes that hold brain, the share that is hidden.
    mask_patches : int
        Patches along each side of a cube.
    channels : int
        Maps of the light decoder.
    n_epochs, steps_per_epoch : int
        Rounds, each followed by a checkpoint, and the steps of a round.
    batch_time_points : int
        Volumes of a step: four neighbors from each of as many places of the training runs as it takes.
    learning_rate, weight_decay : float
        Of AdamW; the rate falls as a cosine to 0.
    gradient_clip : float
        Largest norm of a step's gradient.
    """

    mask_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.6
    mask_patches: Annotated[int, Field(ge=1)] = 1
    channels: Annotated[int, Field(ge=1)] = 16
    n_epochs: Annotated[int, Field(ge=1)] = 10
    steps_per_epoch: Annotated[int, Field(ge=1)] = 50
    batch_time_points: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0


class MaskedVolumes(lightning.LightningModule):
    """Reconstruct hidden parts of volumes from the features of what is left.

    Parameters
    ----------
    tokenizer : SwinTokenizer
        Its Swin is what learns.
    tokenizer_config : SwinTokenizerConfig
    config : PretrainingConfig
    seed : int
        Of what is hidden.

    Attributes
    ----------
    losses : list of float
        Mean squared error of the hidden voxels (variances are near 1), one entry for each epoch.
    """

    units: Tensor
    within: Tensor

    def __init__(
        self,
        tokenizer: SwinTokenizer,
        tokenizer_config: SwinTokenizerConfig,
        config: PretrainingConfig,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.tokenizer, self.config, self.seed = tokenizer, config, seed
        patch = tokenizer_config.patch_size
        self.decoder = UpsamplingDecoder(
            UpsamplingConfig(channels=config.channels),
            mask=tokenizer.mask,
            token_grid=tokenizer_config.token_grid,
            patch_size=patch,
            dim=sum(tokenizer_config.map_widths),
            n_horizons=1,
        )
        places = tokenizer.mask.nonzero()
        _, units = torch.unique(places // (patch * config.mask_patches), dim=0, return_inverse=True)
        inside = places % patch
        self.register_buffer("units", units)
        self.register_buffer("within", (inside[:, 0] * patch + inside[:, 1]) * patch + inside[:, 2])
        self.hidden_patch = nn.Parameter(torch.zeros(patch**3))
        self.losses: list[float] = []
        self._sum, self._count = 0.0, 0

    def hide(self, n_time_points: int, seed: int) -> Tensor:
        """Draw what is hidden of each volume: bool ``(volumes, features)``; of cubes, the same share in each."""
        n_units = int(self.units.max()) + 1
        n_hidden = min(max(1, round(self.config.mask_fraction * n_units)), n_units)
        # Drawn where all machines draw the same.
        draws = torch.rand(n_time_points, n_units, generator=torch.Generator().manual_seed(seed))
        ranks = draws.argsort(dim=1).argsort(dim=1).to(self.units.device)
        return (ranks < n_hidden)[:, self.units]

    def reconstruct(self, volumes: Tensor, hidden: Tensor) -> Tensor:
        """Tell all voxels, ``(batch, features)``, from those that are not hidden."""
        shown = torch.where(hidden, self.hidden_patch[self.within], volumes)
        forecasts: Tensor = self.decoder(self.tokenizer.features(shown[:, None]))
        return forecasts[:, 0, 0]

    def training_step(self, volumes: Tensor, batch_index: int) -> Tensor:
        """Learn from one batch of volumes."""
        hidden = self.hide(len(volumes), self.seed + self.global_step)
        loss = (self.reconstruct(volumes, hidden) - volumes)[hidden].square().mean()
        if not torch.isfinite(loss):
            raise TrainingError(
                f"The loss of pre-training is {loss.item()} in epoch {self.current_epoch}, step {batch_index}.",
                "Lower --set training.pretraining.learning_rate, and look at the data of the runs in training.",
            )
        self._sum, self._count = self._sum + float(loss.detach()), self._count + 1
        self.log("hidden_mse", loss.detach(), prog_bar=True, batch_size=1)
        return loss

    def on_train_epoch_end(self) -> None:
        """Note what the epoch came to."""
        self.losses.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the losses with the weights."""
        checkpoint["losses"] = self.losses

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the losses of the interrupted training."""
        self.losses = checkpoint["losses"]

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW and a cosine to 0."""
        learned = [*self.tokenizer.swin.parameters(), *self.decoder.parameters(), self.hidden_patch]
        optimizer = torch.optim.AdamW(learned, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)

        def rate(epoch: int) -> float:
            return 0.5 * (1 + math.cos(math.pi * epoch / self.config.n_epochs))

        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, rate)}


class ScatteredVolumes(Dataset[Tensor]):
    """Batches of volumes from random places of runs, around scored volumes; item ``i`` is the same under the same seed.

    Parameters
    ----------
    runs : sequence of RunData
    batch_time_points, n_batches, seed : int
    """

    def __init__(self, runs: Sequence[RunData], *, batch_time_points: int, n_batches: int, seed: int) -> None:
        self._runs, self._batch, self._n_batches, self._seed = runs, batch_time_points, n_batches, seed
        self._places = [(run, int(volume)) for run, view in enumerate(runs) for volume in np.flatnonzero(view.scored)]

    def __len__(self) -> int:
        """Number of batches."""
        return self._n_batches

    def __getitem__(self, index: int) -> Tensor:
        """Read batch `index`: float32 ``(volumes, features)``."""
        rng = np.random.default_rng([self._seed, index])
        blocks = []
        for place in rng.integers(len(self._places), size=-(-self._batch // _BLOCK_TIME_POINTS)):
            run, volume = self._places[place]
            start = max(0, min(volume, self._runs[run].n_time_points - _BLOCK_TIME_POINTS))
            blocks.append(self._runs[run].read(start, start + _BLOCK_TIME_POINTS))
        return torch.cat(blocks)[: self._batch]
