"""Settings of a synthetic dataset of ds003017, and the design of its runs: when they show the movie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from titan_neuro.errors import ConfigError, UsageError
from titan_neuro.settings import settings

# ds003017, runs 1 to 5. There run 1 begins at 2722.899 s of the movie; the other runs begin at whole seconds.
_REAL_VOLUMES = (598, 498, 535, 618, 803)
_REAL_OVERLAP = (0, 10, 20, 12, 11)
_REAL_FIXATION = 10
_REAL_LAST_FIXATION = (11, 11, 10, 10, 10)
FIRST_STIMULUS_SECOND = 2723
STREAMS = ("ventral", "middle", "dorsal")
N_LEVELS_OF_CORTEX = 4


class RandomStream(IntEnum):
    """Purpose of a random stream: each purpose has its own, so one more subject leaves the other subjects unchanged."""

    STIMULUS = 0
    RUN = 1
    PATTERNS = 2
    PAIRING = 3
    CUES = 4
    SOURCES = 5
    HEAD = 6
    POSITION = 7
    MOTION = 8
    FINE_PATTERNS = 9
    STORY = 10
    STRENGTH = 11
    RETELLING = 12
    CHARACTERS = 13


Fraction = Annotated[float, Field(ge=0, le=1)]
Timescale = Annotated[float, Field(gt=0, le=100)]
Lag = Annotated[int, Field(ge=0, le=60)]
LongLag = Annotated[int, Field(ge=1, le=300)]


@settings
class SimulateConfig:
    """Settings of a synthetic dataset of ds003017; the defaults make a small one in seconds.

    Attributes
    ----------
    n_subjects : int
        1 to 25: the first labels of ds003017.
    n_runs : int
        1 to 5: runs 1 to `n_runs`.
    volume_scale : float
        Length of a run as a fraction of the real one (598, 498, 535, 618, 803 volumes of 1 s). Fixations and overlaps
        are scaled by the same factor, to at least 2 s.
    voxel_size_mm : float
        Edge of a voxel. The brain has about 1,100 voxels at 12 mm; grey matter has 5,000 at 6 mm.
    anatomy : {"bands", "cortex"}
        ``bands``: the whole brain, in bands of equal size from back to front. ``cortex``: grey matter, in named regions
        on both sides, of which some do not respond to the movie; it takes four `timescales_s`.
    timescales_s : tuple of float
        Time constant of each level of the hierarchy, the lowest first, in seconds.
    lags_s : tuple of int
        Delay of each level behind the movie, in whole seconds; as many as `timescales_s`.
    stimulus_fraction, spontaneous_fraction, drift_fraction : float
        Fractions of a voxel's variance while the movie runs; the rest is white thermal noise.
    spontaneous_timescale_s : float
        Time constant of the activity that is not driven by the movie, in seconds.
    signal_sd_percent : float
        Standard deviation of a voxel over time, in per cent of its baseline.
    association_fraction : float
        Fraction of the variance, while the movie runs, of the voxels that show cues and responses; 0: there are none.
        It replaces thermal noise, as do `delayed_response_fraction` and `fine_pattern_fraction`.
    n_associations : int
        Number of cues, and of responses; each subject has its own pairing.
    association_lag_s : int
        Time from the onset of a cue to that of its response, in whole seconds.
    cue_source : {"random", "story"}
        ``random``: cues at random seconds, new in each subject and run. ``story``: the cues are characters, one in each
        scene of the story, the same for all subjects.
    cue_interval_s : float
        Mean time between the onsets of random cues, in seconds; the intervals are geometric, so none predicts the next.
    delayed_response_fraction : float
        Fraction of the variance of the voxels that show sources and their delayed responses; 0: there are none.
    delayed_response_lags_s : tuple of int
        Time from a source to each of its delayed responses, in whole seconds; each lag has its own voxels.
    fine_pattern_fraction : float
        Fraction of the variance of the voxels that show fine patterns and the responses to them; 0: there are none.
    fine_pattern_lag_s : int
        Time from a fine pattern to its response, in whole seconds.
    story_fraction : float
        Fraction of the variance, while the movie runs, of the voxels that show the scenes of a story; 0: there is no
        story, and nobody retells it. It replaces thermal noise.
    scene_s : float
        Mean length of a scene, in seconds.
    memory_gain : float
        How much the strength of a subject's memory of a scene decides whether it is retold: log odds for one standard
        deviation; 0: not at all.
    engagement : float
        How much the strength of a subject's memory of a scene decides how closely the regions of the story follow the
        movie while it is watched: log odds for one standard deviation; 0: not at all.
    retelling_fraction : float
        Fraction of the variance, while a scene is retold, that its pattern has; 0: it does not reappear.
    transforms : bool
        Simulate the scanner: heads of different shapes and positions move in an inhomogeneous field. The transforms
        that undo this are written as well, named as in the published fMRIPrep derivatives.
    motion_sd_mm, motion_sd_degrees : float
        Standard deviation of the head's translations and rotations over a run, each axis; used with `transforms`.
    seed : int
        The same seed and settings give the same bytes of every image.
    """

    n_subjects: Annotated[int, Field(ge=1, le=25)] = 6
    n_runs: Annotated[int, Field(ge=1, le=5)] = 3
    volume_scale: Annotated[float, Field(ge=0.05, le=1)] = 0.25
    voxel_size_mm: Annotated[float, Field(ge=2, le=30)] = 12.0
    anatomy: Literal["bands", "cortex"] = "bands"
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
    cue_source: Literal["random", "story"] = "random"
    cue_interval_s: Annotated[float, Field(ge=2, le=300)] = 10.0
    delayed_response_fraction: Fraction = 0.0
    delayed_response_lags_s: Annotated[tuple[LongLag, ...], Field(min_length=1, max_length=8)] = (30,)
    fine_pattern_fraction: Fraction = 0.0
    fine_pattern_lag_s: LongLag = 6
    story_fraction: Fraction = 0.0
    scene_s: Annotated[float, Field(gt=6, le=300)] = 15.0
    memory_gain: Annotated[float, Field(ge=0, le=10)] = 2.0
    engagement: Annotated[float, Field(ge=0, le=10)] = 0.0
    retelling_fraction: Fraction = 0.2
    transforms: bool = False
    motion_sd_mm: Annotated[float, Field(ge=0, le=3)] = 0.3
    motion_sd_degrees: Annotated[float, Field(ge=0, le=3)] = 0.3
    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        """Check the fields that depend on each other."""
        if len(self.timescales_s) != len(self.lags_s) or not 1 <= len(self.lags_s) <= 8:
            raise ConfigError(
                "simulate: timescales_s and lags_s must be of one length, 1 to 8 levels; "
                f"found {len(self.timescales_s)} and {len(self.lags_s)}."
            )
        # Associations and fine patterns share voxels; no voxel has a delayed response besides. A story lies over both.
        planted = max(self.association_fraction + self.fine_pattern_fraction, self.delayed_response_fraction)
        planted += self.story_fraction
        if self.thermal_fraction < planted:
            total = 1 - self.thermal_fraction + planted
            raise ConfigError(
                "simulate: stimulus_fraction + spontaneous_fraction + drift_fraction must not exceed 1, together with "
                "story_fraction, and with association_fraction + fine_pattern_fraction or delayed_response_fraction; "
                f"found {total:g}.",
                "The defaults leave 0.2 for these; a lower stimulus_fraction leaves more.",
            )
        self._check_story()
        self._check_anatomy()
        self._check_lags()

    def rng(self, stream: RandomStream, *indices: int) -> np.random.Generator:
        """Return the generator of a stream; `indices` are the subject (from 0) and the run (1 to 5), where needed."""
        return np.random.default_rng([self.seed, int(stream), *indices])

    def _check_story(self) -> None:
        if self.story_fraction > 0 and self.transforms:
            raise ConfigError(
                "simulate: a story is not simulated in a moving head: expected transforms=False with a story_fraction "
                "above 0."
            )
        if self.story_fraction > 0 and self.thermal_fraction + self.stimulus_fraction < self.retelling_fraction:
            raise ConfigError(
                "simulate: spontaneous_fraction + drift_fraction + retelling_fraction must not exceed 1; found "
                f"{1 - self.thermal_fraction - self.stimulus_fraction + self.retelling_fraction:g}."
            )

        needed = {"cue_source=story": self.cue_source == "story", "engagement": self.engagement > 0}
        for name, is_asked in needed.items():
            if is_asked and self.story_fraction == 0:
                raise ConfigError(f"simulate: {name} needs a story: expected a story_fraction above 0, found 0.")

    def _check_anatomy(self) -> None:
        if self.anatomy == "cortex" and len(self.timescales_s) != N_LEVELS_OF_CORTEX:
            raise ConfigError(
                f"simulate: anatomy=cortex has regions of {N_LEVELS_OF_CORTEX} levels: expected as many timescales_s "
                f"and lags_s, found {len(self.timescales_s)}."
            )

    def _check_lags(self) -> None:
        longest = max(run.stimulus for run in run_designs(self))
        lags = {
            "association_lag_s": (self.association_fraction, self.association_lag_s),
            "delayed_response_lags_s": (self.delayed_response_fraction, max(self.delayed_response_lags_s)),
            "fine_pattern_lag_s": (self.fine_pattern_fraction, self.fine_pattern_lag_s),
        }
        for name, (fraction, lag) in lags.items():
            if fraction > 0 and lag >= longest:
                raise ConfigError(
                    f"simulate: {name}: no run shows {lag} s of movie; the longest has {longest} s.",
                    "Choose a shorter lag, a larger volume_scale or more runs.",
                )

    @property
    def n_driven_regions(self) -> int:
        """Number of regions that respond to the movie; those after them do not."""
        return len(STREAMS) * len(self.timescales_s)

    @property
    def thermal_fraction(self) -> float:
        """Fraction of a voxel's variance that is white noise, where nothing is planted."""
        return round(1 - self.stimulus_fraction - self.spontaneous_fraction - self.drift_fraction, 9)


