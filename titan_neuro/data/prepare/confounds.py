"""Confounds: tables read or computed, under fMRIPrep's names, and the columns that a preset takes from them."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from titan_neuro.data.bids.annex import is_missing
from titan_neuro.data.prepare.compcor import compcor, cosine_drifts
from titan_neuro.data.prepare.motion import MOTION, framewise_displacement
from titan_neuro.errors import ConfigError, ImageError, MetadataError, NotFetchedError
from titan_neuro.files import atomic, write_json

N_COMPONENTS = 6
"""aCompCor components of a computed table: as many as the data paper of ds003017 takes."""

_EXPANSIONS = ("derivative1", "power2", "derivative1_power2")
_WHOLE_RUN = re.compile(r"[actw]_comp_cor_|edge_comp_|tcompcor|aroma_motion_|std_dvars")
_AROMA_IMAGE = "desc-smoothAROMAnonaggr_bold"


def _expanded(*names: str) -> tuple[str, ...]:
    return (*names, *(f"{name}_{expansion}" for expansion in _EXPANSIONS for name in names))


_BUDAPEST = (
    *MOTION,
    *(f"{name}_derivative1" for name in MOTION),
    *("framewise_displacement", "global_signal"),
    *(f"a_comp_cor_{number:02d}" for number in range(6)),
)
_NEEDED = {
    "none": (),
    "motion24": _expanded(*MOTION),
    "simple": (*_expanded(*MOTION), "csf", "white_matter"),
    "scrubbing": (*_expanded(*MOTION), *_expanded("csf", "white_matter"), "framewise_displacement", "std_dvars"),
    "compcor": (*_expanded(*MOTION), "a_comp_cor_00"),
    "ica_aroma": ("csf", "white_matter"),
    "budapest2020": _BUDAPEST,
}
PRESETS = tuple(_NEEDED)
"""Names that `select` knows."""


@dataclass(frozen=True, kw_only=True)
class ConfoundTable:
    """A table of confounds under fMRIPrep's names.

    Attributes
    ----------
    columns : pandas.DataFrame
        One row a volume; NaN where a value does not exist (a derivative at the first volume).
    metadata : dict
        What the JSON beside the table says of its columns.
    source : str
        Where the table is from, for messages and records: a path, or how it was computed.
    """

    columns: pd.DataFrame
    metadata: dict[str, Any] = field(default_factory=dict)
    source: str


@dataclass(frozen=True, kw_only=True)
class ConfoundModel:
    """The columns that a preset regresses out; the intercept is the regression's own.

    Attributes
    ----------
    names : tuple of str
    values : numpy.ndarray
        float64 ``(n, len(names))``; 0 where the table has no value.
    whole_run : tuple of str
        Those of `names` whose earlier values depend on later volumes of the run (principal or independent components
        fitted to all of it); for ``ica_aroma`` the denoised image itself. A study that uses them is not causal, and
        says so. Cosines and Legendre polynomials are not among them: they depend on the length of the run, not on what
        was measured.
    excluded : numpy.ndarray
        bool ``(n,)``: volumes that the strategy drops (scrubbed, or before the steady state). They are fed to a model,
        and never scored.
    """

    names: tuple[str, ...]
    values: np.ndarray
    whole_run: tuple[str, ...]
    excluded: np.ndarray


def read_confounds(path: Path) -> ConfoundTable:
    """Read a table of fMRIPrep's (``desc-confounds_timeseries.tsv``, once ``_regressors.tsv``) and the JSON beside it.

    Parameters
    ----------
    path : Path
        The TSV. A JSON that is not there leaves the metadata empty.

    Returns
    -------
    ConfoundTable

    Raises
    ------
    NotFetchedError
        The content of either file is not on this machine.
    MetadataError
        A file can't be read; the table has no header, or a column that is not numbers.
    """
    beside = path.with_suffix(".json")
    for file in (path, beside):
        if is_missing(file):
            raise NotFetchedError(
                f"{file}: in the dataset, but its content is not on this machine.",
                "Get it with `titan-neuro fetch`.",
            )
    try:
        columns = pd.read_csv(path, sep="\t", na_values="n/a", float_precision="round_trip")
        metadata = dict(json.loads(beside.read_text(encoding="utf-8"))) if beside.is_file() else {}
    except (OSError, TypeError, ValueError) as error:
        raise MetadataError(f"{path}: not a readable table of confounds: {error}.", "Fetch the file again.") from error
    if any(_is_number(name) for name in columns):
        raise MetadataError(
            f"{path}: expected a header of column names, found numbers: {', '.join(columns[:3])}, ...",
            "Tables of fMRIPrep before 1.2 are not supported.",
        )
    for name in columns.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in columns.dtypes]]:
        raise MetadataError(f"{path}: expected numbers or n/a in every column, found text in {name!r}.")
    return ConfoundTable(columns=columns.astype(np.float64), metadata=metadata, source=str(path))


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def write_confounds(path: Path, table: ConfoundTable) -> None:
    """Write a table as fMRIPrep does: TSV with ``n/a`` for what is missing, and the JSON beside it, atomically.

    Parameters
    ----------
    path : Path
        The TSV.
    table : ConfoundTable

    Raises
    ------
    OutputError
        The folder can't be written.
    """
    write_json(path.with_suffix(".json"), table.metadata)
    with atomic(path) as temporary:
        table.columns.to_csv(temporary, sep="\t", na_rep="n/a", index=False)


def check_rows(table: ConfoundTable, n_time_points: int) -> None:
    """Check that a table has one row for each volume of its run.

    Raises
    ------
    MetadataError
        It has another number of rows.
    """
    if len(table.columns) != n_time_points:
        raise MetadataError(
            f"{table.source}: confounds with another number of rows: expected {n_time_points}, one for each volume of the "
            f"run, found {len(table.columns)}.",
            "Give the table of this run, made from the same, untrimmed recording.",
        )


def compute_confounds(
    motion: pd.DataFrame | None,
    global_signal: np.ndarray | None,
    csf: np.ndarray | None,
    white_matter: np.ndarray | None,
    *,
    repetition_time: float,
    calibration_time_points: int | None,
    source: str,
) -> ConfoundTable:
    """Compute a table under fMRIPrep's names from what a run has; what it has not makes no column.

    Columns: the six motion parameters, the means ``global_signal``, ``csf``, ``white_matter``, each with
    ``_derivative1`` (backward difference), ``_power2`` and ``_derivative1_power2``; ``csf_wm``;
    ``framewise_displacement``; ``a_comp_cor_00`` to ``05`` of CSF and white matter together; ``cosine00``, ... Every
    value of volume ``t`` is made from volumes up to ``t`` alone, but for the components where `calibration_time_points`
    is None. The cosines know the length of the run.

    Parameters
    ----------
    motion : pandas.DataFrame or None
        `titan_neuro.data.prepare.motion.motion_parameters`.
    global_signal : numpy.ndarray or None
        ``(n,)``, mean inside the brain mask.
    csf, white_matter : numpy.ndarray or None
        ``(n, voxels)``, the volumes inside the two tissue masks (fMRIPrep's: a tissue fraction above 0.99, away from
        grey matter). The components need both.
    repetition_time : float
        Seconds.
    calibration_time_points : int or None
        See `compcor`.
    source : str
        How the table was made, for messages and records.

    Returns
    -------
    ConfoundTable

    Raises
    ------
    ImageError
        A tissue mask is empty, or `compcor` can't be computed.
    """
    tissues = {"csf": csf, "white_matter": white_matter}
    for name, volumes in tissues.items():
        if volumes is not None and not volumes.shape[1]:
            raise ImageError(f"{source}: no voxel of {name} in the tissue mask.", "Check the tissue maps.")
    means = {name: volumes.mean(axis=1, dtype=np.float64) for name, volumes in tissues.items() if volumes is not None}
    if global_signal is not None:
        means["global_signal"] = np.asarray(global_signal, dtype=np.float64)
    parameters = {name: motion[name].to_numpy(dtype=np.float64) for name in MOTION} if motion is not None else {}
    columns = {key: value for name, mean in (means | parameters).items() for key, value in _expand(name, mean).items()}
    metadata: dict[str, Any] = {name: {"Method": "Mean"} for name in means}
    metadata |= {name: {"Units": "mm" if name.startswith("trans") else "rad"} for name in parameters}
    if motion is not None:
        columns["framewise_displacement"] = framewise_displacement(motion)
        metadata["framewise_displacement"] = {"Units": "mm"}
    if csf is not None and white_matter is not None:
        both = np.concatenate([csf, white_matter], axis=1)
        columns["csf_wm"] = both.mean(axis=1, dtype=np.float64)
        metadata["csf_wm"] = {"Method": "Mean"}
        components, explained = compcor(both, N_COMPONENTS, calibration_time_points, repetition_time)
        for number, share in enumerate(explained):
            columns[f"a_comp_cor_{number:02d}"] = components[:, number]
            metadata[f"a_comp_cor_{number:02d}"] = {
                **{"Method": "aCompCor", "Mask": "combined", "Retained": True, "VarianceExplained": float(share)},
                "CumulativeVarianceExplained": float(explained[: number + 1].sum()),
                "CalibrationFrames": calibration_time_points,
            }
    if columns:
        n_time_points = len(next(iter(columns.values())))
        cosines = cosine_drifts(n_time_points, repetition_time)
        columns |= {f"cosine{number:02d}": cosine for number, cosine in enumerate(cosines.T)}
    return ConfoundTable(columns=pd.DataFrame(columns), metadata=metadata, source=source)


def _expand(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    change = np.concatenate([[np.nan], np.diff(values)])
    return dict(zip(_expanded(name), (values, change, values**2, change**2), strict=True))


def select(table: ConfoundTable, preset: str, image: str = "") -> ConfoundModel:
    """Take from a table the columns of a preset.

    ``none``; ``motion24`` (six motion parameters, derivatives, squares of both: Friston 1996 as nilearn has it);
    ``simple``, ``scrubbing``, ``compcor``, ``ica_aroma``: the columns and dropped volumes of nilearn's
    ``load_confounds_strategy``; ``budapest2020``: the data paper's of ds003017 (Sci Data 7, 383), 23 columns with the
    regression's intercept: six motion parameters, their derivatives, framewise displacement, global signal, six
    aCompCor components, Legendre polynomials of order 1 and 2.

    Values are the table's own. nilearn's would not be causal: it takes away the mean over the run, and writes the
    second volume's derivatives into the first.

    Parameters
    ----------
    table : ConfoundTable
    preset : str
        One of `PRESETS`.
    image : str, optional
        Name of the image that the model is for. ``ica_aroma`` is defined on fMRIPrep's
        ``desc-smoothAROMAnonaggr_bold`` alone: on any other image its columns do not do what its name says.

    Returns
    -------
    ConfoundModel

    Raises
    ------
    ConfigError
        No such preset.
    MetadataError
        The table lacks columns of the preset, or has no value in one; the preset drops every volume; ``ica_aroma`` on
        an image without ICA-AROMA.
    """
    if preset not in _NEEDED:
        raise ConfigError(f"Confounds: no preset {preset!r}.", f"Choose one of {', '.join(PRESETS)}.")
    columns = table.columns
    lacking = [name for name in _NEEDED[preset] if name not in columns]
    if lacking:
        raise MetadataError(
            f"{table.source}: the confounds preset {preset} needs columns that the table lacks: {', '.join(lacking)}.",
            "Choose another preset (`none` regresses nothing out), or give a table that has them.",
        )
    excluded = np.zeros(len(columns), dtype=bool)
    names: tuple[str, ...] = _NEEDED[preset]
    if preset in ("simple", "scrubbing", "compcor", "ica_aroma"):
        if preset == "ica_aroma" and _AROMA_IMAGE not in image:
            raise MetadataError(
                f"{table.source}: the confounds preset ica_aroma is for an image {_AROMA_IMAGE}, found "
                f"{image or 'none'}.",
                "Choose another preset, or prepare the image that fMRIPrep denoised with ICA-AROMA.",
            )
        names, excluded = _nilearn_strategy(table, preset)
    chosen = columns[list(names)]
    empty = [name for name in names if len(columns) and chosen[name].isna().all()]
    if empty:
        raise MetadataError(f"{table.source}: no value in the columns {', '.join(empty)} of the preset {preset}.")
    whole_run = tuple(name for name in names if _is_of_the_whole_run(name, table.metadata))
    values = chosen.fillna(0.0).to_numpy(dtype=np.float64)
    if preset == "budapest2020":
        time = np.linspace(-1, 1, len(columns))
        names = (*names, "legendre01", "legendre02")
        values = np.column_stack([values, time, (3 * time**2 - 1) / 2])
    if preset == "ica_aroma":
        whole_run = (*whole_run, _AROMA_IMAGE)
    return ConfoundModel(names=names, values=values, whole_run=whole_run, excluded=excluded)


def _is_of_the_whole_run(name: str, metadata: dict[str, Any]) -> bool:
    entry = metadata.get(name, {})
    calibrated = isinstance(entry, dict) and entry.get("CalibrationFrames") is not None
    return bool(_WHOLE_RUN.match(name)) and not calibrated


def _nilearn_strategy(table: ConfoundTable, preset: str) -> tuple[tuple[str, ...], np.ndarray]:
    from nilearn.interfaces.fmriprep import load_confounds_strategy

    image = _AROMA_IMAGE if preset == "ica_aroma" else "desc-preproc_bold"
    with _scratch_folder() as folder:
        # nilearn finds a table by the name of an image, which need not be there.
        write_confounds(folder / "sub-x_desc-confounds_timeseries.tsv", table)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "All volumes were marked", RuntimeWarning)
                chosen, kept = load_confounds_strategy(str(folder / f"sub-x_{image}.nii.gz"), preset, demean=False)
        except (ValueError, KeyError) as error:
            raise MetadataError(
                f"{table.source}: nilearn can't make the confounds preset {preset} from it: {error}.",
                "Choose another preset, or give a table of fMRIPrep 1.4 or later with its JSON.",
            ) from error
    excluded = np.zeros(len(table.columns), dtype=bool)
    if kept is not None:
        excluded[:] = True
        excluded[kept] = False
    if excluded.all():
        raise MetadataError(
            f"{table.source}: the confounds preset {preset} drops all {len(excluded)} volumes of the run.",
            "Leave the run out, or choose a preset that drops none (`motion24`).",
        )
    return tuple(chosen.columns), excluded


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    # nilearn finds the JSON by replacing "tsv" in the whole path: a name of hexadecimal digits can't hold that.
    folder = Path(tempfile.gettempdir()) / f"confounds-{uuid.uuid4().hex}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
