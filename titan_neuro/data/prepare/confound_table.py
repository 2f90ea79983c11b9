"""Confounds of a run under fMRIPrep's names: read from a table, or computed from motion, tissue signals and volumes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from titan_neuro.data.bids.annex import is_missing
from titan_neuro.data.prepare.compcor import compcor, cosine_drifts
from titan_neuro.data.prepare.motion import MOTION, framewise_displacement
from titan_neuro.errors import ImageError, MetadataError, NotFetchedError
from titan_neuro.files import read_json, write_json
from titan_neuro.tables import numbers, read_tsv, write_tsv

if TYPE_CHECKING:
    import pandas as pd

N_COMPONENTS = 6
"""aCompCor components of a computed table: as many as the data paper of ds003017 uses."""

_EXPANSIONS = ("derivative1", "power2", "derivative1_power2")


@dataclass(frozen=True, kw_only=True)
class ConfoundTable:
    """A table of confounds under fMRIPrep's names.

    Attributes
    ----------
    columns : pandas.DataFrame
        One row a time point; NaN where a value does not exist (a derivative at the first time point).
    metadata : dict
        The JSON beside the table, by column.
    source : str
        Where the table is from, for messages and records: a path, or how it was computed.
    """

    columns: pd.DataFrame
    metadata: dict[str, Any] = field(default_factory=dict)
    source: str


def expanded_names(*names: str) -> tuple[str, ...]:
    """Return names with those of their derivatives and of the squares of both, as fMRIPrep calls them."""
    return (*names, *(f"{name}_{expansion}" for expansion in _EXPANSIONS for name in names))


def read_confounds(path: Path) -> ConfoundTable:
    """Read fMRIPrep's table (``desc-confounds_timeseries.tsv``, formerly ``_regressors.tsv``) and the JSON beside it.

    Parameters
    ----------
    path : Path
        The TSV. Without a JSON the metadata are empty.

    Returns
    -------
    ConfoundTable

    Raises
    ------
    NotFetchedError, InputNotFoundError
        The content of either file is not on this machine; a file can't be read.
    MetadataError
        A file is damaged; the table has no header, or a cell that is neither a number nor ``n/a``.
    """
    import pandas as pd

    sidecar = path.with_suffix(".json")
    for file in (path, sidecar):
        if is_missing(file):
            raise NotFetchedError(
                f"{file}: in the dataset, but its content is not on this machine.",
                "Get it with `titan-neuro fetch`.",
            )
    table = read_tsv(path)
    metadata = read_json(sidecar, hint="Fetch the file again.") if sidecar.is_file() else {}
    names = list(table.columns)
    if any(map(_parses_as_number, names)):
        raise MetadataError(
            f"{path}: expected a header of column names, found numbers: {', '.join(names[:3])}, ...",
            "Tables of fMRIPrep before 1.2 are not supported.",
        )
    columns = pd.DataFrame({name: numbers(path, table[name]) for name in names})
    return ConfoundTable(columns=columns, metadata=metadata, source=str(path))


def _parses_as_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def write_confounds(path: Path, table: ConfoundTable) -> None:
    """Write a table as fMRIPrep does: TSV with ``n/a`` for missing values, and the JSON beside it, atomically.

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
    write_tsv(path, table.columns)


