"""The planted truth of a simulated recording: when the film ran, what it drives, and the frames that come of it.

Every voxel belongs to one region, every region to one stream (what is shown) and one level (how long it is kept). With
``u_s`` the film's news of stream ``s``, standard normal and new in each second, a region at level ``k`` carries ::

    x_sk(t) = a_k x_sk(t - 1) + sqrt(1 - a_k^2) u_s(t - lag_k),    a_k = exp(-1 / timescale_k)

in film time ``t`` (seconds): its autocorrelation is ``exp(-|h| / timescale_k)``, and what the lowest level shows now
the higher ones show ``lag_k`` later, so one voxel's future is in another's past. A voxel ``v`` of that region is ::

    y_v = baseline_v (1 + sd (sqrt(film) x_sk + sqrt(spontaneous) z_sk + sqrt(drift) d_v + sqrt(thermal) e_v))

where each of ``x, z, d, e`` has variance 1 and the four fractions add up to 1: ``z`` is the subject's own activity
(AR(1), one series a region), ``d`` a drift of three half-cosines a run, ``e`` white noise. The latents are meant at the
level of the BOLD signal: no haemodynamic response is laid over them, so the planted timescales are those of the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from titan_neuro.errors import ConfigError

STREAMS = ("ventral", "middle", "dorsal")
# ds003017, runs 1 to 5. The film time at which run 1 begins is 2722.899 s there; the others are whole seconds.
_REAL_VOLUMES = (598, 498, 535, 618, 803)
_REAL_OVERLAP = (0, 10, 20, 12, 11)
_REAL_FIXATION = 10
_REAL_LAST_FIXATION = (11, 11, 10, 10, 10)
_FIRST_FILM_SECOND = 2723
_DRIFT_TERMS = 3
# What each random stream is for; a purpose has its own stream, so that one more subject changes nothing of the others.
_FILM, _RUN = 0, 1

Fraction = Annotated[float, Field(ge=0, le=1)]
Timescale = Annotated[float, Field(gt=0, le=100)]
Lag = Annotated[int, Field(ge=0, le=60)]


@pydantic_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SimulateConfig:
    """What a twin of ds003017 holds; defaults make a small one in seconds.

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
        How long after the film each level shows what is new in it, in whole seconds; as many as `timescales_s`.
    film_fraction, spontaneous_fraction, drift_fraction : float
        Parts of a voxel's variance while the film runs; white thermal noise is the rest.
    spontaneous_timescale_s : float
        Time constant of the subject's own activity, in seconds.
    signal_sd_percent : float
        Standard deviation of a voxel over time, in per cent of its baseline.
    seed : int
        The same seed and settings give the same bytes of every image.
    """

    n_subjects: Annotated[int, Field(ge=1, le=25)] = 6
    n_runs: Annotated[int, Field(ge=1, le=5)] = 3
    volume_scale: Annotated[float, Field(ge=0.05, le=1)] = 0.25
    voxel_size_mm: Annotated[float, Field(ge=2, le=30)] = 12.0
    timescales_s: tuple[Timescale, ...] = (3.0, 5.0, 8.0, 13.0)
    lags_s: tuple[Lag, ...] = (0, 3, 6, 9)
    film_fraction: Fraction = 0.55
    spontaneous_fraction: Fraction = 0.15
    drift_fraction: Fraction = 0.1
    spontaneous_timescale_s: Timescale = 5.0
    signal_sd_percent: Annotated[float, Field(gt=0, le=5)] = 1.5
    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        """Check what one field alone can't tell."""
        if len(self.timescales_s) != len(self.lags_s) or not 1 <= len(self.lags_s) <= 8:
            raise ConfigError(
                "simulate: timescales_s and lags_s must be of one length, 1 to 8 levels; "
                f"found {len(self.timescales_s)} and {len(self.lags_s)}."
            )
        if self.thermal_fraction < 0:
            raise ConfigError(
                "simulate: film_fraction + spontaneous_fraction + drift_fraction must not exceed 1; "
                f"found {1 - self.thermal_fraction:g}."
            )

    @property
    def thermal_fraction(self) -> float:
        """Part of a voxel's variance that is white noise."""
        return round(1 - self.film_fraction - self.spontaneous_fraction - self.drift_fraction, 9)


@dataclass(frozen=True, kw_only=True)
class Screening:
    """What was on the screen in one run.

    Attributes
    ----------
    run : int
        1 to 5.
    n_volumes, fixation, overlap, film : int
        Length of the run; volumes before the film; volumes of film that the run before has shown; volumes of film in
        all, the overlap included. One volume is one second.
    film_start : int
        Film time of the first volume that shows film, in seconds.
    """

    run: int
    n_volumes: int
    fixation: int
    overlap: int
    film: int
    film_start: int

    def events(self) -> list[tuple[float, float, str]]:
        """Rows (onset, duration, trial_type) of the events table, in seconds."""
        rows = [
            (float(self.fixation), float(self.overlap), "overlap_with_previous_run"),
            (float(self.fixation + self.overlap), float(self.film - self.overlap), "movie"),
        ]
        return [row for row in rows if row[1] > 0]


