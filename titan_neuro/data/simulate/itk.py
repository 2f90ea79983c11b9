"""ITK's transform files: text for affines, HDF5 for composites. Points are RAS in memory, and LPS in the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.files import atomic, write_text

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def map_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply an affine ``(4, 4)`` to points ``(..., 3)``."""
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])


def interpolate(volume: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Interpolate a 3D `volume` trilinearly at fractional voxel `indices`, ``(points, 3)``, as ITK.

    Over the outer half voxel the value of the edge is held; farther out it is 0.
    """
    from scipy.ndimage import map_coordinates

    values = map_coordinates(volume, indices.T, order=1, mode="nearest", prefilter=False)
    is_inside = ((indices >= -0.5) & (indices <= np.array(volume.shape) - 0.5)).all(axis=1)
    return np.where(is_inside, values, np.zeros((), dtype=values.dtype))


@dataclass(frozen=True, kw_only=True)
class DisplacementField:
    """A dense displacement field, interpolated trilinearly by `interpolate`.

    Attributes
    ----------
    vectors_mm : numpy.ndarray
        ``(x, y, z, 3)``, RAS.
    affine : numpy.ndarray
        ``(4, 4)``, from the field's voxels to RAS; without rotation or flips.
    """

    vectors_mm: np.ndarray
    affine: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map points ``(n, 3)``."""
        indices = map_points(np.linalg.inv(self.affine), points)
        shifts = [interpolate(self.vectors_mm[..., axis], indices) for axis in range(3)]
        return np.asarray(points + np.stack(shifts, axis=-1))

    def inverse(self, points: np.ndarray, n_steps: int = 10) -> np.ndarray:
        """Return the points that the field maps to `points`, ``(n, 3)``, by fixed-point iteration.

        It converges for fields whose gradients are well below 1.
        """
        sources = points
        for _ in range(n_steps):
            sources = np.asarray(sources + points - self(sources))
        return sources

    def inverted(self) -> DisplacementField:
        """Return the inverse as a field on the same grid."""
        shape = self.vectors_mm.shape[:3]
        nodes = map_points(self.affine, np.indices(shape).reshape(3, -1).T)
        vectors = (self.inverse(nodes) - nodes).reshape(*shape, 3)
        return DisplacementField(vectors_mm=vectors, affine=self.affine)


def write_affines(path: Path, matrices: Sequence[np.ndarray]) -> None:
    """Write affines ``(4, 4)`` that map RAS points as an ITK text file, one transform each."""
    lines = ["#Insight Transform File V1.0"]
    for index, matrix in enumerate(matrices):
        numbers = " ".join(f"{value:.12g}" for value in _itk_parameters(matrix))
        lines += [
            f"#Transform {index}",
            "Transform: AffineTransform_double_3_3",
            f"Parameters: {numbers}",
            "FixedParameters: 0 0 0",
        ]
    write_text(path, "\n".join(lines) + "\n")


def write_composite(path: Path, parts: Sequence[np.ndarray | DisplacementField]) -> None:
    """Write a composite transform in ITK's HDF5 format. As in ITK, the last of `parts` is applied to a point first.

    Parameters
    ----------
    path : Path
        ``.h5``.
    parts : sequence of numpy.ndarray or DisplacementField
        Affines ``(4, 4)`` that map RAS points, and displacement fields.
    """
    import h5py

    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        _text(file, "ITKVersion", "5.4.5")
        group = file.create_group("TransformGroup")
        _text(group.create_group("0"), "TransformType", "CompositeTransform_double_3_3")
        for index, part in enumerate(parts):
            entry = group.create_group(str(index + 1))
            if isinstance(part, DisplacementField):
                kind, (fixed, parameters) = "DisplacementFieldTransform", _field_parameters(part)
            else:
                kind, fixed, parameters = "AffineTransform", np.zeros(3), _itk_parameters(part)
            _text(entry, "TransformType", f"{kind}_double_3_3")
            entry.create_dataset("TransformFixedParameters", data=fixed)
            entry.create_dataset("TransformParameters", data=parameters)


def _text(group: Any, name: str, text: str) -> None:
    import h5py

    group.create_dataset(name, data=[text.encode()], dtype=h5py.string_dtype("ascii"))


def _itk_parameters(matrix: np.ndarray) -> np.ndarray:
    flipped = _LPS @ matrix @ _LPS
    return np.concatenate([flipped[:3, :3].ravel(), flipped[:3, 3]])


def _field_parameters(field: DisplacementField) -> tuple[np.ndarray, np.ndarray]:
    shape = field.vectors_mm.shape[:3]
    origin = field.affine[:3, 3] * [-1, -1, 1]
    fixed = np.concatenate([shape, origin, np.diag(field.affine)[:3], _LPS[:3, :3].ravel()])
    # ITK's order: vector components vary fastest, then x, y, z.
    vectors = np.moveaxis(field.vectors_mm * [-1, -1, 1], -1, 0)
    return fixed.astype(float), vectors.ravel(order="F")
