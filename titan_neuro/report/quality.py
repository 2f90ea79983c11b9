"""What each person's recordings consist of and how good they are: from sidecars, and run by run from the stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from nibabel.affines import apply_affine

from titan_neuro.data.space import Space
from titan_neuro.data.store import RunStore
from titan_neuro.evaluation.formatting import NOT_AVAILABLE
from titan_neuro.report.numbers import count_range
from titan_neuro.report.style import MODEL_COLOR, MUTED, RULE, STYLE
from titan_neuro.typing import HIGH_MOTION_MM

QUALITY_COLUMNS = (
    "Runs",
    "Time points",
    "Scored",
    "Voxels or parcels",
    "of these constant",
    "Volumes before steady state",
    "tSNR",
    "Mean FD (mm)",
    "High motion",
)
"""Headings of the columns after the subject."""

QUALITY_NOTE = (
    "tSNR: mean over standard deviation in time, before cleaning, drifts included; median over voxels or parcels. Not "
    "given where the recording was scaled or demeaned before. FD: framewise displacement. High motion: time points "
    f"above {HIGH_MOTION_MM} mm. n/a: not known, or prepared by a version that did not record it."
)
"""What the columns mean, for a caption."""

_COUNTS = (
    *("NumberOfTimePoints", "NumberOfScoredTimePoints", "NumberOfFeatures", "NumberOfConstantFeatures"),
    "VolumesBeforeSteadyState",
)
_MEASURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("TemporalSNR", "Median", lambda value: f"{value:.3g}"),
    ("FramewiseDisplacement", "MeanMillimeters", lambda value: f"{value:.2f}"),
    ("FramewiseDisplacement", "FractionHigh", lambda value: f"{value:.1%}"),
)
_MOST_ROWS, _READ_TIME_POINTS = 240, 200
_LARGEST_Z = 3.0


class QualityRow(TypedDict):
    """A person: a cell for each of `QUALITY_COLUMNS`; of counts over several runs the smallest and the largest."""

    subject: str
    cells: list[str]


def quality_rows(prepared: Mapping[str, Mapping[str, Any]]) -> list[QualityRow]:
    """Make a row for each person.

    Parameters
    ----------
    prepared : mapping
        The JSON beside each prepared run, by the run's key.

    Returns
    -------
    list of QualityRow
        In the order of the names.
    """
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for key, sidecar in prepared.items():
        runs.setdefault(key.split("_")[0].removeprefix("sub-"), []).append(sidecar)
    return [
        QualityRow(subject=subject, cells=[str(len(of)), *quality_cells(of)]) for subject, of in sorted(runs.items())
    ]


def quality_cells(sidecars: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the cells of `QUALITY_COLUMNS` but the first, of one run or over several."""
    counts = [count_range(pd.Series([int(run[name]) for run in sidecars])) for name in _COUNTS]
    return [*counts, *(_measure_range(sidecars, *measure) for measure in _MEASURES)]


def _measure_range(sidecars: Sequence[Mapping[str, Any]], key: str, part: str, format_value: Any) -> str:
    values = sorted(float(run[key][part]) for run in sidecars if run.get(key))
    ends = dict.fromkeys(format_value(value) for value in (values[0], values[-1])) if values else {NOT_AVAILABLE: None}
    return " to ".join(ends)


def brain_coverage(space: Space) -> float | None:
    """Return the fraction of the MNI152 template's brain that lies in a run's mask.

    Parameters
    ----------
    space : Space

    Returns
    -------
    float or None
        None for surfaces and parcels, and for images that are not in an MNI space.
    """
    if space.mask is None or space.affine is None or not space.name.startswith("MNI"):
        return None
    from nilearn.datasets import load_mni152_brain_mask

    brain = load_mni152_brain_mask(resolution=2)
    points = apply_affine(brain.affine, np.argwhere(brain.get_fdata() > 0))
    voxels = np.rint(apply_affine(np.linalg.inv(space.affine), points)).astype(int)
    inside = ((voxels >= 0) & (voxels < space.mask.shape)).all(axis=1)
    return float(space.mask[tuple(voxels[inside].T)].sum() / len(points))


def carpet(run: RunStore) -> np.ndarray:
    """Read a run for its carpet plot: rows evenly spread over its voxels, vertices or parcels.

    Parameters
    ----------
    run : RunStore

    Returns
    -------
    numpy.ndarray
        float32 ``(rows, time)``, in standard deviations as models read them; at most 240 rows, in the order of the
        store.
    """
    step = -(-run.space.n_features // _MOST_ROWS)
    starts = range(0, run.n_time_points, _READ_TIME_POINTS)
    blocks = [run.series(at, min(at + _READ_TIME_POINTS, run.n_time_points))[:, ::step] for at in starts]
    series: np.ndarray = np.concatenate(blocks).astype(np.float32)
    return series.T


@matplotlib.rc_context(STYLE)
def carpet_figure(run: RunStore) -> Figure:
    """Draw a run's carpet plot below its framewise displacement, where this is known.

    Parameters
    ----------
    run : RunStore

    Returns
    -------
    matplotlib.figure.Figure
    """
    displacement, rows = run.framewise_displacement, carpet(run)
    seconds = np.arange(run.n_time_points) * run.repetition_time
    figure = Figure(figsize=(9.6, 3.0 if displacement is not None else 2.2))
    if displacement is not None:
        above, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.6))
        above.plot(seconds, displacement, color=MODEL_COLOR, linewidth=0.9)
        above.axhline(HIGH_MOTION_MM, color=MUTED, linewidth=0.8, linestyle="--")
        highest = max(2 * HIGH_MOTION_MM, 1.1 * float(np.nanmax(displacement, initial=0.0)))
        above.set(ylabel="FD (mm)", ylim=(0, highest))
        above.grid(axis="y", color=RULE, linewidth=0.6)
    else:
        axes = figure.add_subplot()
    extent = (-0.5 * run.repetition_time, seconds[-1] + 0.5 * run.repetition_time, len(rows), 0)
    image = axes.imshow(
        rows, aspect="auto", cmap="gray", vmin=-_LARGEST_Z, vmax=_LARGEST_Z, extent=extent, interpolation="nearest"
    )
    axes.set(xlabel="time (s)", ylabel=f"{len(rows)} of {run.space.n_features:,}\n{_unit(run.space)}", yticks=[])
    figure.colorbar(image, ax=axes, label="SD", shrink=0.9, ticks=(-_LARGEST_Z, 0, _LARGEST_Z), pad=0.01)
    return figure


def _unit(space: Space) -> str:
    return "parcels" if space.kind == "parcels" else "voxels" if space.mask is not None else "vertices"
