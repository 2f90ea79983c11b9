"""Principal components of many features and few samples, or the other way round."""

from __future__ import annotations

import torch
from torch import Tensor

# A component whose variance is a smaller fraction of the largest is rounding error.
_ROUNDING = 1e-6


def principal_components(samples: Tensor, n_components: int) -> Tensor:
    """Directions of largest mean square of the samples, in descending order.

    Parameters
    ----------
    samples : torch.Tensor
        ``(samples, features)``; not centered here, z-scored data having their mean at 0.
    n_components : int
        The most components to return.

    Returns
    -------
    torch.Tensor
        float32 ``(components, features)``, orthonormal rows; fewer than `n_components` where the samples span no more.
    """
    wide = samples.shape[0] < samples.shape[1]
    # float32 products, since copies of 70,000 voxels in float64 would double the memory; the small matrix is exact.
    gram = (samples @ samples.T if wide else samples.T @ samples).double()
    spread, vectors = torch.linalg.eigh(gram)
    spread, vectors = spread.flip(0), vectors.flip(1)
    n_components = min(
        n_components, int((spread > _ROUNDING * spread[0].clamp_min(torch.finfo(torch.float64).tiny)).sum())
    )
    directions = vectors[:, :n_components].T.float()
    if wide:
        directions = directions @ samples
    unit_directions: Tensor = directions / directions.norm(dim=1, keepdim=True)
    return unit_directions


def orthonormal_union(*bases: Tensor) -> Tensor:
    """Orthonormal basis of the span of several sets of directions.

    Parameters
    ----------
    *bases : torch.Tensor
        Each ``(rows, features)``, rows of length 1.

    Returns
    -------
    torch.Tensor
        float32 ``(rows, features)``: orthonormal rows whose first ``n`` span the first ``n`` linearly independent rows
        of `bases`.
    """
    stacked = torch.cat(bases).double()
    rest = stacked @ stacked.T
    independent = []
    # Rows in the span of earlier rows are removed first: QR would invent a direction for each, which hides a later row.
    for row in range(len(rest)):
        if rest[row, row] > _ROUNDING:
            independent.append(row)
            rest = rest - torch.outer(rest[:, row], rest[row]) / rest[row, row]
    factor, _ = torch.linalg.qr(stacked[independent].T)
    rows: Tensor = factor.T.float().contiguous()
    return rows
