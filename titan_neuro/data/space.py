"""The space of a study: the mask on its grid, points of surfaces, or parcels. A model is bound to one space."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from titan_neuro.data.grayordinates import Grayordinates
from titan_neuro.errors import ImageError, MismatchError, list_names

# Corners of grids that are the same up to rounding lie so near to each other, in edges of a voxel.
_ROUNDING_VOXELS = 0.01
_OTHER_GRID = (
    "Prepare all runs on one grid of a standard space, into a new folder: `titan-neuro prepare ... --resolution MM`, "
    "with fMRIPrep's derivatives (--derivatives) or with --rough-registration; or select runs that share a grid "
    "(--participant-label, --bids-filter-file)."
)
_OTHER_PARCELS = (
    "Runs of one study have the parcels of one atlas, in its order; those that are n/a throughout a run may be lost. "
    "Prepare tables of one atlas, or leave the other runs out (--exclude)."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """The features of a study, in the order of every array of features.

    Attributes
    ----------
    kind : {"volume", "surface", "parcels"}
    name : str
        BIDS label of the space (``MNI152NLin2009cAsym``, ``fsLR``), ``native`` for unregistered images, the atlas for
        parcels.
    mask : numpy.ndarray or None
        Of volumes: bool ``(x, y, z)``, the voxels in use; features are in C order.
    affine : numpy.ndarray or None
        Of volumes: float64 ``(4, 4)``, voxel indices to mm.
    grayordinates : Grayordinates or None
        Of surfaces: the vertices (and voxels) in use.
    parcels : tuple of str
        Names of the parcels; empty for the other kinds.
    lost_parcels : tuple of str
        Names of those parcels of the atlas that were not recorded: outside the field of view of a run, or lost in one
        of the runs of a study.
    layout : ParcelLayout or None
        Of parcels: where they lie in the brain; None where that is not known.
    """

    kind: Literal["volume", "surface", "parcels"]
    name: str
    mask: np.ndarray | None = None
    affine: np.ndarray | None = None
    grayordinates: Grayordinates | None = None
    parcels: tuple[str, ...] = ()
    lost_parcels: tuple[str, ...] = ()
    layout: ParcelLayout | None = None

    @property
    def n_features(self) -> int:
        """Number of voxels inside the mask, of points of surfaces, or of parcels."""
        if self.grayordinates is not None:
            return len(self.grayordinates)
        return len(self.parcels) if self.mask is None else int(self.mask.sum())

    def identity(self) -> dict[str, Any]:
        """Describe the space in JSON; a checkpoint records this, and is compared with it when loaded."""
        if self.grayordinates is not None:
            return {"kind": self.kind, "space": self.name, **self.grayordinates.identity()}
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
            The features are parcels, or lie on surfaces.
        """
        if self.mask is None:
            raise MismatchError("Parcels and surfaces have no grid.", "Their maps are tables, CIFTI or GIFTI files.")
        volume = np.full(values.shape[:-1] + self.mask.shape, fill, dtype=np.float32)
        volume[..., self.mask] = values
        return volume

    def centers_mm(self) -> np.ndarray | None:
        """Return where the features lie: float64 ``(features, 3)``, in mm; None where that is not known.

        It is known of voxels, and of parcels whose layout has voxels: the mean of their centers. Points of surfaces are
        numbers of vertices; without the surface they have no place.
        """
        if self.mask is not None and self.affine is not None:
            return np.asarray(np.argwhere(self.mask) @ self.affine[:3, :3].T + self.affine[:3, 3])
        centers = None if self.layout is None else self.layout.space.centers_mm()
        if self.layout is None or centers is None:
            return None
        labels, n_parcels = self.layout.labels, len(self.layout.names)
        count = np.bincount(labels, minlength=n_parcels)
        sums = np.stack([np.bincount(labels, axis, minlength=n_parcels) for axis in centers.T], axis=1)
        numbers = [self.layout.names.index(name) for name in self.parcels]
        return np.asarray(sums[numbers] / count[numbers, None])

    def columns_in(self, other: Space) -> np.ndarray:
        """Return the index of each of this space's features among `other`'s: int64 ``(features,)``.

        Raises
        ------
        MismatchError
            `other` lies on another grid, or lacks some of the features.
        """
        _require_same_grid(self, other)
        if self.grayordinates is not None and other.grayordinates is not None:
            return _positions(self.grayordinates.codes, other.grayordinates.codes)
        if self.mask is None or other.mask is None:
            position = {name: index for index, name in enumerate(other.parcels)}
            missing = [name for name in self.parcels if name not in position]
            if missing:
                raise MismatchError(f"The run lacks the parcels {list_names(missing)} of the study.")
            return np.array([position[name] for name in self.parcels], dtype=np.int64)
        if (self.mask & ~other.mask).any():
            n_missing = int((self.mask & ~other.mask).sum())
            raise MismatchError(
                f"The run's mask lacks {n_missing} of the {self.n_features} voxels of the study's mask."
            )
        indices = np.cumsum(other.mask.ravel()) - 1
        return np.asarray(indices[self.mask.ravel()])


