"""What a synthetic dataset of ds003017 is to hold, and when its runs show the movie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from titan_neuro.errors import ConfigError, UsageError

# ds003017, runs 1 to 5. The movie time at which run 1 begins is 2722.899 s there; the others are whole seconds.
_REAL_VOLUMES = (598, 498, 535, 618, 803)
_REAL_OVERLAP = (0, 10, 20, 12, 11)
_REAL_FIXATION = 10
_REAL_LAST_FIXATION = (11, 11, 10, 10, 10)
FIRST_STIMULUS_SECOND = 2723


class Draw(IntEnum):
    """What a random stream is for: each purpose has its own, so that one more subject changes nothing of the others."""

    STIMULUS = 0
    RUN = 1
    PATTERNS = 2
    PAIRING = 3
    CUES = 4
    NEWS = 5
    HEAD = 6
    POSITION = 7
    MOTION = 8


Fraction = Annotated[float, Field(ge=0, le=1)]
Timescale = Annotated[float, Field(gt=0, le=100)]
Lag = Annotated[int, Field(ge=0, le=60)]
LongLag = Annotated[int, Field(ge=1, le=300)]


@pydantic_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SimulateConfig:
    """What a synthetic dataset of ds003017 holds; defaults make a small one in seconds.

    Attributes
    ----------
    n_subjects : int
        The first so many of the 25 labels of ds003017.
    n_runs : int
        Runs 1 to `n_runs` of the five.
    volume_scale : float
        Length of a run as a fraction of the real one (598, 498, 535, 618, 803 volumes of 1 s); fixations and overlaps
        shrink alike, to 2 s at least.
    voxel_size_mm : float
        Edge of a voxel. The brain has about 1,100 voxels at 12 mm.
    timescales_s : tuple of float
        Time constant of each level of the hierarchy, the lowest first, in seconds.
    lags_s : tuple of int
        How long after the movie each level shows what is new in it, in whole seconds; as many as `timescales_s`.
    stimulus_fraction, spontaneous_fraction, drift_fraction : float
        Parts of a voxel's variance while the movie runs; white thermal noise is the rest.
    spontaneous_timescale_s : float
        Time constant of the subject's own activity, in seconds.
    signal_sd_percent : float
        Standard deviation of a voxel over time, in per cent of its baseline.
    association_fraction : float
        Part of the variance, while the movie runs, of the voxels that show cues and responses; 0 plants none. It is
        taken from the thermal noise, as is `delayed_response_fraction`.
    n_associations : int
        How many cues there are, and as many responses; each subject pairs them anew.
    association_lag_s : int
        How long after a cue its response begins, in whole seconds.
    cue_interval_s : float
        Mean time between the onsets of cues, in seconds; the gaps are geometric, so that none predicts the next.
    delayed_response_fraction : float
        Part of the variance of the voxels that show news and its delayed responses; 0 plants none.
    delayed_response_lags_s : tuple of int
        How long after the news each echo comes, in whole seconds; each lag has voxels of its own.
    transforms : bool
        Record what a scanner would have: heads that differ, lie differently and move, in a distorting field; and write
        the transforms that undo it, named as in the published fMRIPrep derivatives.
    motion_sd_mm, motion_sd_degrees : float
        Standard deviation of the head's translations and rotations over a run, each axis; used with `transforms`.
    seed : int
        The same seed and settings give the same bytes of every image.
    """

    n_subjects: Annotated[int, Field(ge=1, le=25)] = 6
    n_runs: Annotated[int, Field(ge=1, le=5)] = 3
    volume_scale: Annotated[float, Field(ge=0.05, le=1)] = 0.25
    voxel_size_mm: Annotated[float, Field(ge=2, le=30)] = 12.0
    timescales_s: tuple[Timescale, ...] = (3.0, 5.0, 8.0, 13.0)
    lags_s: tuple[Lag, ...] = (0, 3, 6, 9)
    stimulus_fraction: Fraction = 0.55
    spontaneous_fraction: Fraction = 0.15
    drift_fraction: Fraction = 0.1
    spontaneous_timescale_s: Timescale = 5.0
    signal_sd_percent: Annotated[float, Field(gt=0, le=5)] = 1.5
    association_fraction: Fraction = 0.0
    n_associations: Annotated[int, Field(ge=2, le=64)] = 8
    association_lag_s: LongLag = 10
    cue_interval_s: Annotated[float, Field(ge=2, le=300)] = 10.0
    delayed_response_fraction: Fraction = 0.0
    delayed_response_lags_s: Annotated[tuple[LongLag, ...], Field(min_length=1, max_length=8)] = (30,)
    transforms: bool = False
    motion_sd_mm: Annotated[float, Field(ge=0, le=3)] = 0.3
    motion_sd_degrees: Annotated[float, Field(ge=0, le=3)] = 0.3
    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        """Check what one field alone can't tell."""
        if len(self.timescales_s) != len(self.lags_s) or not 1 <= len(self.lags_s) <= 8:
            raise ConfigError(
                "simulate: timescales_s and lags_s must be of one length, 1 to 8 levels; "
                f"found {len(self.timescales_s)} and {len(self.lags_s)}."
            )
        # No voxel holds both an association and an echo.
        to_recall = max(self.association_fraction, self.delayed_response_fraction)
        if self.thermal_fraction < to_recall:
            raise ConfigError(
                "simulate: stimulus_fraction + spontaneous_fraction + drift_fraction must not exceed 1, together with "
                f"association_fraction or delayed_response_fraction; found {1 - self.thermal_fraction + to_recall:g}.",
                "The movie leaves 0.2 by default; lower stimulus_fraction for more.",
            )
        self._check_lags()

    def rng(self, draw: Draw, *which: int) -> np.random.Generator:
        """Random numbers for one purpose, and for one subject (index from 0) and run (1 to 5) where it has those."""
        return np.random.default_rng([self.seed, int(draw), *which])

    def _check_lags(self) -> None:
        longest = max(run.stimulus for run in screenings(self))
        truth = {
            "association_lag_s": (self.association_fraction, self.association_lag_s),
            "delayed_response_lags_s": (self.delayed_response_fraction, max(self.delayed_response_lags_s)),
        }
        for name, (fraction, lag) in truth.items():
            if fraction > 0 and lag >= longest:
                raise ConfigError(
                    f"simulate: {name}: no run shows {lag} s of movie; the longest has {longest} s.",
                    "Choose a shorter lag, a larger volume_scale or more runs.",
                )

    @property
    def thermal_fraction(self) -> float:
        """Part of a voxel's variance that is white noise, where neither associations nor delayed responses are planted."""
        return round(1 - self.stimulus_fraction - self.spontaneous_fraction - self.drift_fraction, 9)


