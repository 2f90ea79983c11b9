"""Grayordinates: points of cortical surfaces, and voxels of subcortical structures, in the order of features."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from titan_neuro.errors import MismatchError

if TYPE_CHECKING:
    from nibabel.cifti2 import BrainModelAxis

CORTEX = {"L": "CIFTI_STRUCTURE_CORTEX_LEFT", "R": "CIFTI_STRUCTURE_CORTEX_RIGHT"}
"""Name of the cortex of each hemisphere, by the label of BIDS's entity ``hemi``."""

# A structure and a position within it as one number; no surface or grid has as many points.
_MAX_POSITIONS = 2**40


@dataclass(frozen=True, kw_only=True)
class Structure:
    """A structure of the brain.

    Attributes
    ----------
    name : str
        As CIFTI names it: ``CIFTI_STRUCTURE_CORTEX_LEFT``.
    n_vertices : int or None
        Vertices of its whole surface; None for a structure of voxels.
    """

    name: str
    n_vertices: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Grayordinates:
    """The features of a study on surfaces; the medial wall is not among them.

    Attributes
    ----------
    form : {"cifti", "gifti"}
        Files that the recordings came in, and in which maps are written.
    structures : tuple of Structure
    points : numpy.ndarray
        int64 ``(features, 2)``: number of the structure, and the vertex, or the voxel's position on the grid (C order).
    shape : tuple of 3 int or None
        Of the grid of voxels; None where there are only vertices.
    affine : numpy.ndarray or None
        float64 ``(4, 4)``, voxel indices to mm; None where there are only vertices.
    """

    form: Literal["cifti", "gifti"]
    structures: tuple[Structure, ...]
    points: np.ndarray
    shape: tuple[int, ...] | None = None
    affine: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self.points)

    @property
    def codes(self) -> np.ndarray:
        """One number for each feature, equal where structure and position are equal: int64 ``(features,)``."""
        return np.asarray(self.points[:, 0] * _MAX_POSITIONS + self.points[:, 1])

    def select(self, features: np.ndarray) -> Grayordinates:
        """Return some of the features, given by their indices or as bool ``(features,)``."""
        return replace(self, points=self.points[features])

    def vertices(self, structure: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the vertices of a structure that are features, and the indices of these: int64 each.

        Parameters
        ----------
        structure : str
            Its name; both arrays are empty if it is not among the structures.
        """
        numbers = [number for number, other in enumerate(self.structures) if other.name == structure]
        features = np.flatnonzero(np.isin(self.points[:, 0], numbers))
        return self.points[features, 1], features

    def require_same(self, other: Grayordinates) -> None:
        """Check that `other` has the same structures, and the same grid, whichever of their points are features.

        Raises
        ------
        MismatchError
            It has not.
        """
        if self.structures != other.structures:
            raise MismatchError(f"expected {_in_words(self)}, found {_in_words(other)}.")
        if self.shape != other.shape:
            raise MismatchError(f"expected a grid of voxels of {self.shape}, found {other.shape}.")
        if self.affine is not None and other.affine is not None and not np.allclose(self.affine, other.affine, 0, 1e-3):
            raise MismatchError(
                f"expected the affine {self.affine.tolist()} of the voxels, found {other.affine.tolist()}."
            )

    def identity(self) -> dict[str, Any]:
        """Describe the features in JSON, for the record of a model."""
        return {
            "structures": [[structure.name, structure.n_vertices] for structure in self.structures],
            "n_features": len(self),
            "points_sha256": hashlib.sha256(np.ascontiguousarray(self.points, "<i8").tobytes()).hexdigest(),
        }


def whole_surfaces(n_vertices: Mapping[str, int]) -> Grayordinates:
    """Return all vertices of the cortex, in the order of the hemispheres in `n_vertices` (``L``, ``R``)."""
    points = [
        np.column_stack([np.full(size, number), np.arange(size)]) for number, size in enumerate(n_vertices.values())
    ]
    return Grayordinates(
        form="gifti",
        structures=tuple(Structure(name=CORTEX[side], n_vertices=size) for side, size in n_vertices.items()),
        points=np.concatenate(points).astype(np.int64),
    )


def from_axis(axis: BrainModelAxis, form: Literal["cifti", "gifti"] = "cifti") -> Grayordinates:
    """Return the grayordinates of CIFTI's axis of brain models, in the same order."""
    names = list(dict.fromkeys(map(str, axis.name)))
    numbers = {name: number for number, name in enumerate(names)}
    structure = np.array([numbers[str(name)] for name in axis.name], dtype=np.int64)
    position = np.asarray(axis.vertex, dtype=np.int64).copy()
    is_voxel = ~axis.surface_mask
    if is_voxel.any():
        position[is_voxel] = np.ravel_multi_index(tuple(axis.voxel[is_voxel].T), axis.volume_shape)
    return Grayordinates(
        form=form,
        structures=tuple(Structure(name=name, n_vertices=axis.nvertices.get(name)) for name in names),
        points=np.column_stack([structure, position]),
        shape=tuple(map(int, axis.volume_shape)) if is_voxel.any() else None,
        affine=np.asarray(axis.affine, dtype=np.float64) if is_voxel.any() else None,
    )


def to_axis(grayordinates: Grayordinates) -> BrainModelAxis:
    """Return CIFTI's axis of brain models for grayordinates; :func:`from_axis` is its inverse."""
    from nibabel.cifti2 import BrainModelAxis

    structures = grayordinates.structures
    voxel, vertex = split_points(grayordinates, np.arange(len(grayordinates)))
    return BrainModelAxis(
        name=np.array([structures[number].name for number in grayordinates.points[:, 0]], dtype="U"),
        voxel=voxel,
        vertex=vertex,
        affine=grayordinates.affine,
        volume_shape=grayordinates.shape,
        nvertices={structure.name: structure.n_vertices for structure in structures if structure.n_vertices},
    )


def split_points(grayordinates: Grayordinates, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return voxel indices ``(features, 3)`` and vertices ``(features,)`` of some features; -1 where it is the other.

    Parameters
    ----------
    grayordinates : Grayordinates
    features : numpy.ndarray
        Indices.
    """
    points = grayordinates.points[features]
    on_surface = np.array([structure.n_vertices is not None for structure in grayordinates.structures])[points[:, 0]]
    vertex = np.where(on_surface, points[:, 1], -1)
    voxel = np.full((len(points), 3), -1, dtype=np.int64)
    if grayordinates.shape is not None:
        voxel[~on_surface] = np.column_stack(np.unravel_index(points[~on_surface, 1], grayordinates.shape))
    return voxel, vertex


def _in_words(grayordinates: Grayordinates) -> str:
    surfaces = [structure for structure in grayordinates.structures if structure.n_vertices]
    parts = [f"{structure.name} of {structure.n_vertices} vertices" for structure in surfaces]
    if n_others := len(grayordinates.structures) - len(surfaces):
        parts.append(f"{n_others} structures of voxels")
    return ", ".join(parts)