def common_space(spaces: Mapping[str, Space]) -> Space:
    """Return the space that several runs have in common: the intersection of their masks, or the parcels of all.

    Parameters
    ----------
    spaces : mapping of str to Space
        The space of each run, by the run's name.

    Raises
    ------
    ImageError
        The runs lie on different grids, are of different atlases, or share no voxel or parcel.
    """
    names, all_spaces = list(spaces), list(spaces.values())
    first = all_spaces[0]
    for name, space in zip(names, all_spaces, strict=True):
        try:
            _require_same_grid(first, space)
        except MismatchError as error:
            raise ImageError(
                f"{name} does not lie in the space of {names[0]}: {error.message}",
                _OTHER_PARCELS if "parcels" in (first.kind, space.kind) else _OTHER_GRID,
            ) from error
    points = [space.grayordinates for space in all_spaces if space.grayordinates is not None]
    if points:
        return Space(kind="surface", name=first.name, grayordinates=_common_points(names, points))
    if first.mask is None:
        return _common_parcels(names, all_spaces)
    mask = np.logical_and.reduce([space.mask for space in all_spaces if space.mask is not None])
    if not mask.any():
        raise ImageError(f"The brain masks of the {len(names)} runs ({names[0]}, ...) have no voxel in common.")
    return Space(kind="volume", name=first.name, mask=mask, affine=first.affine)


