"""Which confounds a preset regresses out."""

from __future__ import annotations

import re
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.prepare.confound_table import ConfoundTable, expanded_names, write_confounds
from titan_neuro.data.prepare.motion import MOTION
from titan_neuro.errors import ConfigError, MetadataError

_WHOLE_RUN = re.compile(r"[actw]_comp_cor_|edge_comp_|tcompcor|aroma_motion_|std_dvars")
_AROMA_IMAGE = "desc-smoothAROMAnonaggr_bold"
_NILEARN_STRATEGIES = ("simple", "scrubbing", "compcor", "ica_aroma")
_BUDAPEST = (
    *MOTION,
    *(f"{name}_derivative1" for name in MOTION),
    *("framewise_displacement", "global_signal"),
    *(f"a_comp_cor_{number:02d}" for number in range(6)),
)
# Columns that compare a volume with the one before it.
_DIFFERENCES = re.compile(r".*_derivative1(_power2)?|framewise_displacement|(std_)?dvars")
_REQUIRED_COLUMNS = {
    "none": (),
    "motion24": expanded_names(*MOTION),
    "simple": (*expanded_names(*MOTION), "csf", "white_matter"),
    "scrubbing": (
        *expanded_names(*MOTION),
        *expanded_names("csf", "white_matter"),
        *("framewise_displacement", "std_dvars"),
    ),
    "compcor": (*expanded_names(*MOTION), "a_comp_cor_00"),
    "ica_aroma": ("csf", "white_matter"),
    "budapest2020": _BUDAPEST,
}
PRESETS = tuple(_REQUIRED_COLUMNS)
"""Names of the presets."""


@dataclass(frozen=True, kw_only=True)
class ConfoundModel:
    """The confounds that are regressed out; the intercept is added by the regression.

    Attributes
    ----------
    names : tuple of str
    values : numpy.ndarray
        float64 ``(time, len(names))``; 0 where the table has no value.
    whole_run : tuple of str
        Those of `names` whose values depend on later time points (principal or independent components that were fitted
        to the whole run); for ``ica_aroma`` also the denoised image itself. A study that uses them is not causal, and
        every table says so. Cosines and Legendre polynomials are not among them: they depend on the length of the run,
        not on the measured data.
    excluded : numpy.ndarray
        bool ``(time,)``: time points that the strategy censors (scrubbed, or before the steady state). A model receives
        them as input; they are never scored.
    """

    names: tuple[str, ...]
    values: np.ndarray
    whole_run: tuple[str, ...]
    excluded: np.ndarray


def no_confounds(n_time_points: int) -> ConfoundModel:
    """Return the model of the preset ``none``: without a column."""
    return ConfoundModel(
        names=(),
        values=np.zeros((n_time_points, 0)),
        whole_run=(),
        excluded=np.zeros(n_time_points, dtype=bool),
    )