# Settings by name; single ones can be given over them.
PRESETS: dict[str, dict[str, Any]] = {
    "small": {},
    # Eight minutes of movie. How a person's dorsal stream responds to a character is known from this person alone, and
    # whether a scene is remembered shows in how closely it is followed. With `association_fraction`, `memory_gain` and
    # `retelling_fraction` at 0 there is nothing of this to find.
    "story": {
        "n_runs": 1,
        "volume_scale": 0.8,
        "voxel_size_mm": 6.0,
        "anatomy": "cortex",
        "stimulus_fraction": 0.45,
        "spontaneous_fraction": 0.1,
        "drift_fraction": 0.05,
        "association_fraction": 0.3,
        "n_associations": 4,
        "association_lag_s": 4,
        "cue_source": "story",
        "story_fraction": 0.1,
        "scene_s": 10.0,
        "engagement": 2.0,
    },
}


@dataclass(frozen=True, kw_only=True)
class RunDesign:
    """When one run shows the movie, and which part of it.

    Attributes
    ----------
    run : int
        1 to 5.
    n_volumes : int
        Length of the run, in volumes of one second.
    fixation : int
        Volumes before the movie.
    overlap : int
        Volumes of movie that repeat the end of the previous run.
    stimulus : int
        Volumes of movie in all, including the overlap.
    stimulus_start : int
        Second of the movie that the first of these volumes shows.
    """

    run: int
    n_volumes: int
    fixation: int
    overlap: int
    stimulus: int
    stimulus_start: int

    def events(self) -> list[tuple[float, float, str]]:
        """Return the rows (onset, duration, trial_type) of the events table; times in seconds."""
        rows = [
            (float(self.fixation), float(self.overlap), "overlap_with_previous_run"),
            (float(self.fixation + self.overlap), float(self.stimulus - self.overlap), "movie"),
        ]
        return [row for row in rows if row[1] > 0]