def _positions(codes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the index in `others` of each of `codes`; neither has duplicates."""
    order = np.argsort(others)
    found = np.minimum(np.searchsorted(others, codes, sorter=order), len(others) - 1)
    indices = np.asarray(order[found])
    n_missing = int((others[indices] != codes).sum())
    if n_missing:
        raise MismatchError(f"The run lacks {n_missing} of the {len(codes)} vertices and voxels of the study.")
    return indices


def _common_points(names: Sequence[str], points: Sequence[Grayordinates]) -> Grayordinates:
    """Return the points that several runs have in common, in the order of the first."""
    is_common = np.logical_and.reduce([np.isin(points[0].codes, other.codes) for other in points])
    if not is_common.any():
        raise ImageError(f"The {len(names)} runs ({names[0]}, ...) have no vertex and no voxel in common.")
    return points[0].select(is_common)


def _common_parcels(names: Sequence[str], spaces: Sequence[Space]) -> Space:
    """Parcels that all runs have; those of the atlas that a run lacks are lost."""
    first = spaces[0]
    shared = set(first.parcels).intersection(*(space.parcels for space in spaces))
    if not shared:
        raise ImageError(f"The {len(names)} runs ({names[0]}, ...) have no parcel in common.")
    parcels = tuple(name for name in first.parcels if name in shared)
    lost = tuple(name for name in (*first.parcels, *first.lost_parcels) if name not in shared)
    return Space(kind="parcels", name=first.name, parcels=parcels, lost_parcels=lost, layout=first.layout)


def same_affine(shape: Sequence[int], one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two affines put a grid in the same place, up to rounding.

    Headers are in single precision, rotations are stored as rounded quaternions, and some programs write few decimals.
    The corners of the grid may lie 1 % of a voxel's edge apart.

    Parameters
    ----------
    shape : sequence of 3 int
        Of the grid.
    one, other : numpy.ndarray
        ``(4, 4)``, voxel indices to mm.
    """
    corners = np.indices((2, 2, 2)).reshape(3, -1).T * np.asarray(shape) - 0.5
    distance_mm = np.linalg.norm(corners @ (one - other)[:3, :3].T + (one - other)[:3, 3], axis=1).max()
    return bool(distance_mm <= _ROUNDING_VOXELS * np.linalg.norm(one[:3, :3], axis=0).min())


def _require_same_grid(first: Space, other: Space) -> None:
    if first.kind != other.kind:
        raise MismatchError(f"expected {first.kind}, found {other.kind}.")
    if first.name != other.name:
        raise MismatchError(f"expected the space {first.name}, found {other.name}.")
    if first.grayordinates is not None and other.grayordinates is not None:
        first.grayordinates.require_same(other.grayordinates)
        return
    if first.mask is None or other.mask is None:
        _require_same_parcels(first, other)
        _require_same_layout(first.layout, other.layout)
        return
    if first.mask.shape != other.mask.shape:
        raise MismatchError(f"expected a grid of {first.mask.shape}, found {other.mask.shape}.")
    if (
        first.affine is not None
        and other.affine is not None
        and not same_affine(first.mask.shape, first.affine, other.affine)
    ):
        raise MismatchError(f"expected the affine {first.affine.tolist()}, found {other.affine.tolist()}.")


def _require_same_parcels(first: Space, other: Space) -> None:
    """Refuse a run of another atlas: of other parcels, known or lost, or of the same ones in another order."""
    known, found = {*first.parcels, *first.lost_parcels}, {*other.parcels, *other.lost_parcels}
    lacking, added = sorted(known - found), sorted(found - known)
    shared = [name for name in first.parcels if name in other.parcels]
    if known == found and shared == [name for name in other.parcels if name in first.parcels]:
        return
    parts = (lacking and f"it lacks {list_names(lacking)}", added and f"it adds {list_names(added)}")
    raise MismatchError(
        f"expected {len(first.parcels)} parcels ({', '.join(first.parcels[:2])}, ...), "
        f"found {len(other.parcels)} ({', '.join(other.parcels[:2])}, ...): "
        f"{' and '.join(part for part in parts if part) or 'the same ones in another order'}."
    )


def _require_same_layout(first: ParcelLayout | None, other: ParcelLayout | None) -> None:
    if (first is None) != (other is None):
        raise MismatchError("the parcels of one run have an atlas, those of the other have none.")
    if first is not None and other is not None and first.identity() != other.identity():
        raise MismatchError("the parcels lie elsewhere: the runs were prepared with different files of the atlas.")


@dataclass(frozen=True, kw_only=True, eq=False)
class ParcelLayout:
    """Where parcels lie in the brain.

    Attributes
    ----------
    space : Space
        Voxels or points of surfaces that belong to a parcel.
    labels : numpy.ndarray
        int32 ``(features of space,)``: the parcel of each, as its position in `names`.
    names : tuple of str
        All parcels of the atlas, also those that a study does not use.
    hemispheres : tuple of {"L", "R", ""}
        Of each parcel; empty: both, or not known.
    networks : tuple of str
        Of each parcel; empty: not known.
    """

    space: Space
    labels: np.ndarray
    names: tuple[str, ...]
    hemispheres: tuple[str, ...]
    networks: tuple[str, ...]

    def paint(self, parcels: Sequence[str], values: np.ndarray) -> np.ndarray:
        """Give each feature of `space` the value of its parcel: float64 ``(features of space,)``.

        Parameters
        ----------
        parcels : sequence of str
            Names, all among `names`.
        values : numpy.ndarray
            ``(parcels,)``. Parcels without a value are NaN.
        """
        of_parcel = dict(zip(parcels, values, strict=True))
        of_atlas = np.array([of_parcel.get(name, np.nan) for name in self.names], dtype=np.float64)
        return np.asarray(of_atlas[self.labels])

    def identity(self) -> dict[str, Any]:
        """Describe the layout in JSON, for comparison."""
        labels = hashlib.sha256(np.ascontiguousarray(self.labels, "<i4").tobytes()).hexdigest()
        return {"space": self.space.identity(), "names": self.names, "labels_sha256": labels}
