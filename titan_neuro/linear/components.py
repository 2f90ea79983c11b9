"""Principal components of many features and few samples, or the other way round."""

from __future__ import annotations

import torch
from torch import Tensor

# A component whose variance is a smaller share of the largest is rounding.
_ROUNDING = 1e-6


def principal_components(samples: Tensor, n_components: int) -> Tensor:
    """Directions along which samples spread most about 0, the strongest first.

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
    kept = min(n_components, int((spread > _ROUNDING * spread[0].clamp_min(torch.finfo(torch.float64).tiny)).sum()))
    found = vectors[:, :kept].T.float()
    if wide:
        found = found @ samples
    unit: Tensor = found / found.norm(dim=1, keepdim=True)
    return unit


def orthonormal_union(*bases: Tensor) -> Tensor:
    """Orthonormal rows that span the rows of all `bases`, each ``(rows, features)`` of length 1, in their order."""
    stacked = torch.cat(bases).double()
    rest = stacked @ stacked.T
    kept = []
    # Rows that those before them span go first: the direction that QR would make up for one hides a later row.
    for row in range(len(rest)):
        if rest[row, row] > _ROUNDING:
            kept.append(row)
            rest = rest - torch.outer(rest[:, row], rest[row]) / rest[row, row]
    factor, _ = torch.linalg.qr(stacked[kept].T)
    rows: Tensor = factor.T.float().contiguous()
    return rows