def check_rows(table: ConfoundTable, n_time_points: int) -> None:
    """Check that a table has one row for each time point of its run.

    Parameters
    ----------
    table : ConfoundTable
    n_time_points : int
        Of the run.

    Raises
    ------
    MetadataError
        The number of rows differs.
    """
    if len(table.columns) != n_time_points:
        raise MetadataError(
            f"{table.source}: expected {n_time_points} rows of confounds, one for each volume of the run, found "
            f"{len(table.columns)}.",
            "Give the table of this run, made from the same, untrimmed recording.",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ConfoundSources:
    """What confounds are computed from; None for what a run lacks.

    Attributes
    ----------
    motion : pandas.DataFrame or None
        `titan_neuro.data.prepare.motion.motion_parameters`, one row a time point.
    global_signal : numpy.ndarray or None
        ``(time,)``, mean inside the brain mask.
    csf, white_matter : numpy.ndarray or None
        ``(time, voxels)``, the volumes inside the two tissue masks (fMRIPrep's: a tissue probability above 0.99). The
        aCompCor components need both.
    """

    motion: pd.DataFrame | None = None
    global_signal: np.ndarray | None = None
    csf: np.ndarray | None = None
    white_matter: np.ndarray | None = None

    @property
    def tissues(self) -> dict[str, np.ndarray]:
        """The tissues that are there, by name."""
        named = {"csf": self.csf, "white_matter": self.white_matter}
        return {name: volumes for name, volumes in named.items() if volumes is not None}


def compute_confounds(
    sources: ConfoundSources,
    *,
    repetition_time: float,
    calibration_time_points: int | None,
    n_before_steady_state: int = 0,
    source: str,
) -> ConfoundTable:
    """Compute a table under fMRIPrep's names; what `sources` lacks makes no column.

    Columns: the six motion parameters, the means ``global_signal``, ``csf``, ``white_matter``, each with
    ``_derivative1`` (backward difference), ``_power2`` and ``_derivative1_power2``; ``csf_wm``;
    ``framewise_displacement``; ``a_comp_cor_00`` to ``05`` of CSF and white matter together; ``cosine00``, ...;
    ``non_steady_state_outlier00``, ... As in fMRIPrep, components and cosines are those of the run without the volumes
    before the steady state, where they are 0.

    The values at time point ``t`` depend on time points up to ``t`` alone, except for the components where
    `calibration_time_points` is None, and the cosines, which depend on the length of the run.

    Parameters
    ----------
    sources : ConfoundSources
    repetition_time : float
        Seconds.
    calibration_time_points : int or None
        Time points of the steady state on which the components are fitted; see `compcor`.
    n_before_steady_state : int
        First volumes, before the steady state.
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
    import pandas as pd

    for name, volumes in sources.tissues.items():
        if not volumes.shape[1]:
            raise ImageError(f"{source}: no voxel of {name} in the tissue mask.", "Check the tissue maps.")
    columns, metadata = _signals_and_motion(sources)
    if sources.csf is not None and sources.white_matter is not None:
        both = np.concatenate([sources.csf, sources.white_matter], axis=1)
        columns["csf_wm"] = both.mean(axis=1, dtype=np.float64)
        metadata["csf_wm"] = {"Method": "Mean"}
        steady = both[n_before_steady_state:]
        components, explained = compcor(steady, N_COMPONENTS, calibration_time_points, repetition_time)
        columns |= _columns("a_comp_cor_", _after_zeros(components, n_before_steady_state))
        metadata |= _components_metadata(explained, calibration_time_points)
    if columns:
        n_time_points = len(next(iter(columns.values())))
        cosines = cosine_drifts(n_time_points - n_before_steady_state, repetition_time)
        columns |= _columns("cosine", _after_zeros(cosines, n_before_steady_state))
        columns |= _columns("non_steady_state_outlier", np.eye(n_time_points)[:, :n_before_steady_state])
    return ConfoundTable(columns=pd.DataFrame(columns), metadata=metadata, source=source)


def _components_metadata(explained: np.ndarray, calibration_time_points: int | None) -> dict[str, Any]:
    return {
        f"a_comp_cor_{number:02d}": {
            "Method": "aCompCor",
            "Mask": "combined",
            "Retained": True,
            "VarianceExplained": float(fraction),
            "CumulativeVarianceExplained": float(explained[: number + 1].sum()),
            "CalibrationVolumes": calibration_time_points,
        }
        for number, fraction in enumerate(explained)
    }


def _columns(prefix: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Name the columns of ``(time, columns)`` by their number."""
    return {f"{prefix}{number:02d}": column for number, column in enumerate(values.T)}


def _after_zeros(values: np.ndarray, n_before_steady_state: int) -> np.ndarray:
    return np.pad(values, ((n_before_steady_state, 0), (0, 0)))


def _signals_and_motion(sources: ConfoundSources) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Columns and metadata of the mean signals and of head motion, with their expansions."""
    means = {name: volumes.mean(axis=1, dtype=np.float64) for name, volumes in sources.tissues.items()}
    if sources.global_signal is not None:
        means["global_signal"] = np.asarray(sources.global_signal, dtype=np.float64)
    motion = sources.motion
    parameters = {name: motion[name].to_numpy(dtype=np.float64) for name in MOTION} if motion is not None else {}
    columns = {key: value for name, mean in (means | parameters).items() for key, value in _expand(name, mean).items()}
    metadata: dict[str, Any] = {name: {"Method": "Mean"} for name in means}
    metadata |= {name: {"Units": "mm" if name.startswith("trans") else "rad"} for name in parameters}
    if motion is not None:
        columns["framewise_displacement"] = framewise_displacement(motion)
        metadata["framewise_displacement"] = {"Units": "mm"}
    return columns, metadata


def _expand(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    derivative = np.concatenate([[np.nan], np.diff(values)])
    return dict(zip(expanded_names(name), (values, derivative, values**2, derivative**2), strict=True))
