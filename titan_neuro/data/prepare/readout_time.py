"""The total readout time of a recording, from whatever its sidecar gives, in the order of sdcflows (``get_trt``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from titan_neuro.data.prepare.sidecar_values import is_finite_number
from titan_neuro.errors import MetadataError

# The frequency of water relative to that of fat, in Hz: for each MHz of imaging frequency, for each tesla. As sdcflows.
_FAT_SHIFT_HZ = {"ImagingFrequency": 3.39941, "MagneticFieldStrength": 144.7383333}
# What dcm2niix estimates where a vendor's files do not give it; sdcflows ignores them unless told otherwise.
_ESTIMATES = ("EstimatedTotalReadoutTime", "EstimatedEffectiveEchoSpacing")
READOUT_KEYS = (
    "TotalReadoutTime",
    "EffectiveEchoSpacing",
    "ReconMatrixPE",
    "EchoSpacing",
    "ParallelReductionFactorInPlane",
    "WaterFatShift",
    "EPIFactor",
    "ImagingFrequency",
    "MagneticFieldStrength",
)
"""Keys of a sidecar on which the readout time depends."""


@dataclass(frozen=True, kw_only=True)
class ReadoutTime:
    """Total readout time, and where it is from.

    Attributes
    ----------
    seconds : float
    source : str
        In words, for messages and for the store's record.
    """

    seconds: float
    source: str


def total_readout_time(sidecar: Mapping[str, Any], n_voxels: int, path: Path) -> ReadoutTime:
    """Return the total readout time of a recording.

    The first that the sidecar gives, with ``N`` for ``ReconMatrixPE`` or else the voxels along the phase-encoding axis:

    1. ``TotalReadoutTime``;
    2. ``EffectiveEchoSpacing (N - 1)``, as BIDS defines it;
    3. ``EchoSpacing (N // ParallelReductionFactorInPlane - 1)``;
    4. ``WaterFatShift / (fat shift in Hz (EPIFactor + 1)) (N - 1)`` (Philips), with the fat shift from
       ``ImagingFrequency`` in MHz or else from ``MagneticFieldStrength`` in tesla.

    Parameters
    ----------
    sidecar : mapping
    n_voxels : int
        Of the recording, along its phase-encoding axis.
    path : Path
        Of the recording, for messages.

    Returns
    -------
    ReadoutTime

    Raises
    ------
    MetadataError
        The sidecar gives none of them; a value is no positive number; the time is 1 s or longer.
    """
    readout = _compute(sidecar, n_voxels, path)
    if readout is None:
        raise _no_readout_time(sidecar, path)
    if not 0 < readout.seconds < 1:
        raise MetadataError(
            f"{path}: expected a total readout time in seconds, above 0 and below 1, found {readout.seconds:g} (from "
            f"{readout.source} of its sidecar).",
            "Correct the sidecar: BIDS gives times in seconds.",
        )
    return readout


def _compute(sidecar: Mapping[str, Any], n_voxels: int, path: Path) -> ReadoutTime | None:
    given = {key for key in READOUT_KEYS if sidecar.get(key) is not None}

    def value(key: str) -> float:
        number = sidecar[key]
        if not is_finite_number(number) or number <= 0:
            raise MetadataError(
                f"{path}: expected a positive number as {key} of its sidecar, found {number!r}.", "Correct the sidecar."
            )
        return float(number)

    if "TotalReadoutTime" in given:
        return ReadoutTime(seconds=value("TotalReadoutTime"), source="TotalReadoutTime")
    n_lines = value("ReconMatrixPE") if "ReconMatrixPE" in given else n_voxels
    if "EffectiveEchoSpacing" in given:
        return ReadoutTime(
            seconds=value("EffectiveEchoSpacing") * (n_lines - 1), source=f"EffectiveEchoSpacing x ({n_lines:g} - 1)"
        )
    if given >= {"EchoSpacing", "ParallelReductionFactorInPlane"}:
        acceleration = value("ParallelReductionFactorInPlane")
        return ReadoutTime(
            seconds=value("EchoSpacing") * (n_lines // acceleration - 1),
            source=f"EchoSpacing x ({n_lines:g} // {acceleration:g} - 1)",
        )
    fat_key = next((key for key in _FAT_SHIFT_HZ if key in given), None)
    if fat_key is not None and given >= {"WaterFatShift", "EPIFactor"}:
        spacing_s = value("WaterFatShift") / (_FAT_SHIFT_HZ[fat_key] * value(fat_key) * (value("EPIFactor") + 1))
        return ReadoutTime(
            seconds=spacing_s * (n_lines - 1),
            source=f"WaterFatShift, EPIFactor and {fat_key} x ({n_lines:g} - 1)",
        )
    return None


def _no_readout_time(sidecar: Mapping[str, Any], path: Path) -> MetadataError:
    estimates = [f"{key} {sidecar[key]!r}" for key in _ESTIMATES if key in sidecar]
    return MetadataError(
        f"{path}: a fieldmap belongs to this run, but its sidecar gives no TotalReadoutTime, and nothing to compute it "
        "from: EffectiveEchoSpacing; EchoSpacing and ParallelReductionFactorInPlane; or WaterFatShift, EPIFactor and "
        "ImagingFrequency."
        + (f" It gives an estimate, which is not taken: {', '.join(estimates)}." if estimates else ""),
        f"Write {'the estimate, if you trust it, as ' if estimates else ''}TotalReadoutTime into the sidecar.",
    )
