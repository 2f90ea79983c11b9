"""aCompCor: principal components of the voxels of white matter and CSF, as in fMRIPrep and in a causal form."""

from __future__ import annotations

import numpy as np

from titan_neuro.data.prepare.high_pass import CausalHighPass
from titan_neuro.errors import ImageError

_HIGH_PASS_HZ = 1 / 128
_BLOCK_LENGTH = 64


def compcor(
    volumes: np.ndarray, n_components: int, calibration_time_points: int | None, repetition_time: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the principal components of the signal in a noise mask (Behzadi et al., NeuroImage 37, 2007).

    Each voxel is high-passed at 1/128 Hz, centered and scaled to unit variance; the components are the left singular
    vectors of the result, of unit length. The sign makes the largest spatial weight of a component positive.

    With `calibration_time_points` the components are causal: the high-pass is `CausalHighPass`; means, standard
    deviations and spatial weights are estimated on the first `calibration_time_points` volumes; later volumes are
    projected on those weights. During the calibration the components are 0. Without it they are fMRIPrep's: fitted to
    the whole run, after cosine drifts were regressed out, so that **every value depends on all volumes**.

    Parameters
    ----------
    volumes : numpy.ndarray
        ``(time, voxels)`` inside the noise mask, in any units.
    n_components : int
        Above 0; fewer than the volumes that they are fitted to, and at most the number of voxels that vary.
    calibration_time_points : int or None
        Length of the calibration; None for the whole run.
    repetition_time : float
        Seconds.

    Returns
    -------
    components : numpy.ndarray
        float64 ``(time, n_components)``.
    variance_explained : numpy.ndarray
        float64 ``(n_components,)``, fractions of the variance in the volumes that the components are fitted to,
        descending.

    Raises
    ------
    ImageError
        The run is not longer than the calibration, or the noise mask has fewer components.
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
        _remove_drifts(volumes, repetition_time) if calibration_time_points is None else high_pass(volumes[:n_fitted])
    )
    center, scale = fitted.mean(axis=0), fitted.std(axis=0)
    vectors, weights, lengths, explained = _principal_components((fitted - center) / scale, n_components)
    signs = np.sign(weights[np.abs(weights).argmax(axis=0), np.arange(n_components)])
    if calibration_time_points is None:
        return vectors * signs, explained
    components = np.zeros((len(volumes), n_components))
    for start in range(n_fitted, len(volumes), _BLOCK_LENGTH):
        block = (high_pass(volumes[start : start + _BLOCK_LENGTH]) - center) / scale
        components[start : start + _BLOCK_LENGTH] = block @ weights * (signs / lengths)
    return components, explained


def _principal_components(
    standardized: np.ndarray, n_components: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """First components of ``(time, voxels)``: ``(time, n)``, voxel weights, singular values, fractions of variance."""
    variance, vectors = np.linalg.eigh(standardized @ standardized.T)
    if (variance > 1e-9 * variance[-1]).sum() < n_components:
        n_volumes, n_voxels = standardized.shape
        raise ImageError(
            f"aCompCor: expected at least {n_components} components in the noise mask, found {n_voxels} voxels that "
            f"vary over {n_volumes} volumes.",
            "Check the tissue maps, or choose a preset without aCompCor.",
        )
    explained = variance[::-1][:n_components] / variance.sum()
    lengths, vectors = np.sqrt(variance[::-1][:n_components]), vectors[:, ::-1][:, :n_components]
    return vectors, standardized.T @ vectors / lengths, lengths, explained


def cosine_drifts(n_time_points: int, repetition_time: float) -> np.ndarray:
    """Return the orthonormal cosines slower than 1/128 Hz: the ``cosineXX`` of fMRIPrep, as many as it has.

    They are the first terms of a discrete cosine transform without the constant, and depend only on the length of a
    run. Their number is nipype's (``nipype.algorithms.confounds``, which fMRIPrep calls): the integer part of
    ``2 * length / 128 s`` counts the constant. nilearn does not count it, and has one cosine more.

    Parameters
    ----------
    n_time_points : int
    repetition_time : float
        Seconds.

    Returns
    -------
    numpy.ndarray
        float64 ``(n_time_points, cosines)``.
    """
    # The products in this order: at other roundings a length may have one cosine more or less than in fMRIPrep.
    n_terms = int(2 * n_time_points * _HIGH_PASS_HZ * repetition_time)
    n_cosines = min(n_time_points, max(n_terms, 1)) - 1
    angles = np.pi / n_time_points * (np.arange(n_time_points) + 0.5)[:, None] * np.arange(1, n_cosines + 1)
    return np.asarray(np.sqrt(2 / n_time_points) * np.cos(angles))


def _remove_drifts(volumes: np.ndarray, repetition_time: float) -> np.ndarray:
    cosines = cosine_drifts(len(volumes), repetition_time)
    centered = volumes - volumes.mean(axis=0, dtype=np.float64)
    return np.asarray(centered - cosines @ (cosines.T @ centered))
