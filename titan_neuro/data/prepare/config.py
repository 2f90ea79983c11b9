"""The settings of preparation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from titan_neuro.settings import settings

TimeSource = Literal["sidecar", "header"]
"""Where a repetition time is from."""


@settings
class PrepareConfig:
    """Settings of the preparation: ``prepare.*``.

    Attributes
    ----------
    repetition_time_from : {"sidecar", "header"} or None
        Which repetition time holds where the sidecar and the header of an image differ. None: the sidecar's for
        preprocessed images; for images as recorded it is an error.
    warmup_s : float
        Seconds at the start of a run, from its first steady volume on, that models receive as input, and that are
        never scored: running estimates are unreliable there.
    scored_trial_types : tuple of str
        A time point is scored when it lies inside an event of one of these trial types. Where the events table has
        no such event, or there is no table, all time points after the warm-up are scored.
    mask_time_points : int
        Number of first volumes whose mean gives the brain mask where the dataset has none, and the reference of a rough
        registration. It is limited to the volumes of the warm-up, which are never scored, because these volumes are not
        processed causally; at least one is used.
    resolution_mm : float or None
        Edge of an output voxel in the standard space. None: the grid of the image where it is in a standard space
        already, else 2 mm.
    confounds : {"none", "motion24", "simple", "scrubbing", "compcor", "ica_aroma", "budapest2020"}
        Preset of the confounds that are regressed out. ``motion24``: 6 motion parameters, their derivatives and the
        squares of both; ``budapest2020``: the 23 columns of the data paper of ds003017; the others: strategies of
        `nilearn.interfaces.fmriprep.load_confounds_strategy`.
    calibration_s : float
        Seconds at the start of a run on which aCompCor components are fitted, where they are computed here. During the
        calibration they are 0, so that no later volume changes an earlier one.
    high_pass_hz : float or None
        Cut-off of the high-pass filter (Butterworth, second order); None for none. There is no low-pass.
    slice_timing : bool
        Correct slice timing: shift every slice to the middle of its volume, by the Fourier transform of the whole run.
    estimation : {"causal", "whole-run"}
        Whether z-score, confound regression and high-pass use the time points so far, or the whole run. In the latter
        case later time points change earlier ones; it serves for comparison with other work, and every table says so.
    rough_registration : bool
        Register raw recordings without transforms to the template with ANTs (needs the extra ``raw``). Head motion and
        position are estimated from the recording alone: sufficient for a first look, not for a publication.
    atlas : Path or None
        Image of labels in the standard space: the time series of voxels are averaged over its parcels.
    voxel_scaling : {"none", "psc", "zscore"}
        What is averaged over the parcels of the atlas: voxels (or vertices) in the units of the recording, where those
        with the largest fluctuations determine the mean; in percent signal change; or in standard deviations, where all
        count alike. Mean and standard deviation are those of the time points so far, or, with ``estimation`` whole-run,
        those of the run.
    """

    repetition_time_from: TimeSource | None = None
    warmup_s: Annotated[float, Field(ge=0)] = 20.0
    scored_trial_types: tuple[str, ...] = ("movie",)
    mask_time_points: Annotated[int, Field(ge=1)] = 10
    resolution_mm: Annotated[float, Field(ge=1, le=30)] | None = None
    confounds: Literal["none", "motion24", "simple", "scrubbing", "compcor", "ica_aroma", "budapest2020"] = "none"
    calibration_s: Annotated[float, Field(gt=0)] = 100.0
    high_pass_hz: Annotated[float, Field(gt=0)] | None = None
    slice_timing: bool = False
    estimation: Literal["causal", "whole-run"] = "causal"
    rough_registration: bool = False
    atlas: Path | None = None
    voxel_scaling: Literal["none", "psc", "zscore"] = "none"
