"""Volumes before the steady state: the first volumes of a run, brighter because their spins were not yet saturated.

They set neither mean, deviation, confound fit, brain mask nor components, they are stored as 0, and never scored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from titan_neuro.data.prepare.confound_table import ConfoundTable
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.errors import MetadataError

# fMRIPrep's columns, one for each such volume, and nipype's name for them.
_MARKED = re.compile(r"non_?steady_?state_?outlier_?\d+", re.IGNORECASE)
# Volumes that are examined: those of the warm-up, within these bounds. nipype examines 50.
_MIN_EXAMINED, MAX_EXAMINED = 10, 50
# A sample of voxels is enough for the median over them.
MAX_SAMPLED_VOXELS = 20_000
# Thresholds of the rule; see `count_before_steady_state`.
_MODIFIED_Z, _MIN_STEP, _MIN_LEVEL = 3.5, 2.5, 1.0


@dataclass(frozen=True)
class SteadyState:
    """Where the steady state of a run begins.

    Attributes
    ----------
    n_volumes_before : int
        Number of the first steady volume.
    rule : str
        How it was determined, in words.
    """

    n_volumes_before: int = 0
    rule: str = "none looked for"


def marked_steady_state(table: ConfoundTable | None) -> SteadyState | None:
    """Return where the steady state begins according to a table of confounds.

    All volumes up to the last one that is marked count as before the steady state.

    Parameters
    ----------
    table : ConfoundTable or None

    Returns
    -------
    SteadyState or None
        None where the table marks no volume (fMRIPrep writes a column for each such volume, and none in a steady run).

    Raises
    ------
    MetadataError
        More than half of the run is marked.
    """
    if table is None:
        return None
    names = [name for name in table.columns if _MARKED.fullmatch(str(name))]
    marked = np.flatnonzero((table.columns[names].fillna(0.0).to_numpy() > 0.5).any(axis=1))
    if not len(marked):
        return None
    n_before, n_volumes = int(marked[-1]) + 1, len(table.columns)
    if n_before > n_volumes / 2:
        raise MetadataError(
            f"{table.source}: expected {names[0]}, ... to mark the first volumes of a run, before its steady state; "
            f"found volume {n_before - 1} of {n_volumes} marked.",
            "Correct the table: 1 in the row of the volume that a column marks, 0 in all others.",
        )
    return SteadyState(n_before, f"{names[0]}, ... of the table of confounds")


def examined_length(n_warmup: int, n_time_points: int) -> int:
    """Return how many first time points are examined: those of the warm-up, within 10 and 50, at most half of the run.

    Parameters
    ----------
    n_warmup, n_time_points : int
        Of the run.
    """
    return min(max(n_warmup, _MIN_EXAMINED), MAX_EXAMINED, n_time_points // 2)


def detected_steady_state(first: np.ndarray) -> SteadyState:
    """Return where the steady state begins according to the first time points themselves.

    Parameters
    ----------
    first : numpy.ndarray
        ``(time, features)``, the first `examined_length` time points.
    """
    n_before = count_before_steady_state(first)
    return SteadyState(n_before, f"detection in the first {len(first)} time points (a step of the median feature)")


def count_before_steady_state(first: np.ndarray) -> int:
    """Count the time points before the steady state, from the first time points of a run.

    As nipype's ``NonSteadyStateDetector`` (fMRIPrep, MRIQC) it looks for a leading row of outliers by modified z-scores
    (threshold 3.5; Iglewicz and Hoaglin 1993). That rule reads 50 volumes, and takes a slow fluctuation of the global
    signal for outliers. This one reads the warm-up only, whose second half is the reference, and asks for a step:

    - each feature is scaled by the robust deviation (1.4826 times the median absolute value) of its changes from one
      time point to the next in the reference, which drifts do not inflate;
    - ``level[t]`` is the median over features of the distance from the median of the reference, and ``step[t]`` that of
      the change from ``t`` to ``t + 1``;
    - the first ``n`` time points are not steady where the levels of all of them have one sign and exceed 1 and 3.5
      robust deviations of the levels in the reference, and where the last of them ends in a step of that sign which
      exceeds 2.5 (more for few features) and 3.5 robust deviations of the steps in the reference; smaller levels that
      follow such a step without a gap are its decay, and count too.

    Started at 17,000 places inside real recordings of whole brains (most of them 200 parcels) it finds none; inside a
    small region that fluctuates as one (481 voxels) in 0.5 % of the places.

    Parameters
    ----------
    first : numpy.ndarray
        ``(time, features)``, in any units; features that are not finite or do not change are left out.

    Returns
    -------
    int
        At most half of the time points; 0 also where there are fewer than 6 of them.
    """
    first = np.asarray(first, dtype=np.float64)
    n_candidates = len(first) // 2
    if len(first) < 6:
        return 0
    first = first[:, np.isfinite(first).all(axis=0)]
    scale = _robust_deviation(np.diff(first[n_candidates:], axis=0))
    first, scale = first[:, scale > 0], scale[scale > 0]
    if not first.shape[1]:
        return 0
    levels = np.median((first - np.median(first[n_candidates:], axis=0)) / scale, axis=1)
    steps = np.median((first[:-1] - first[1:]) / scale, axis=1)
    min_level = max(_MIN_LEVEL, _MODIFIED_Z * _robust_deviation(levels[n_candidates:]))
    # The median over few features varies more.
    min_step = max(_MIN_STEP * (1 + 3 / len(scale)), _MODIFIED_Z * _robust_deviation(steps[n_candidates:]))
    sign, n_before = np.sign(levels[0]), 0
    for index in range(n_candidates):
        if sign * levels[index] <= min_level:
            break
        if sign * steps[index] > min_step or 0 < n_before == index:
            n_before = index + 1
    return n_before


def read_first_volumes(image: BoldImage, n_volumes: int) -> np.ndarray:
    """Read a sample of the voxels of the head in the first volumes.

    The head is where the mean of the volumes exceeds, in absolute value, its own mean over the field of view.

    Parameters
    ----------
    image : BoldImage
    n_volumes : int

    Returns
    -------
    numpy.ndarray
        float32 ``(n_volumes, voxels)``, at most 20,000 voxels.
    """
    # The head may fill a tenth of the field of view.
    step = max(1, int(np.prod(image.shape)) // (10 * MAX_SAMPLED_VOXELS))
    volumes = np.stack(
        [image.read(index, index + 1).reshape(-1)[::step].astype(np.float32) for index in range(n_volumes)]
    )
    volumes = volumes[:, np.isfinite(volumes).all(axis=0)]
    brightness = np.abs(volumes.mean(axis=0, dtype=np.float64))
    head = np.flatnonzero(brightness > brightness.mean()) if brightness.size else np.arange(0)
    return np.asarray(volumes[:, head[:: max(1, len(head) // MAX_SAMPLED_VOXELS)]])


def _robust_deviation(values: np.ndarray) -> np.ndarray:
    """Standard deviation about 0 from the median absolute value, over the first axis."""
    return np.asarray(1.4826 * np.median(np.abs(values), axis=0))
