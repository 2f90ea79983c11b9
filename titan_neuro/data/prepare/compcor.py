"""aCompCor: what is common to the voxels of white matter and CSF, as fMRIPrep defines it and in a causal form."""

from __future__ import annotations

import numpy as np

from titan_neuro.data.prepare.temporal import CausalHighPass
from titan_neuro.errors import ImageError

_HIGH_PASS_HZ = 1 / 128
_BLOCK = 64


def compcor(
    volumes: np.ndarray, n_components: int, calibration_time_points: int | None, repetition_time: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the principal components of the signal in a noise mask (Behzadi et al., NeuroImage 37, 2007).

    Each voxel is high-passed at 1/128 Hz, centered and scaled to unit variance; a component is a left singular vector
    of what is left, of unit length. Its sign is the one that makes its largest spatial weight positive.

    With `calibration_time_points` the definition is made causal: the high-pass is `CausalHighPass`; centers, scales and
    spatial weights are of the first `calibration_time_points` volumes; the components of later volumes are projections
    on those weights. During the calibration they are not known yet, and 0. Without it the components are fMRIPrep's: of
    the whole run, cosine drifts regressed out, so that **every value depends on all volumes**.

    Parameters
    ----------
    volumes : numpy.ndarray
        ``(time, voxels)`` inside the mask, in the units of the scanner.
    n_components : int
        Above 0; fewer than the volumes they are fitted to, no more than the voxels that vary.
    calibration_time_points : int or None
        Length of the calibration; None for the whole run.
    repetition_time : float
        Seconds.

    Returns
    -------
    components : numpy.ndarray
        float64 ``(time, n_components)``.
    variance_explained : numpy.ndarray
        float64 ``(n_components,)``, shares of the variance that the components are fitted to, in falling order.

    Raises
    ------
    ImageError
        The run is not longer than the calibration, or the mask holds fewer components.
    """
    n_fitted = len(volumes) if calibration_time_points is None else calibration_time_points
    if calibration_time_points is not None and calibration_time_points >= len(volumes):
        raise ImageError(
            f"aCompCor: expected a run longer than the {calibration_time_points} volumes of its calibration, found "
            f"{len(volumes)} volumes.",
            "Shorten the calibration.",
        )
    volumes = volumes[:, (volumes[:n_fitted] != volumes[0]).any(axis=0)]
    high_pass = CausalHighPass(volumes.shape[1], _HIGH_PASS_HZ, repetition_time)
    fitted = (
        _without_drifts(volumes, repetition_time) if calibration_time_points is None else high_pass(volumes[:n_fitted])
    )
    center, scale = fitted.mean(axis=0), fitted.std(axis=0)
    fitted = (fitted - center) / scale
    variance, vectors = np.linalg.eigh(fitted @ fitted.T)
    if (variance > 1e-9 * variance[-1]).sum() < n_components:
        raise ImageError(
            f"aCompCor: expected at least {n_components} components in the noise mask, found {volumes.shape[1]} voxels "
            f"that vary over {n_fitted} volumes.",
            "Check the tissue maps, or choose a preset without aCompCor.",
        )
    explained = variance[::-1][:n_components] / variance.sum()
    length, vectors = np.sqrt(variance[::-1][:n_components]), vectors[:, ::-1][:, :n_components]
    weights = fitted.T @ vectors / length
    signs = np.sign(weights[np.abs(weights).argmax(axis=0), np.arange(n_components)])
    if calibration_time_points is None:
        return vectors * signs, explained
    components = np.zeros((len(volumes), n_components))
    for start in range(n_fitted, len(volumes), _BLOCK):
        block = (high_pass(volumes[start : start + _BLOCK]) - center) / scale
        components[start : start + _BLOCK] = block @ weights * (signs / length)
    return components, explained


def cosine_drifts(n_time_points: int, repetition_time: float) -> np.ndarray:
    """Return the orthonormal cosines that are slower than 1/128 Hz: the ``cosineXX`` of fMRIPrep.

    They are the first terms of a discrete cosine transform, the constant left out: of a run they know its length alone.

    Parameters
    ----------
    n_time_points : int
    repetition_time : float
        Seconds.

    Returns
    -------
    numpy.ndarray
        float64 ``(n_time_points, order)``.
    """
    order = min(n_time_points - 1, int(2 * n_time_points * _HIGH_PASS_HZ * repetition_time))
    angles = np.pi / n_time_points * (np.arange(n_time_points) + 0.5)[:, None] * np.arange(1, order + 1)
    return np.asarray(np.sqrt(2 / n_time_points) * np.cos(angles))


def _without_drifts(volumes: np.ndarray, repetition_time: float) -> np.ndarray:
    cosines = cosine_drifts(len(volumes), repetition_time)
    centered = volumes - volumes.mean(axis=0, dtype=np.float64)
    return np.asarray(centered - cosines @ (cosines.T @ centered))
