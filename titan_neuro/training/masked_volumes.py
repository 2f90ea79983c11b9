"""Masked volumes: parts of a brain volume are hidden, and reconstructed from the rest.

Masked-volume modeling after SimMIM (Xie et al., 2022, arXiv:2111.09886): masked autoencoding (MAE: He et al., 2022,
arXiv:2111.06377) for encoders that need the whole grid. Cubes of patches are replaced by a learned patch, and a light
decoder reconstructs them from the encoder's features. The loss is the error of hidden voxels inside the brain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from titan_neuro.errors import TrainingError
from titan_neuro.forecaster.decoders import UpsamplingConfig, UpsamplingDecoder
from titan_neuro.forecaster.tokenizers import SwinTokenizer, SwinTokenizerConfig
from titan_neuro.training.config import PretrainingConfig
from titan_neuro.training.schedule import rate_factor
from titan_neuro.typing import RunData

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

# Consecutive volumes are read together: a chunk of the store holds at least as many.
_BLOCK_TIME_POINTS = 4


class MaskedVolumes(lightning.LightningModule):
    """Reconstruct hidden parts of volumes from the features of the visible parts.

    Parameters
    ----------
    tokenizer : SwinTokenizer
        Its Swin is trained.
    tokenizer_config : SwinTokenizerConfig
    config : PretrainingConfig
    seed : int
        Of the choice of hidden cubes.

    Attributes
    ----------
    losses : list of float
        Mean squared error of the hidden voxels (whose variance is about 1), one entry for each epoch.
    """

    cube_of_voxel: Tensor
    place_in_patch: Tensor

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
        voxels = tokenizer.mask.nonzero()
        _, cubes = torch.unique(voxels // (patch * config.mask_patches), dim=0, return_inverse=True)
        within = voxels % patch
        self.register_buffer("cube_of_voxel", cubes)
        self.register_buffer("place_in_patch", (within[:, 0] * patch + within[:, 1]) * patch + within[:, 2])
        self.hidden_patch = nn.Parameter(torch.zeros(patch**3))
        self.losses: list[float] = []
        self._sum, self._count = 0.0, 0

    def draw_hidden(self, n_volumes: int, seed: int) -> Tensor:
        """Choose the hidden voxels of each volume: whole cubes, the same number in each volume.

        Returns
        -------
        torch.Tensor
            bool ``(volumes, features)``, on the module's device.
        """
        n_cubes = int(self.cube_of_voxel.max()) + 1
        n_hidden = min(max(1, round(self.config.mask_fraction * n_cubes)), n_cubes)
        # On the CPU, where all machines draw the same numbers.
        draws = torch.rand(n_volumes, n_cubes, generator=torch.Generator().manual_seed(seed))
        ranks = draws.argsort(dim=1).argsort(dim=1).to(self.cube_of_voxel.device)
        return (ranks < n_hidden)[:, self.cube_of_voxel]

    def reconstruct(self, volumes: Tensor, hidden: Tensor) -> Tensor:
        """Reconstruct all voxels from those that are not hidden.

        Parameters
        ----------
        volumes : torch.Tensor
            ``(volumes, features)``.
        hidden : torch.Tensor
            bool ``(volumes, features)``.

        Returns
        -------
        torch.Tensor
            ``(volumes, features)``.
        """
        visible = torch.where(hidden, self.hidden_patch[self.place_in_patch], volumes)
        reconstruction: Tensor = self.decoder(self.tokenizer.features(visible[:, None]))
        return reconstruction[:, 0, 0]

    def training_step(self, volumes: Tensor, batch_index: int) -> Tensor:
        """Return the loss of one batch, ``(volumes, features)``: mean squared error of the hidden voxels."""
        hidden = self.draw_hidden(len(volumes), self.seed + self.global_step)
        loss = (self.reconstruct(volumes, hidden) - volumes)[hidden].square().mean()
        if not torch.isfinite(loss):
            raise TrainingError(
                f"The loss of pre-training is {loss.item()} in epoch {self.current_epoch}, step {batch_index}.",
                "Lower --set training.pretraining.learning_rate, and check the data of the training runs.",
            )
        self._sum, self._count = self._sum + float(loss.detach()), self._count + 1
        self.log("hidden_mse", loss.detach(), prog_bar=True, batch_size=1)
        return loss

    def on_train_epoch_end(self) -> None:
        """Append the mean loss of the epoch."""
        self.losses.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the losses with the weights."""
        checkpoint["losses"] = self.losses

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the losses of the interrupted training."""
        self.losses = checkpoint["losses"]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW, and half a cosine from the learning rate to 0, one value for each epoch."""
        parameters = [*self.tokenizer.swin.parameters(), *self.decoder.parameters(), self.hidden_patch]
        optimizer = torch.optim.AdamW(parameters, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)
        n_epochs = self.config.n_epochs
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: rate_factor(epoch / n_epochs))
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class RandomVolumes(Dataset[Tensor]):
    """Batches of volumes from random places of runs, around scored volumes. The same seed gives the same batches.

    Parameters
    ----------
    runs : sequence of RunData
    batch_volumes : int
        Volumes of a batch.
    n_batches : int
    seed : int
    """

    def __init__(self, runs: Sequence[RunData], *, batch_volumes: int, n_batches: int, seed: int) -> None:
        self._runs, self._batch_volumes, self._n_batches, self._seed = runs, batch_volumes, n_batches, seed
        self._scored = [(index, int(volume)) for index, run in enumerate(runs) for volume in np.flatnonzero(run.scored)]

    def __len__(self) -> int:
        """Return the number of batches."""
        return self._n_batches

    def __getitem__(self, index: int) -> Tensor:
        """Read batch `index`: float32 ``(volumes, features)``."""
        rng = np.random.default_rng([self._seed, index])
        n_blocks = -(-self._batch_volumes // _BLOCK_TIME_POINTS)
        blocks = []
        for place in rng.integers(len(self._scored), size=n_blocks):
            run, volume = self._scored[place]
            start = max(0, min(volume, self._runs[run].n_time_points - _BLOCK_TIME_POINTS))
            blocks.append(self._runs[run].read(start, start + _BLOCK_TIME_POINTS))
        return torch.cat(blocks)[: self._batch_volumes]
