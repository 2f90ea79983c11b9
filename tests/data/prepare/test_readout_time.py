"""The total readout time, as sdcflows computes it; the numbers are those of its documentation (`get_trt`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from titan_neuro.data.prepare.distortion_correction import PhaseEncoding
from titan_neuro.data.prepare.readout_time import total_readout_time
from titan_neuro.errors import MetadataError

PATH = Path("sub-01_task-x_bold.nii.gz")
PHILIPS = {"WaterFatShift": 9.2227266, "EPIFactor": 35}


@pytest.mark.parametrize(
    ("sidecar", "n_voxels", "expected", "source"),
    [
        ({"TotalReadoutTime": 0.05251}, 7, 0.05251, "TotalReadoutTime"),
        ({"TotalReadoutTime": 0.05251, "EffectiveEchoSpacing": 0.1}, 90, 0.05251, "TotalReadoutTime"),
        ({"EffectiveEchoSpacing": 0.00059}, 90, 0.05251, "EffectiveEchoSpacing x (90 - 1)"),
        ({"EffectiveEchoSpacing": 0.0005}, 96, 0.0475, "EffectiveEchoSpacing x (96 - 1)"),
        # The recording was cropped after its reconstruction.
        ({"EffectiveEchoSpacing": 0.0005, "ReconMatrixPE": 96}, 80, 0.0475, "EffectiveEchoSpacing x (96 - 1)"),
        ({"EffectiveEchoSpacing": 0.00059, **PHILIPS}, 90, 0.05251, "EffectiveEchoSpacing x (90 - 1)"),
        (
            {"EchoSpacing": 0.00119341, "ParallelReductionFactorInPlane": 2},
            90,
            0.05251,
            "EchoSpacing x (90 // 2 - 1)",
        ),
        ({"EchoSpacing": 0.001, "ParallelReductionFactorInPlane": 2}, 91, 0.044, "EchoSpacing x (91 // 2 - 1)"),
        (
            {**PHILIPS, "ImagingFrequency": 127.7325},
            90,
            0.05251,
            "WaterFatShift, EPIFactor and ImagingFrequency x (90 - 1)",
        ),
        (
            {**PHILIPS, "MagneticFieldStrength": 3},
            90,
            0.05251,
            "WaterFatShift, EPIFactor and MagneticFieldStrength x (90 - 1)",
        ),
        # What is not needed is not looked at.
        ({"TotalReadoutTime": 0.05251, "ReconMatrixPE": "n/a", "EchoSpacing": 0}, 90, 0.05251, "TotalReadoutTime"),
        ({"TotalReadoutTime": None, "EffectiveEchoSpacing": 0.00059}, 90, 0.05251, "EffectiveEchoSpacing x (90 - 1)"),
    ],
)
def test_readout_time_is_sdcflows(sidecar, n_voxels, expected, source):
    readout = total_readout_time(sidecar, n_voxels, PATH)
    assert readout.seconds == pytest.approx(expected, abs=5e-6)
    assert readout.source == source


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        ({}, "gives no TotalReadoutTime, and nothing to compute it"),
        ({"EchoSpacing": 0.001}, "gives no TotalReadoutTime"),
        (PHILIPS, "gives no TotalReadoutTime"),
        ({"EstimatedTotalReadoutTime": 0.05}, "an estimate, which is not taken: EstimatedTotalReadoutTime 0.05"),
        ({"EstimatedEffectiveEchoSpacing": 0.0005}, "not taken: EstimatedEffectiveEchoSpacing 0.0005"),
        ({"TotalReadoutTime": 50}, "below 1, found 50"),
        ({"TotalReadoutTime": 0}, "positive number as TotalReadoutTime of its sidecar, found 0"),
        ({"TotalReadoutTime": True}, "positive number as TotalReadoutTime of its sidecar, found True"),
        ({"TotalReadoutTime": "0.05"}, "positive number as TotalReadoutTime"),
        # Milliseconds.
        ({"EffectiveEchoSpacing": 0.5}, r"below 1, found 47.5 \(from EffectiveEchoSpacing x \(96 - 1\)"),
        ({"EffectiveEchoSpacing": -0.0005}, "positive number as EffectiveEchoSpacing"),
        ({"EffectiveEchoSpacing": float("nan")}, "positive number as EffectiveEchoSpacing"),
        ({"EffectiveEchoSpacing": 0.0005, "ReconMatrixPE": [96]}, "positive number as ReconMatrixPE"),
        ({"EffectiveEchoSpacing": 0.0005, "ReconMatrixPE": 1}, "above 0 and below 1, found 0"),
    ],
)
def test_readout_times_that_are_refused(sidecar, message):
    with pytest.raises(MetadataError, match=message) as caught:
        total_readout_time(sidecar, 96, PATH)
    assert PATH.name in caught.value.message


@pytest.mark.parametrize(
    ("direction", "n_voxels", "sign"), [("i", 64, 1), ("j", 96, 1), ("j-", 96, -1), ("k-", 40, -1)]
)
def test_matrix_size_is_along_phase_encoding(direction, n_voxels, sign):
    sidecar = {"PhaseEncodingDirection": direction, "EffectiveEchoSpacing": 0.0005}
    found = PhaseEncoding.from_sidecar(sidecar, (64, 96, 40), PATH)
    assert found.readout.seconds == pytest.approx(0.0005 * (n_voxels - 1))
    assert (found.axis, found.sign) == ("ijk".index(direction[0]), sign)


@pytest.mark.parametrize("direction", [None, "y", "j--", 1, ""])
def test_phase_encoding_needs_an_axis(direction):
    sidecar = {"TotalReadoutTime": 0.05} | ({} if direction is None else {"PhaseEncodingDirection": direction})
    with pytest.raises(MetadataError, match="gives no PhaseEncodingDirection"):
        PhaseEncoding.from_sidecar(sidecar, (64, 96, 40), PATH)