def select_confounds(
    table: ConfoundTable, preset: str, image: str = "", n_before_steady_state: int = 0
) -> ConfoundModel:
    """Select the columns of a preset from a table.

    ``none``; ``motion24`` (six motion parameters, derivatives, squares of both: Friston 1996, as in nilearn);
    ``simple``, ``scrubbing``, ``compcor``, ``ica_aroma``: the columns and censored volumes of nilearn's
    ``load_confounds_strategy``; ``budapest2020``: those of the data paper of ds003017 (Sci Data 7, 383), 23 columns
    with the intercept: six motion parameters, their derivatives, framewise displacement, global signal, six aCompCor
    components, Legendre polynomials of order 1 and 2.

    The values are the table's. nilearn's would not be causal: it subtracts the mean over the run, and fills the missing
    derivatives of the first volume with those of the second.

    Parameters
    ----------
    table : ConfoundTable
    preset : str
        One of `PRESETS`.
    image : str, optional
        Name of the image that is cleaned. ``ica_aroma`` is defined for fMRIPrep's ``desc-smoothAROMAnonaggr_bold``
        only.
    n_before_steady_state : int
        First volumes, before the steady state. What compares the first steady volume with the last of them (a
        derivative, framewise displacement) is 0 there, as at the first volume of a run.

    Returns
    -------
    ConfoundModel

    Raises
    ------
    ConfigError
        There is no such preset.
    MetadataError
        The table lacks columns of the preset, or has no value in one; the preset censors every volume; ``ica_aroma`` on
        an image without ICA-AROMA.
    """
    _check_preset(table, preset, image)
    excluded = np.zeros(len(table.columns), dtype=bool)
    names: tuple[str, ...] = _REQUIRED_COLUMNS[preset]
    if preset in _NILEARN_STRATEGIES:
        names, excluded = _nilearn_strategy(table, preset)
    columns = table.columns[list(names)]
    empty = [name for name in names if len(columns) and columns[name].isna().all()]
    if empty:
        raise MetadataError(f"{table.source}: no value in the columns {', '.join(empty)} of the preset {preset}.")
    whole_run = tuple(name for name in names if _is_fitted_to_whole_run(name, table.metadata))
    values = columns.fillna(0.0).to_numpy(dtype=np.float64, copy=True)
    if n_before_steady_state:
        values[n_before_steady_state, [bool(_DIFFERENCES.fullmatch(name)) for name in names]] = 0
    if preset == "budapest2020":
        time = np.linspace(-1, 1, len(columns))
        names = (*names, "legendre01", "legendre02")
        values = np.column_stack([values, time, (3 * time**2 - 1) / 2])
    if preset == "ica_aroma":
        whole_run = (*whole_run, _AROMA_IMAGE)
    return ConfoundModel(names=names, values=values, whole_run=whole_run, excluded=excluded)


def _check_preset(table: ConfoundTable, preset: str, image: str) -> None:
    if preset not in _REQUIRED_COLUMNS:
        raise ConfigError(f"Confounds: no preset {preset!r}.", f"Choose one of {', '.join(PRESETS)}.")
    lacking = [name for name in _REQUIRED_COLUMNS[preset] if name not in table.columns]
    if lacking:
        raise MetadataError(
            f"{table.source}: the confounds preset {preset} needs columns that the table lacks: {', '.join(lacking)}.",
            "Choose another preset (`none` regresses nothing out), or give a table that has them.",
        )
    if preset == "ica_aroma" and _AROMA_IMAGE not in image:
        raise MetadataError(
            f"{table.source}: the confounds preset ica_aroma is for an image {_AROMA_IMAGE}, found {image or 'none'}.",
            "Choose another preset, or prepare the image that fMRIPrep denoised with ICA-AROMA.",
        )


def _is_fitted_to_whole_run(name: str, metadata: dict[str, Any]) -> bool:
    entry = metadata.get(name, {})
    is_calibrated = isinstance(entry, dict) and entry.get("CalibrationVolumes") is not None
    return bool(_WHOLE_RUN.match(name)) and not is_calibrated


def _nilearn_strategy(table: ConfoundTable, preset: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the columns, and censored volumes, bool ``(time,)``."""
    from nilearn.interfaces.fmriprep import load_confounds_strategy

    image = _AROMA_IMAGE if preset == "ica_aroma" else "desc-preproc_bold"
    with _temporary_folder() as folder:
        # nilearn finds a table by the name of its image, which need not exist.
        write_confounds(folder / "sub-x_desc-confounds_timeseries.tsv", table)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "All volumes were marked", RuntimeWarning)
                columns, sample_mask = load_confounds_strategy(
                    str(folder / f"sub-x_{image}.nii.gz"), preset, demean=False
                )
        except (ValueError, KeyError) as error:
            raise MetadataError(
                f"{table.source}: nilearn can't make the confounds preset {preset} from it: {error}.",
                "Choose another preset, or give a table of fMRIPrep 1.4 or later with its JSON.",
            ) from error
    excluded = np.zeros(len(table.columns), dtype=bool)
    if sample_mask is not None:
        excluded[:] = True
        excluded[sample_mask] = False
    if excluded.all():
        raise MetadataError(
            f"{table.source}: the confounds preset {preset} censors all {len(excluded)} volumes of the run.",
            "Exclude the run, or choose a preset that censors none (`motion24`).",
        )
    return tuple(columns.columns), excluded


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    # nilearn replaces "tsv" in the whole path to find the JSON: a name of hexadecimal digits can't contain that.
    folder = Path(tempfile.gettempdir()) / f"confounds-{uuid.uuid4().hex}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