def read_config(given: Mapping[str, Any]) -> SimulateConfig:
    """Make the settings from names and values that a user has given.

    Raises
    ------
    UsageError
        An unknown name, or a value out of its range.
    """
    try:
        return SimulateConfig(**given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, problem["loc"]))
        if problem["type"] == "unexpected_keyword_argument":
            names = ", ".join(SimulateConfig.__dataclass_fields__)
            raise UsageError(f"--set: unknown setting {place!r}.", f"There are: {names}.") from error
        raise UsageError(f"{place}: {problem['msg']}; found {problem['input']!r}.") from error


@dataclass(frozen=True, kw_only=True)
class Screening:
    """What was on the screen in one run.

    Attributes
    ----------
    run : int
        1 to 5.
    n_volumes, fixation, overlap, stimulus : int
        Length of the run; volumes before the movie; volumes of movie that the run before has shown; volumes of movie in
        all, the overlap included. One volume is one second.
    stimulus_start : int
        StimulusAverage time of the first volume that shows movie, in seconds.
    """

    run: int
    n_volumes: int
    fixation: int
    overlap: int
    stimulus: int
    stimulus_start: int

    def events(self) -> list[tuple[float, float, str]]:
        """Rows (onset, duration, trial_type) of the events table, in seconds."""
        rows = [
            (float(self.fixation), float(self.overlap), "overlap_with_previous_run"),
            (float(self.fixation + self.overlap), float(self.stimulus - self.overlap), "movie"),
        ]
        return [row for row in rows if row[1] > 0]


def screenings(config: SimulateConfig) -> list[Screening]:
    """The runs of a synthetic dataset; at ``volume_scale=1`` they are those of ds003017."""

    def scaled(seconds: int) -> int:
        return max(2, round(seconds * config.volume_scale)) if seconds else 0

    runs: list[Screening] = []
    stimulus_end = FIRST_STIMULUS_SECOND
    for index in range(config.n_runs):
        n_volumes, overlap, fixation = map(scaled, (_REAL_VOLUMES[index], _REAL_OVERLAP[index], _REAL_FIXATION))
        stimulus = n_volumes - fixation - scaled(_REAL_LAST_FIXATION[index])
        start = stimulus_end - overlap
        stimulus_end = start + stimulus
        runs.append(
            Screening(
                run=index + 1,
                n_volumes=n_volumes,
                fixation=fixation,
                overlap=overlap,
                stimulus=stimulus,
                stimulus_start=start,
            )
        )
    return runs
