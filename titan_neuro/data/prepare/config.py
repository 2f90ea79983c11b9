"""The settings of preparation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class PrepareConfig:
    """How recordings become volumes.

    Attributes
    ----------
    warmup_s : float
        Seconds at the start of a run that are fed but never scored: running estimates rest on too little there.
    scored_trial_types : tuple of str
        A volume is scored when it lies inside an event of one of these ``trial_type``s. A run whose events table has
        none of them (or that has no table) is scored from the end of the warm-up on.
    mask_time_points : int
        Where the dataset brings no brain mask, one is computed from the mean of this many first volumes; a rough
        registration takes it for its reference. At most the volumes of the warm-up, and at least one: they touch each
        other, and are never scored.
    resolution_mm : float or None
        Edge of a voxel of the output grid in the standard space. None: the image's own grid where it lies in a standard
        space already, else 2 mm.
    confounds : {"none", "motion24", "simple", "scrubbing", "compcor", "ica_aroma", "budapest2020"}
        What is regressed out: nothing; 6 motion parameters, their derivatives and the squares of both; a strategy of
        `nilearn.interfaces.fmriprep.load_confounds_strategy`; the 23 columns of the data paper of ds003017.
    calibration_s : float
        Seconds at the start of a run from which the aCompCor components of a table that is computed here are learned;
        they are 0 till then, so that no later volume touches an earlier one.
    high_pass_hz : float or None
        Cut-off of the high-pass filter (Butterworth, second order); None for none. There is no low-pass.
    slice_timing : bool
        Shift every slice to the middle of its volume, through the Fourier transform of the whole run.
    estimation : {"causal", "whole-run"}
        Whether scaling, confound fit and high-pass use the volumes up to now, or the whole run. The latter lets what
        comes later touch what came before: it is for comparison with other work, and every table says so.
    rough_registration : bool
        Register raw recordings that bring no transforms to the template with ANTs (needs the extra ``raw``). Motion and
        position are estimated from the recording alone: enough to look at, not to publish.
    atlas : Path or None
        Labels image in the standard space: volumes become the means of its parcels.
    """

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
