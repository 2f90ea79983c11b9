"""Settings of each probe; neither torch nor pandas is imported here, so that settings are checked at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from titan_neuro.errors import ConfigError
from titan_neuro.settings import settings

if TYPE_CHECKING:
    from titan_neuro.probing.context_length import ContextLengthProbe
    from titan_neuro.probing.decoding import DecodingProbe
    from titan_neuro.probing.history_swap import HistorySwapProbe
    from titan_neuro.probing.recall import RecallProbe
    from titan_neuro.probing.surprise import SurpriseProbe
    from titan_neuro.probing.time_segment_matching import TimeSegmentMatchingProbe
    from titan_neuro.probing.tools.results import ProbeSetup


@settings
class ContextLengthConfig:
    """Settings of the context-length probe.

    Attributes
    ----------
    longest_s : float
        Contexts are 2, 4, 8, ... seconds up to this, and the whole run.
    contexts_time_points : tuple of int
        Further contexts, in time points.
    origins_per_run : int
        Forecast origins of a run, evenly spaced over those with scored targets; each is used with every context.
    gain_fraction : float
        The temporal receptive window is the shortest context that reaches this fraction of the gain from the shortest
        context to the whole run.
    """

    longest_s: Annotated[float, Field(ge=2)] = 128.0
    contexts_time_points: tuple[Annotated[int, Field(ge=1)], ...] = ()
    origins_per_run: Annotated[int, Field(ge=1)] = 48
    gain_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9

    def build(self, setup: ProbeSetup) -> ContextLengthProbe:
        """Return the probe with these settings."""
        from titan_neuro.probing.context_length import ContextLengthProbe

        return ContextLengthProbe(self, setup)


@settings
class HistorySwapConfig:
    """Settings of the history-swap probe.

    Attributes
    ----------
    context_s : tuple of float
        Contexts: the seconds before a forecast that stay as they are.
    history_s : float
        Seconds before the context that are swapped; of a short run at most two fifths of it.
    blocks_s : tuple of float
        Lengths, in seconds, of the blocks in which a history is scrambled; those that fit into it twice are used.
    swaps_per_run : int
        Swap points of a run, evenly spaced over the possible ones; from each, one forecast is made for every context.
    """

    context_s: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (8.0, 16.0, 32.0, 64.0)
    history_s: Annotated[float, Field(gt=0)] = 240.0
    blocks_s: tuple[Annotated[float, Field(gt=0)], ...] = (1.0, 4.0, 12.0, 36.0, 120.0)
    swaps_per_run: Annotated[int, Field(ge=1)] = 6

    def build(self, setup: ProbeSetup) -> HistorySwapProbe:
        """Return the probe with these settings."""
        from titan_neuro.probing.history_swap import HistorySwapProbe

        return HistorySwapProbe(self, setup)


@settings
class SurpriseConfig:
    """Settings of the surprise probe.

    Attributes
    ----------
    event_s : float
        Mean length, in seconds, of the events into which other subjects' recordings are segmented. It determines their
        number, which is not chosen by the result.
    window_s : float
        Time points at most this many seconds before or after a boundary are near it. Boundaries come from BOLD, as
        surprise does: neither lags behind the other.
    delay_s : float
        Hemodynamic delay, in seconds, that is added to annotated onsets.
    n_components : int
        Principal components of the other subjects' average that events are segmented from, at most.
    """

    event_s: Annotated[float, Field(gt=0)] = 30.0
    window_s: Annotated[float, Field(ge=0)] = 2.0
    delay_s: Annotated[float, Field(ge=0)] = 5.0
    n_components: Annotated[int, Field(ge=2)] = 50

    def build(self, setup: ProbeSetup) -> SurpriseProbe:
        """Return the probe with these settings."""
        from titan_neuro.probing.surprise import SurpriseProbe

        return SurpriseProbe(self, setup)


@settings
class TimeSegmentMatchingConfig:
    """Settings of the time-segment-matching probe.

    Attributes
    ----------
    segment_time_points : tuple of int
        Lengths of the segments. Memory weights, which result from all earlier time points, are matched without any.
    exclusion_time_points : int
        Exclusion zone: a segment is compared with those more than so many time points away.
    weights_every_time_points : int
        Time points from one reading of the memory weights to the next.
    detrend_degree : int
        Degree of the polynomial of time that is subtracted from each feature over a run: slow drifts identify the time.
    late_start_time_points : int
        Time points of the stimulus that a memory with a late start does not read; a count of time points since the
        start would be wrong by as many.
    width : int
        Wider features are projected at random onto so many numbers.
    """

    segment_time_points: tuple[Annotated[int, Field(ge=1)], ...] = (1, 9)
    exclusion_time_points: Annotated[int, Field(ge=1)] = 15
    weights_every_time_points: Annotated[int, Field(ge=1)] = 8
    detrend_degree: Annotated[int, Field(ge=0)] = 3
    late_start_time_points: Annotated[int, Field(ge=1)] = 64
    width: Annotated[int, Field(ge=8)] = 512

    def build(self, setup: ProbeSetup) -> TimeSegmentMatchingProbe:
        """Return the probe with these settings."""
        from titan_neuro.probing.time_segment_matching import TimeSegmentMatchingProbe

        return TimeSegmentMatchingProbe(self, setup)


@settings
class DecodingConfig:
    """Settings of the decoding probe.

    Attributes
    ----------
    tables : tuple of str
        Paths of further BIDS tables, relative to the working directory: ``events.tsv`` (``trial_type`` holds
        categories, other columns hold numbers), ``stim.tsv.gz``, ``physio.tsv.gz``. A table applies to all runs that
        have the entities of its name; times count from a run's first time point.
    columns : tuple of str
        Names, or shell patterns, of what is decoded: ``trial_type``, ``engagement``, ``pc00?``; with or without the
        name of the table (``stim pc001``). A name must be in a table of the study's runs, a pattern need not. Columns
        of the runs' own events other than ``trial_type`` are decoded where a name or pattern other than ``*`` asks for
        them: as numbers where all of their texts are some, else as categories.
    delay_s : float
        Hemodynamic delay: the label of a time point is what was shown this many seconds before.
    lags_s : tuple of float
        Seconds by which labels lie further back: each lag is decoded on its own (``place, 20 s before``), and a memory
        should lose less with it than the current activity pattern does.
    n_components : int
        Principal components of each readout.
    max_runs : int
        Runs that the decoders of a fold are fitted on, evenly spaced in the list of those of training and validation.
    n_segments : int
        If other subjects saw the same stimulus, it is cut into this many time segments, and each is also decoded by a
        decoder that was fitted on the other segments alone; with 1 it is not.
    exclusion_s : float
        Exclusion zone around such a segment, in seconds: its decoder is not fitted on these time points.
    """

    tables: tuple[str, ...] = ()
    columns: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    delay_s: Annotated[float, Field(ge=0)] = 5.0
    lags_s: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] = (0.0,)
    n_components: Annotated[int, Field(ge=1)] = 100
    max_runs: Annotated[int, Field(ge=1)] = 16
    n_segments: Annotated[int, Field(ge=1)] = 4
    exclusion_s: Annotated[float, Field(gt=0)] = 20.0

    def build(self, setup: ProbeSetup) -> DecodingProbe:
        """Return the probe with these settings; its tables are read."""
        from titan_neuro.probing.decoding import DecodingProbe

        return DecodingProbe(self, setup)


@settings
class RecallTasks:
    """The two tasks that are compared, by their labels (``task-LABEL``).

    Attributes
    ----------
    watching : str
        The stimulus is watched.
    retelling : str
        It is retold. Runs of this task are prepared, and no model is trained or tested on them.
    """

    watching: Annotated[str, Field(min_length=1)]
    retelling: Annotated[str, Field(min_length=1)]

    def __post_init__(self) -> None:
        if self.watching == self.retelling:
            raise ConfigError(
                f"probe.recall.tasks: expected two tasks, found {self.watching} for watching and for retelling."
            )


@settings
class RecallConfig:
    """Settings of the recall probe.

    Attributes
    ----------
    tasks : RecallTasks or None
        Which task is watching and which is retelling; None: the study has no retelling, and nothing is probed.
    column : str
        Column of the events tables of both tasks that names the scenes.
    delay_s : float
        Hemodynamic delay, in seconds: a scene is compared this much after its onset. 0 for recordings that were shifted
        already.
    radius_mm : float
        Radius of the searchlights of the maps, in mm; for volumes.
    """

    tasks: RecallTasks | None = None
    column: Annotated[str, Field(min_length=1)] = "scene"
    delay_s: Annotated[float, Field(ge=0)] = 5.0
    radius_mm: Annotated[float, Field(gt=0)] = 9.0

    def build(self, setup: ProbeSetup) -> RecallProbe:
        """Return the probe with these settings."""
        from titan_neuro.probing.recall import RecallProbe

        return RecallProbe(self, setup)
