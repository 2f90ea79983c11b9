"""A subject's head: its shape relative to the template, its position and motion, its distortion of the field.

Transforms have the direction that resampling needs, and ANTs's names: each maps points of the space that is named last
to points of the one named first, in mm of RAS. ``t1w_from_template`` maps points of the template to points of the T1w
image, and is the content of ``from-T1w_to-MNI152NLin2009cAsym``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from titan_neuro.data.simulate.config import RandomStream, RunDesign, SimulateConfig
from titan_neuro.data.simulate.fields import smooth_fields
from titan_neuro.data.simulate.itk import DisplacementField, interpolate, map_points

TOTAL_READOUT_TIME = 0.0522511
_FIELD_SPACING_MM = 8.0
_FIELD_SHAPE = (26, 31, 27)
_FIELD_ORIGIN = (-100.0, -138.0, -96.0)
_WARP_SD_MM, _WARP_LENGTH_MM = 3.0, 40.0
_IN_PLANE_MM = 240.0
# Above the sinuses, where the field is distorted most; in mm of the template.
_SINUS_MM = np.array([0.0, 45.0, -18.0])
_SINUS_WIDTH_MM, _SINUS_SHIFT_MM, _ELSEWHERE_SHIFT_MM = 22.0, 5.0, 1.0
_FIELDMAP_SPACING_MM = 5.0
_SLOW_S, _SETTLE_S, _JUMP_EVERY_S, _JUMP_FRACTION = 20.0, 60.0, 150.0, 0.25


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """A grid of voxels: its shape and the affine from voxels to RAS mm."""

    shape: tuple[int, ...]
    affine: np.ndarray

    def points(self) -> np.ndarray:
        """Return the centers of all voxels in C order, ``(voxels, 3)``."""
        return map_points(self.affine, np.indices(self.shape).reshape(3, -1).T)


@dataclass(frozen=True, kw_only=True)
class Head:
    """The properties of a subject's head that are the same in all runs.

    Attributes
    ----------
    affine : numpy.ndarray
        From the warped template to the T1w image, ``(4, 4)``.
    warp : DisplacementField
        The non-linear part, in the template's space; applied before `affine`.
    fieldmap_from_t1w : numpy.ndarray
        Rigid transform from the T1w image to the head's position while the fieldmap is recorded, ``(4, 4)``.
    center_mm : numpy.ndarray
        Middle of the brain in the T1w image, ``(3,)``.
    t1w, bold, fieldmap : Lattice
        The grids of the anatomical image, of the recordings and of the fieldmap, each in its own space.
    fieldmap_hz : numpy.ndarray
        Values of the fieldmap, float32, of the shape of its grid.
    """

    affine: np.ndarray
    warp: DisplacementField
    fieldmap_from_t1w: np.ndarray
    center_mm: np.ndarray
    t1w: Lattice
    bold: Lattice
    fieldmap: Lattice
    fieldmap_hz: np.ndarray

    def t1w_from_template(self, points: np.ndarray) -> np.ndarray:
        """Map points of the template, ``(n, 3)``, to the T1w image."""
        return map_points(self.affine, self.warp(points))

    def template_from_t1w(self, points: np.ndarray) -> np.ndarray:
        """Map points of the T1w image, ``(n, 3)``, to the template."""
        return self.warp.inverse(map_points(np.linalg.inv(self.affine), points))

    def shift(self, points: np.ndarray) -> np.ndarray:
        """Return the distortion at `points` of the fieldmap's space: a shift in voxels along ``j``, ``(n,)``.

        The sign is that of phase encoding along ``j-``.
        """
        hz = interpolate(self.fieldmap_hz, map_points(np.linalg.inv(self.fieldmap.affine), points))
        return -TOTAL_READOUT_TIME * hz


@dataclass(frozen=True, kw_only=True)
class Position:
    """Position and motion of the head in one run: rigid transforms ``(4, 4)``, in the module's convention.

    Attributes
    ----------
    boldref_from_t1w, boldref_from_fieldmap : numpy.ndarray
        ``from-boldref_to-T1w`` and ``from-boldref_to-auto00000``.
    volume_from_boldref : numpy.ndarray
        ``from-orig_to-boldref``, ``(n_volumes, 4, 4)``.
    """

    boldref_from_t1w: np.ndarray
    boldref_from_fieldmap: np.ndarray
    volume_from_boldref: np.ndarray


def rigid(degrees: np.ndarray, shift_mm: np.ndarray, center_mm: np.ndarray) -> np.ndarray:
    """Return the transform ``(4, 4)`` that rotates about the axes through `center_mm`, x first, then shifts.

    Parameters
    ----------
    degrees, shift_mm, center_mm : numpy.ndarray
        ``(3,)`` each.
    """
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    matrix[:3, 3] = center_mm + shift_mm - matrix[:3, :3] @ center_mm
    return matrix


def draw_head(config: SimulateConfig, subject: int, brain_mm: np.ndarray) -> Head:
    """Draw a subject's head.

    Parameters
    ----------
    config : SimulateConfig
        Contains the seed and the size of the voxels.
    subject : int
        Index of the subject, from 0.
    brain_mm : numpy.ndarray
        Voxels of the template's brain, ``(voxels, 3)``.
    """
    rng = config.rng(RandomStream.HEAD, subject)
    affine = rigid(rng.normal(0, 3, 3), rng.normal(0, 4, 3), np.zeros(3))
    scale_and_shear = np.diag(1 + rng.normal(0, 0.03, 3)) + np.triu(rng.normal(0, 0.01, (3, 3)), 1)
    affine[:3, :3] = affine[:3, :3] @ scale_and_shear
    warp = _draw_warp(rng)
    brain = map_points(affine, warp(brain_mm))
    center = (brain.min(0) + brain.max(0)) / 2
    oblique = rigid(rng.normal(0, [6, 1, 1]), np.zeros(3), np.zeros(3))[:3, :3]
    t1w = _around(brain, oblique, max(2.0, 0.4 * config.voxel_size_mm))
    # As in ds003017: the first axis runs to the left, and the slices are tilted by some degrees, front down.
    tilted = rigid(rng.normal([-4, 0, 0], [4, 1, 2]), np.zeros(3), np.zeros(3))[:3, :3] @ np.diag([-1.0, 1.0, 1.0])
    scanner_from_t1w = rigid(rng.normal(0, 3, 3), rng.normal(0, 4, 3), center)
    in_scanner = map_points(scanner_from_t1w, brain)
    bold = _around(in_scanner, tilted, config.voxel_size_mm, in_plane_mm=_IN_PLANE_MM)
    fieldmap = _around(in_scanner, tilted, min(_FIELDMAP_SPACING_MM, config.voxel_size_mm), in_plane_mm=_IN_PLANE_MM)
    head = Head(
        affine=affine,
        warp=warp,
        fieldmap_from_t1w=scanner_from_t1w,
        center_mm=center,
        t1w=t1w,
        bold=bold,
        fieldmap=fieldmap,
        fieldmap_hz=np.zeros(fieldmap.shape, dtype=np.float32),
    )
    points = map_points(np.linalg.inv(scanner_from_t1w), fieldmap.points())
    shift_mm = _draw_shift_mm(rng, head.template_from_t1w(points))
    # The readout time is that of voxels of 2.5 mm, and fixes the shift in voxels per Hz. With larger voxels the field
    # is weaker, so that the shift in mm is always that of ds003017.
    head.fieldmap_hz[:] = (shift_mm / (TOTAL_READOUT_TIME * config.voxel_size_mm)).reshape(fieldmap.shape)
    return head


def draw_position(config: SimulateConfig, subject: int, run: RunDesign, head: Head) -> Position:
    """Draw the position and motion of the head in a run; the mean displacement over the run is zero.

    Parameters
    ----------
    config : SimulateConfig
        Contains the seed and the amplitude of motion.
    subject : int
        Index of the subject, from 0.
    run : RunDesign
    head : Head
    """
    rng = config.rng(RandomStream.POSITION, subject, run.run)
    center = map_points(head.fieldmap_from_t1w, head.center_mm)
    settled = rigid(rng.normal(0, 0.5, 3), rng.normal(0, 0.5, 3), center)
    steps = _motion(config.rng(RandomStream.MOTION, subject, run.run), run.n_volumes)
    degrees, shifts_mm = steps[:, :3] * config.motion_sd_degrees, steps[:, 3:] * config.motion_sd_mm
    motion = [rigid(degree, shift, center) for degree, shift in zip(degrees, shifts_mm, strict=True)]
    return Position(
        boldref_from_t1w=settled @ head.fieldmap_from_t1w,
        # The fieldmap was recorded between the runs.
        boldref_from_fieldmap=settled,
        volume_from_boldref=np.stack(motion),
    )


def _draw_warp(rng: np.random.Generator) -> DisplacementField:
    affine = np.diag([_FIELD_SPACING_MM] * 3 + [1.0])
    affine[:3, 3] = _FIELD_ORIGIN
    nodes = Lattice(shape=_FIELD_SHAPE, affine=affine).points()
    vectors = _WARP_SD_MM * smooth_fields(rng, nodes, _WARP_LENGTH_MM, 3)
    # Zero at the faces, beyond which ITK takes the field to be zero: this makes it continuous.
    for axis, n in enumerate(_FIELD_SHAPE):
        from_face = np.minimum(np.arange(n), np.arange(n)[::-1])
        ramp = np.sin(np.minimum(from_face / 3, 1) * np.pi / 2) ** 2
        vectors *= ramp[np.unravel_index(np.arange(len(nodes)), _FIELD_SHAPE)[axis]]
    return DisplacementField(vectors_mm=vectors.T.reshape(*_FIELD_SHAPE, 3), affine=affine)


def _around(points: np.ndarray, axes: np.ndarray, spacing_mm: float, in_plane_mm: float = 0.0) -> Lattice:
    """Return a grid along `axes`, centered on `points`, with 10 mm + 1 voxel of margin, at least `in_plane_mm` wide."""
    along = points @ axes
    low, high = along.min(0), along.max(0)
    extent = np.maximum(high - low + 20 + 2 * spacing_mm, [in_plane_mm, in_plane_mm, 0])
    shape = np.ceil(np.round(extent / spacing_mm, 6)).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing_mm
    affine[:3, 3] = axes @ ((low + high) / 2 - spacing_mm * (shape - 1) / 2)
    # Rounded as in a NIfTI header.
    return Lattice(shape=tuple(int(n) for n in shape), affine=affine.astype(np.float32).astype(float))


def _draw_shift_mm(rng: np.random.Generator, template_mm: np.ndarray) -> np.ndarray:
    """Draw the shift in mm that a head's susceptibility causes at points of the template, ``(points,)``."""
    distance2 = ((template_mm - _SINUS_MM) ** 2).sum(1)
    at_the_sinuses = _SINUS_SHIFT_MM * np.exp(-distance2 / (2 * _SINUS_WIDTH_MM**2))
    elsewhere = _ELSEWHERE_SHIFT_MM * smooth_fields(rng, template_mm, _WARP_LENGTH_MM, 1)[0]
    return np.asarray(at_the_sinuses + elsewhere)


