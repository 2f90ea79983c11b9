"""Random spatial means of a volume, in place of what the Swin encoder makes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titan_neuro.forecaster.tokenizers import SwinTokenizer
from titan_neuro.typing import RunData

_SEED = 0
# Voxels that are averaged in a box, drawn with replacement: neighbors are too alike for more to change the mean.
_VOXELS_PER_MEAN = 64
# Training data that the means are scaled on.
_RUNS, _TIME_POINTS_PER_RUN = 8, 16


class RandomMeans(nn.Module):
    """Tokens like those of a Swin encoder, of features that are random spatial means of the volume.

    There are as many means as the encoder has features in all tokens. Each is taken over a box inside the mask: its
    center is a random voxel, and its sides are random, up to those of a token's cell. It is scaled to the mean and the
    standard deviation over time of the feature that it replaces, and passes the encoder's own projection to tokens:
    what is replaced is what the features tell of the volume, not their size.

    Parameters
    ----------
    tokenizer : SwinTokenizer
        Trained; shared, not copied.
    train_runs : sequence of RunData
        Runs that it was trained on; the middle of each of the first few is read.
    """

    voxels: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, tokenizer: SwinTokenizer, train_runs: Sequence[RunData]) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.shape = (len(tokenizer.position), sum(tokenizer.map_widths))
        self.register_buffer("voxels", _random_boxes(tokenizer.mask.cpu(), tokenizer.token_grid, math.prod(self.shape)))
        self.register_buffer("scale", torch.ones(self.shape))
        self.register_buffer("offset", torch.zeros(self.shape))
        self.to(tokenizer.position)
        self._fit(train_runs)

    @torch.inference_mode()
    def _fit(self, train_runs: Sequence[RunData]) -> None:
        found, expected = [], []
        for run in train_runs[:_RUNS]:
            start = max(0, (run.n_time_points - _TIME_POINTS_PER_RUN) // 2)
            series = run.read(start, min(start + _TIME_POINTS_PER_RUN, run.n_time_points)).to(self.tokenizer.position)
            found.append(self.means(series[None])[0])
            expected.append(self.tokenizer.features(series[None])[0])
        means, features = torch.cat(found), torch.cat(expected)
        tiny = torch.finfo(means.dtype).tiny
        self.scale.copy_(features.std(dim=0) / means.std(dim=0).clamp_min(tiny))
        self.offset.copy_(features.mean(dim=0) - self.scale * means.mean(dim=0))

    def means(self, series: Tensor) -> Tensor:
        """Average the voxels of each box: ``(batch, time, voxels in mask)`` to ``(batch, time, tokens, features)``."""
        means = F.embedding_bag(self.voxels, series.flatten(0, 1).T.contiguous(), mode="mean")
        return means.T.reshape(*series.shape[:2], *self.shape)

    def forward(self, series: Tensor) -> Tensor:
        """Turn each time point into tokens: ``(batch, time, voxels in mask)`` to ``(batch, time, tokens, dim)``."""
        return self.tokenizer.project(self.means(series) * self.scale + self.offset)


def _random_boxes(mask: Tensor, token_grid: tuple[int, int, int], n_boxes: int) -> Tensor:
    """Draw voxels of random boxes, int64 ``(n_boxes, _VOXELS_PER_MEAN)``: their places among the voxels of `mask`."""
    generator = torch.Generator().manual_seed(_SEED)
    places = torch.full(mask.shape, -1)
    places[mask] = torch.arange(int(mask.sum()))
    inside = mask.nonzero()
    centers = inside[torch.randint(len(inside), (n_boxes,), generator=generator)]
    longest = torch.tensor([math.ceil(size / n_cells) for size, n_cells in zip(mask.shape, token_grid, strict=True)])
    sides = 1 + (torch.rand(n_boxes, 3, generator=generator) * longest).long()
    boxes = []
    for first, side in zip(centers - sides // 2, sides, strict=True):
        (x, y, z), (x_end, y_end, z_end) = first.clamp_min(0).tolist(), (first + side).tolist()
        box = places[x:x_end, y:y_end, z:z_end].flatten()
        box = box[box >= 0]
        boxes.append(box[torch.randint(len(box), (_VOXELS_PER_MEAN,), generator=generator)])
    return torch.stack(boxes)
