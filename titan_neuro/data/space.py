"""The space of a study: the brain mask on its grid, or the list of parcels. A model is bound to one space."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from titan_neuro.errors import ImageError, MismatchError


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """The features of a study, in the order of every array of features.

    Attributes
    ----------
    kind : {"volume", "parcels"}
    name : str
        BIDS label of the space (``MNI152NLin2009cAsym``), ``native`` for unregistered images, the atlas for parcels.
    mask : numpy.ndarray or None
        bool ``(x, y, z)``, the voxels in use; features are in C order. None for parcels.
    affine : numpy.ndarray or None
        float64 ``(4, 4)``, voxel indices to mm. None for parcels.
    parcels : tuple of str
        Names of the parcels; empty for volumes.
    """

    kind: Literal["volume", "parcels"]
    name: str
    mask: np.ndarray | None = None
    affine: np.ndarray | None = None
    parcels: tuple[str, ...] = ()

    @property
    def n_features(self) -> int:
        """Number of voxels inside the mask, or of parcels."""
        return len(self.parcels) if self.mask is None else int(self.mask.sum())

    def identity(self) -> dict[str, Any]:
        """Describe the space in JSON; a checkpoint records this, and is compared with it when loaded."""
        if self.mask is None or self.affine is None:
            names = hashlib.sha256("\0".join(self.parcels).encode()).hexdigest()
            return {"kind": self.kind, "space": self.name, "n_parcels": len(self.parcels), "parcels_sha256": names}
        return {
            "kind": self.kind,
            "space": self.name,
            "shape": list(self.mask.shape),
            "affine": np.round(self.affine, 4).tolist(),
            "n_voxels": self.n_features,
            "mask_sha256": hashlib.sha256(np.packbits(self.mask).tobytes()).hexdigest(),
        }

    def scatter(self, values: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """Put values ``(..., features)`` on the grid: float32 ``(..., x, y, z)`` with `fill` outside the mask.

        Raises
        ------
        MismatchError
            The features are parcels.
        """
        if self.mask is None:
            raise MismatchError("Parcels have no grid.", "Parcels are written as tables.")
        volume = np.full(values.shape[:-1] + self.mask.shape, fill, dtype=np.float32)
        volume[..., self.mask] = values
        return volume

    def columns_in(self, other: Space) -> np.ndarray:
        """Return the index of each of this space's features among `other`'s: int64 ``(features,)``.

        Raises
        ------
        MismatchError
            `other` lies on another grid, or lacks some of the features.
        """
        _require_same_grid(self, other)
        if self.mask is None or other.mask is None:
            return np.arange(len(self.parcels))
        if (self.mask & ~other.mask).any():
            n_missing = int((self.mask & ~other.mask).sum())
            raise MismatchError(
                f"The run's mask lacks {n_missing} of the {self.n_features} voxels of the study's mask."
            )
        indices = np.cumsum(other.mask.ravel()) - 1
        return np.asarray(indices[self.mask.ravel()])


def common_space(spaces: Mapping[str, Space]) -> Space:
    """Return the space that several runs have in common: the intersection of their masks.

    Parameters
    ----------
    spaces : mapping of str to Space
        The space of each run, by the run's name.

    Raises
    ------
    ImageError
        The runs lie on different grids, or share no voxel.
    """
    names, all_spaces = list(spaces), list(spaces.values())
    first = all_spaces[0]
    for name, space in zip(names, all_spaces, strict=True):
        try:
            _require_same_grid(first, space)
        except MismatchError as error:
            raise ImageError(
                f"{name} does not lie in the space of {names[0]}: {error.message}",
                "Prepare all runs to a standard space, with fMRIPrep's derivatives (--derivatives) or with "
                "--rough-registration; or select runs that share a grid (--participant-label, --bids-filter-file).",
            ) from error
    if first.mask is None:
        return first
    mask = np.logical_and.reduce([space.mask for space in all_spaces if space.mask is not None])
    if not mask.any():
        raise ImageError(f"The brain masks of the {len(names)} runs ({names[0]}, ...) have no voxel in common.")
    return Space(kind="volume", name=first.name, mask=mask, affine=first.affine)


def _require_same_grid(first: Space, other: Space) -> None:
    if first.kind != other.kind:
        raise MismatchError(f"expected {first.kind}, found {other.kind}.")
    if first.name != other.name:
        raise MismatchError(f"expected the space {first.name}, found {other.name}.")
    if first.mask is None or other.mask is None:
        if first.parcels != other.parcels:
            raise MismatchError(
                f"expected {len(first.parcels)} parcels ({', '.join(first.parcels[:2])}, ...), "
                f"found {len(other.parcels)} ({', '.join(other.parcels[:2])}, ...)."
            )
        return
    if first.mask.shape != other.mask.shape:
        raise MismatchError(f"expected a grid of {first.mask.shape}, found {other.mask.shape}.")
    if first.affine is not None and other.affine is not None and not np.allclose(first.affine, other.affine, atol=1e-3):
        raise MismatchError(f"expected the affine {first.affine.tolist()}, found {other.affine.tolist()}.")
