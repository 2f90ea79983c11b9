"""The signal of a synthetic dataset: what the movie drives, and the volumes of each run.

Each voxel belongs to one region, each region to one stream and one level of the hierarchy. ``u_s`` are the movie's
innovations of stream ``s``: standard normal, independent from second to second. A region at level ``k`` carries ::

    x_sk(t) = a_k x_sk(t - 1) + sqrt(1 - a_k^2) u_s(t - lag_k),    a_k = exp(-1 / timescale_k)

in movie time ``t`` (seconds). Its autocorrelation is ``exp(-|h| / timescale_k)``. Level ``k`` follows the lowest level
by ``lag_k``, so the past of one voxel helps to predict another. A voxel ``v`` of that region is ::

    y_v = baseline_v (1 + sd (sqrt(movie) x_sk + sqrt(spontaneous) z_sk + sqrt(planted_v) r_v
                              + sqrt(drift) d_v + sqrt(thermal_v) e_v))

where each of ``x, z, r, d, e`` has variance 1 and the five fractions add up to 1: ``z`` is the subject's own activity
(AR(1), one series per region), ``d`` a drift of three half-cosines per run, ``e`` white noise. Where a subject does not
follow the movie (`titan_neuro.data.simulate.story`), a part of ``movie`` is added to ``spontaneous``; in a region that
does not respond to it at all, ``movie`` is added to ``thermal``. ``r`` is what only a
memory (`titan_neuro.data.simulate.memory_content`) or an encoder of volumes
(`titan_neuro.data.simulate.fine_patterns`) can predict: ``planted_v`` is the fraction of what is planted in the voxel,
and 0 elsewhere and by default. There is no hemodynamic response: the latents are those of the BOLD signal, and their
timescales are the timescales of the data.

With ``transforms`` the baseline and the first three terms move with the head (`titan_neuro.data.simulate.scanner`);
drift and noise belong to the scanner's voxels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from titan_neuro.data.simulate.config import (
    FIRST_STIMULUS_SECOND,
    STREAMS,
    RandomStream,
    RunDesign,
    SimulateConfig,
    run_designs,
)
from titan_neuro.data.simulate.planted import PlantedSignal
from titan_neuro.data.simulate.scanner import Scanner

_DRIFT_TERMS = 3


def stimulus_latents(config: SimulateConfig) -> np.ndarray:
    """Return the latent of each region that the movie drives, the same in every subject.

    Parameters
    ----------
    config : SimulateConfig

    Returns
    -------
    numpy.ndarray
        ``(seconds of movie, regions)``, of variance 1 in expectation; row 0 is the second of the movie at which run 1
        begins.
    """
    from scipy.signal import lfilter

    n_seconds = max(run.stimulus_start + run.stimulus for run in run_designs(config)) - FIRST_STIMULUS_SECOND
    before = int(10 * max(config.timescales_s)) + max(config.lags_s)
    innovations = config.rng(RandomStream.STIMULUS).standard_normal((before + n_seconds, len(STREAMS)))
    latents = np.empty((n_seconds, len(STREAMS), len(config.lags_s)))
    for level, (timescale, lag) in enumerate(zip(config.timescales_s, config.lags_s, strict=True)):
        coefficient = np.exp(-1 / timescale)
        series = lfilter([np.sqrt(1 - coefficient**2)], [1, -coefficient], innovations, axis=0)
        latents[:, :, level] = series[before - lag : before - lag + n_seconds]
    return latents.reshape(n_seconds, -1)


def latents_at_volumes(latents: np.ndarray, run: RunDesign) -> np.ndarray:
    """Return the latents at each volume of a run, ``(n_volumes, regions)``; zero during fixation.

    Parameters
    ----------
    latents : numpy.ndarray
        As `stimulus_latents` returns them, ``(seconds of movie, regions)``.
    run : RunDesign
    """
    of_run = np.zeros((run.n_volumes, latents.shape[1]))
    start = run.stimulus_start - FIRST_STIMULUS_SECOND
    of_run[run.fixation : run.fixation + run.stimulus] = latents[start : start + run.stimulus]
    return of_run


def simulate_run(
    config: SimulateConfig,
    subject: int,
    run: RunDesign,
    *,
    stimulus: np.ndarray,
    regions: np.ndarray,
    baseline: np.ndarray,
    planted: Sequence[PlantedSignal] = (),
    followed: np.ndarray | None = None,
    scanner: Scanner | None = None,
) -> Iterator[np.ndarray]:
    """Simulate one run, volume by volume: memory does not grow with its length.

    Parameters
    ----------
    config : SimulateConfig
    subject : int
        Index of the subject, from 0.
    run : RunDesign
    stimulus : numpy.ndarray
        `latents_at_volumes` of the run, ``(n_volumes, regions)``.
    regions, baseline : numpy.ndarray
        Region of each voxel, ``(voxels,)``, and its mean intensity in the image's units, ``(voxels,)``.
    planted : sequence of PlantedSignal
        Associations and delayed responses, fine patterns, a story, or its retelling; none by default.
    followed : numpy.ndarray, optional
        Fraction of the movie's variance that follows the movie at each volume, ``(n_volumes, regions)``; the rest is
        the subject's own activity. By default 1.
    scanner : Scanner, optional
        The scanner in this run; by default the images are in the template's space.

    Yields
    ------
    numpy.ndarray
        A volume, int16, ``(voxels,)`` or, with a `scanner`, ``(recorded voxels,)``.
    """
    rng = config.rng(RandomStream.RUN, subject, run.run)
    n_driven = stimulus.shape[1]
    n_regions = max(n_driven, int(regions.max()) + 1)
    thermal = config.thermal_fraction - sum(part.variance_fraction for part in planted)
    thermal = np.sqrt(thermal + config.stimulus_fraction * (regions >= config.n_driven_regions))
    if scanner is not None:
        thermal = scanner.at_rest(np.broadcast_to(thermal, regions.shape))
    n_voxels = len(regions) if scanner is None else scanner.n_voxels
    courses = [(part.time_courses(subject, run), part.patterns) for part in planted]
    coefficient = np.exp(-1 / config.spontaneous_timescale_s)
    spontaneous = rng.standard_normal(n_regions)
    drift_weights = _drift_weights(rng, n_voxels) * np.sqrt(config.drift_fraction)
    phase = np.pi * (np.arange(run.n_volumes) + 0.5) / run.n_volumes
    drift_terms = np.cos(np.outer(phase, np.arange(1, _DRIFT_TERMS + 1)))
    for volume in range(run.n_volumes):
        active = np.sqrt(config.spontaneous_fraction) * spontaneous
        movie = config.stimulus_fraction * (1 if followed is None else followed[volume])
        own = config.spontaneous_fraction + (config.stimulus_fraction - movie)
        active[:n_driven] = np.sqrt(movie) * stimulus[volume] + np.sqrt(own) * spontaneous[:n_driven]
        signal = active[regions]
        for time_courses, patterns in courses:
            signal += time_courses[volume] @ patterns
        intensity, signal = (baseline, signal) if scanner is None else scanner.acquire(volume, signal)
        signal += drift_terms[volume] @ drift_weights
        signal += thermal * rng.standard_normal(n_voxels)
        yield np.rint(intensity * (1 + config.signal_sd_percent / 100 * signal)).astype(np.int16)
        innovation = np.sqrt(1 - coefficient**2) * rng.standard_normal(n_regions)
        spontaneous = coefficient * spontaneous + innovation


def _drift_weights(rng: np.random.Generator, n_voxels: int) -> np.ndarray:
    """Draw weights of the half-cosines, ``(terms, voxels)``: variance falls as 1 / k^2, and is 1 for the drift."""
    variance = 1 / np.arange(1, _DRIFT_TERMS + 1) ** 2.0
    # A cosine of amplitude 1 has variance 1/2.
    variance *= 2 / variance.sum()
    return np.sqrt(variance)[:, None] * rng.standard_normal((_DRIFT_TERMS, n_voxels))