def _motion(rng: np.random.Generator, n_volumes: int) -> np.ndarray:
    """Draw six motion parameters of standard deviation 1 in expectation, ``(n_volumes, 6)``: slow drift and rare jumps.

    Three quarters of the variance are noise filtered twice (AR(1), 20 s). The rest are jumps, on average one in 150 s,
    after which the head returns with a time constant of 60 s.
    """
    from scipy.signal import lfilter

    before = int(10 * _SETTLE_S)
    slow, settle = np.exp(-1 / _SLOW_S), np.exp(-1 / _SETTLE_S)
    noise = rng.standard_normal((before + n_volumes, 6))
    walk = lfilter([1], np.convolve([1, -slow], [1, -slow]), noise, axis=0)
    walk *= np.sqrt((1 - _JUMP_FRACTION) * (1 - slow**2) ** 3 / (1 + slow**2))
    jumps = rng.standard_normal((before + n_volumes, 6)) * (rng.random((before + n_volumes, 1)) < 1 / _JUMP_EVERY_S)
    jumps = lfilter([1], [1, -settle], jumps, axis=0)
    jumps *= np.sqrt(_JUMP_FRACTION * (1 - settle**2) * _JUMP_EVERY_S)
    parameters: np.ndarray = (walk + jumps)[before:]
    return np.asarray(parameters - parameters.mean(0))