def screenings(config: SimulateConfig) -> list[Screening]:
    """The runs of a twin; at ``volume_scale=1`` they are those of ds003017."""

    def scaled(seconds: int) -> int:
        return max(2, round(seconds * config.volume_scale)) if seconds else 0

    runs: list[Screening] = []
    film_end = _FIRST_FILM_SECOND
    for index in range(config.n_runs):
        n_volumes, overlap, fixation = map(scaled, (_REAL_VOLUMES[index], _REAL_OVERLAP[index], _REAL_FIXATION))
        film = n_volumes - fixation - scaled(_REAL_LAST_FIXATION[index])
        start = film_end - overlap
        film_end = start + film
        runs.append(
            Screening(
                run=index + 1, n_volumes=n_volumes, fixation=fixation, overlap=overlap, film=film, film_start=start
            )
        )
    return runs


def assign_regions(coordinates_mm: np.ndarray, n_levels: int) -> np.ndarray:
    """Divide the brain into equal regions: levels from the back to the front, in each the streams from below upwards.

    Parameters
    ----------
    coordinates_mm : numpy.ndarray
        World coordinates of the voxels, ``(voxels, 3)``: x to the right, y to the front, z upwards.
    n_levels : int
        How many levels.

    Returns
    -------
    numpy.ndarray
        Index of each voxel's region, ``(voxels,)``: ``stream * n_levels + level``, from 0.
    """
    x, y, z = coordinates_mm.T
    regions = np.empty(len(coordinates_mm), dtype=np.int16)
    for level, band in enumerate(np.array_split(np.lexsort((x, z, y)), n_levels)):
        order = band[np.lexsort((x[band], y[band], z[band]))]
        for stream, voxels in enumerate(np.array_split(order, len(STREAMS))):
            regions[voxels] = stream * n_levels + level
    return regions


def film_latents(config: SimulateConfig) -> np.ndarray:
    """What the film plants in each region, the same in every subject.

    Returns
    -------
    numpy.ndarray
        ``(seconds of film, regions)``, of variance 1 in expectation; row 0 is the film's second at which run 1 begins.
    """
    from scipy.signal import lfilter

    n_seconds = max(run.film_start + run.film for run in screenings(config)) - _FIRST_FILM_SECOND
    before = int(10 * max(config.timescales_s)) + max(config.lags_s)
    news = np.random.default_rng([config.seed, _FILM]).standard_normal((before + n_seconds, len(STREAMS)))
    latents = np.empty((n_seconds, len(STREAMS), len(config.lags_s)))
    for level, (timescale, lag) in enumerate(zip(config.timescales_s, config.lags_s, strict=True)):
        keep = np.exp(-1 / timescale)
        kept = lfilter([np.sqrt(1 - keep**2)], [1, -keep], news, axis=0)
        latents[:, :, level] = kept[before - lag : before - lag + n_seconds]
    return latents.reshape(n_seconds, -1)


def screened_latents(latents: np.ndarray, run: Screening) -> np.ndarray:
    """The film's latents at each volume of a run, ``(n_volumes, regions)``; zero during fixation."""
    shown = np.zeros((run.n_volumes, latents.shape[1]))
    start = run.film_start - _FIRST_FILM_SECOND
    shown[run.fixation : run.fixation + run.film] = latents[start : start + run.film]
    return shown


def run_frames(
    config: SimulateConfig, subject: int, run: Screening, *, film: np.ndarray, regions: np.ndarray, baseline: np.ndarray
) -> Iterator[np.ndarray]:
    """Simulate one run, frame by frame: memory does not grow with its length.

    Parameters
    ----------
    config : SimulateConfig
        What is planted.
    subject : int
        Index of the subject, from 0.
    run : Screening
        Which run.
    film : numpy.ndarray
        `screened_latents` of the run, ``(n_volumes, regions)``.
    regions, baseline : numpy.ndarray
        Region of each voxel, ``(voxels,)``, and its mean intensity in the image's units.

    Yields
    ------
    numpy.ndarray
        A frame, int16, ``(voxels,)``.
    """
    rng = np.random.default_rng([config.seed, _RUN, subject, run.run])
    n_regions, n_voxels = film.shape[1], len(regions)
    keep = np.exp(-1 / config.spontaneous_timescale_s)
    spontaneous = rng.standard_normal(n_regions)
    drift_weights = _drift_weights(rng, n_voxels) * np.sqrt(config.drift_fraction)
    phase = np.pi * (np.arange(run.n_volumes) + 0.5) / run.n_volumes
    drift_terms = np.cos(np.outer(phase, np.arange(1, _DRIFT_TERMS + 1)))
    for volume in range(run.n_volumes):
        of_region = np.sqrt(config.film_fraction) * film[volume] + np.sqrt(config.spontaneous_fraction) * spontaneous
        signal = of_region[regions] + drift_terms[volume] @ drift_weights
        signal += np.sqrt(config.thermal_fraction) * rng.standard_normal(n_voxels)
        yield np.rint(baseline * (1 + config.signal_sd_percent / 100 * signal)).astype(np.int16)
        spontaneous = keep * spontaneous + np.sqrt(1 - keep**2) * rng.standard_normal(n_regions)


def _drift_weights(rng: np.random.Generator, n_voxels: int) -> np.ndarray:
    """Weights of the half-cosines, ``(terms, voxels)``, of variance falling as 1 / k^2; the drift has variance 1."""
    variance = 1 / np.arange(1, _DRIFT_TERMS + 1) ** 2.0
    # A cosine of amplitude 1 has variance 1/2.
    variance *= 2 / variance.sum()
    return np.sqrt(variance)[:, None] * rng.standard_normal((_DRIFT_TERMS, n_voxels))
