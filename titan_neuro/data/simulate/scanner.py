"""The scanner: the template's volume as recorded from a moving head in a distorting field, on oblique slices.

What lies at the point ``p`` of the undistorted reference (boldref) is recorded in volume ``t`` at the voxel ::

    v = A^-1 H_t p - readout_time * fieldmap(B^-1 p) * j

with ``A`` the affine of the image, ``H_t`` the head's motion, ``B`` the rigid transform from the fieldmap's space to
boldref's, and ``j`` the second voxel axis as it is stored (phase encoding ``j-``). A `Scanner` inverts this: for each
voxel it finds ``p`` by fixed-point iteration, then the point of the T1w image, then that of the template.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from titan_neuro.data.simulate.config import SimulateConfig
from titan_neuro.data.simulate.head import Head, Lattice, Position
from titan_neuro.data.simulate.images import Grid
from titan_neuro.data.simulate.itk import interpolate, map_points

_CHAIN_SPACING_MM = 6.0
_FIRST_STEPS, _STEPS = 8, 2


@dataclass(frozen=True, kw_only=True)
class Template:
    """The template's brain on the grid of the simulated signals; one value per voxel of `mask`, in C order.

    Attributes
    ----------
    mask : numpy.ndarray
        Bool, 3D.
    affine : numpy.ndarray
        From voxels to RAS mm, ``(4, 4)``.
    baseline, regions : numpy.ndarray
        Mean intensity and region of each voxel, ``(voxels,)``.
    """

    mask: np.ndarray
    affine: np.ndarray
    baseline: np.ndarray
    regions: np.ndarray

    @property
    def grid(self) -> Grid:
        """Grid of an image of these voxels."""
        return Grid(mask=self.mask, affine=self.affine, code="mni")

    def coordinates_mm(self) -> np.ndarray:
        """World coordinates of the voxels, ``(voxels, 3)``."""
        return map_points(self.affine, np.argwhere(self.mask))

    def volume(self, values: np.ndarray) -> np.ndarray:
        """Put values ``(voxels,)`` on the grid, zero outside the brain."""
        volume = np.zeros(self.mask.shape)
        volume[self.mask] = values
        return volume


class SubjectAnatomy:
    """The template in a subject's head: maps points of the T1w image to voxel indices of the template.

    The inverse warp is computed every 6 mm, and interpolated between these nodes.

    Parameters
    ----------
    head : Head
    template : Template
    """

    def __init__(self, head: Head, template: Template) -> None:
        self.head, self.template = head, template
        self.baseline = template.volume(template.baseline)
        brain = head.t1w_from_template(template.coordinates_mm())
        margin_mm = 20 + np.linalg.norm(template.affine[:3, 0])
        low, high = brain.min(0) - margin_mm, brain.max(0) + margin_mm
        affine = np.diag([_CHAIN_SPACING_MM] * 3 + [1.0])
        affine[:3, 3] = low
        shape = tuple(int(n) for n in np.ceil((high - low) / _CHAIN_SPACING_MM) + 1)
        template_points = head.template_from_t1w(Lattice(shape=shape, affine=affine).points())
        indices = map_points(np.linalg.inv(template.affine), template_points)
        self._indices = [indices[:, axis].reshape(shape) for axis in range(3)]
        self._from_points = np.linalg.inv(affine)

    def indices(self, points: np.ndarray) -> np.ndarray:
        """Return the fractional voxel indices of the template at points of the T1w image, both ``(n, 3)``."""
        from scipy.ndimage import map_coordinates

        nodes = map_points(self._from_points, points).T
        # Beyond the last node the index of the nearest one is used: both are outside the brain.
        return np.stack([map_coordinates(axis, nodes, order=1, mode="nearest") for axis in self._indices], axis=-1)


class Scanner:
    """The scanner in one run of one subject.

    Parameters
    ----------
    config : SimulateConfig
        Amplitude of the head's motion.
    anatomy : SubjectAnatomy
        The template in the subject's head.
    position : Position
        Position and motion of the head in the run.

    Attributes
    ----------
    grid : Grid
        Grid of the image; its mask contains the recorded voxels: those near the brain. All others are zero.
    """

    def __init__(self, config: SimulateConfig, anatomy: SubjectAnatomy, position: Position) -> None:
        self._anatomy, self._head, self._position = anatomy, anatomy.head, position
        self._t1w_from_boldref = np.linalg.inv(position.boldref_from_t1w)
        lattice = self._head.bold
        self._voxels = np.indices(lattice.shape).reshape(3, -1).T.astype(float)
        points, shift = self._undistort(np.eye(4), np.zeros(len(self._voxels)), _FIRST_STEPS)
        at_rest = self._to_template(points)
        recorded = _near_brain(at_rest, anatomy.template.mask, _reach_mm(config) / config.voxel_size_mm)
        self.grid = Grid(mask=recorded.reshape(lattice.shape), affine=lattice.affine, code="scanner")
        self._voxels, self._shift, self._rest = self._voxels[recorded], shift[recorded], at_rest[recorded]

    @property
    def n_voxels(self) -> int:
        """Number of recorded voxels."""
        return len(self._voxels)

    def acquire(self, volume: int, signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Record one volume.

        Parameters
        ----------
        volume : int
            Index of the volume, from 0.
        signal : numpy.ndarray
            Relative change from the baseline, ``(voxels of the template,)``.

        Returns
        -------
        tuple of numpy.ndarray
            Recorded baseline, and the recorded signal relative to it, each ``(recorded voxels,)``.
        """
        points, _ = self._undistort(self._position.volume_from_boldref[volume], self._shift, _STEPS)
        return self._sample_template(self._to_template(points), signal)

    def at_rest(self, values: np.ndarray) -> np.ndarray:
        """Return values of the template's voxels at the recorded ones for a head at rest, weighted by intensity.

        Parameters
        ----------
        values : numpy.ndarray
            ``(voxels of the template,)``.

        Returns
        -------
        numpy.ndarray
            ``(recorded voxels,)``.
        """
        return self._sample_template(self._rest, values)[1]

    def reference(self) -> np.ndarray:
        """Return the recorded baseline of a head at rest, with distortion, ``(recorded voxels,)``."""
        return interpolate(self._anatomy.baseline, self._rest)

    def undistorted_reference(self) -> np.ndarray:
        """Return the baseline of a head at rest, without distortion, at every voxel of the image, ``(voxels,)``."""
        return interpolate(self._anatomy.baseline, self._to_template(self._head.bold.points()))

    def _sample_template(self, indices: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        intensity = interpolate(self._anatomy.baseline, indices)
        template = self._anatomy.template
        weighted = interpolate(template.volume(template.baseline * values), indices)
        return intensity, np.divide(weighted, intensity, out=np.zeros_like(weighted), where=intensity > 0)

    def _undistort(self, motion: np.ndarray, shift: np.ndarray, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the points of boldref that the voxels record, ``(voxels, 3)``, and their shifts in voxels."""
        to_boldref = np.linalg.inv(motion) @ self._head.bold.affine
        fieldmap_from_boldref = np.linalg.inv(self._position.boldref_from_fieldmap)
        along = to_boldref[:3, 1]
        distorted = map_points(to_boldref, self._voxels)
        for _ in range(n_steps):
            shift = self._head.shift(map_points(fieldmap_from_boldref, distorted - shift[:, None] * along))
        return distorted - shift[:, None] * along, shift

    def _to_template(self, boldref_points: np.ndarray) -> np.ndarray:
        return self._anatomy.indices(map_points(self._t1w_from_boldref, boldref_points))


def _reach_mm(config: SimulateConfig) -> float:
    """Return the largest displacement to expect from motion: four deviations, 100 mm from the center of rotation."""
    return 4 * (config.motion_sd_mm + config.motion_sd_degrees * np.pi / 180 * 100)


def _near_brain(indices: np.ndarray, mask: np.ndarray, reach: float) -> np.ndarray:
    """Return which template `indices`, ``(n, 3)``, are within `reach` + 1 voxels of the mask (1 for interpolation)."""
    from scipy.ndimage import binary_dilation

    margin = 1 + int(np.ceil(reach))
    near = binary_dilation(np.pad(mask, margin), iterations=margin)
    nearest = np.rint(indices).astype(int) + margin
    inside = ((nearest >= 0) & (nearest < near.shape)).all(1)
    is_near = np.zeros(len(indices), dtype=bool)
    is_near[inside] = near[tuple(nearest[inside].T)]
    return is_near