def run_designs(config: SimulateConfig) -> list[RunDesign]:
    """Return the design of each run of a synthetic dataset; at ``volume_scale=1`` they are those of ds003017."""

    def scaled(seconds: int) -> int:
        return max(2, round(seconds * config.volume_scale)) if seconds else 0

    runs: list[RunDesign] = []
    stimulus_end = FIRST_STIMULUS_SECOND
    for index in range(config.n_runs):
        n_volumes, overlap, fixation = map(scaled, (_REAL_VOLUMES[index], _REAL_OVERLAP[index], _REAL_FIXATION))
        stimulus = n_volumes - fixation - scaled(_REAL_LAST_FIXATION[index])
        start = stimulus_end - overlap
        stimulus_end = start + stimulus
        runs.append(
            RunDesign(
                run=index + 1,
                n_volumes=n_volumes,
                fixation=fixation,
                overlap=overlap,
                stimulus=stimulus,
                stimulus_start=start,
            )
        )
    return runs


def settings_of(preset: str, given: Mapping[str, Any]) -> SimulateConfig:
    """Put settings over those of a preset.

    Parameters
    ----------
    preset : str
        A key of `PRESETS`.
    given : mapping of str to Any
        Fields of :class:`SimulateConfig`.

    Raises
    ------
    UsageError
        There is no such preset.
    ConfigError
        A setting is wrong.
    """
    if preset not in PRESETS:
        raise UsageError(f"simulate: no preset {preset!r}.", f"There are: {', '.join(PRESETS)}.")
    return SimulateConfig(**{**PRESETS[preset], **given})
