"""The planted truth of a simulated recording: when the movie ran, what it drives, and the volumes that come of it.

Every voxel belongs to one region, every region to one stream (what is shown) and one level (how long it is kept). With
``u_s`` the movie's news of stream ``s``, standard normal and new in each second, a region at level ``k`` carries ::

    x_sk(t) = a_k x_sk(t - 1) + sqrt(1 - a_k^2) u_s(t - lag_k),    a_k = exp(-1 / timescale_k)

in movie time ``t`` (seconds): its autocorrelation is ``exp(-|h| / timescale_k)``, and what the lowest level shows now
the higher ones show ``lag_k`` later, so one voxel's future is in another's past. A voxel ``v`` of that region is ::

    y_v = baseline_v (1 + sd (sqrt(movie) x_sk + sqrt(spontaneous) z_sk + sqrt(recall_v) r_v
                              + sqrt(drift) d_v + sqrt(thermal_v) e_v))

where each of ``x, z, r, d, e`` has variance 1 and the five fractions add up to 1: ``z`` is the subject's own activity
(AR(1), one series a region), ``d`` a drift of three half-cosines a run, ``e`` white noise. ``r`` is what a memory alone
can predict (`titan_neuro.data.simulate.recall`): ``recall_v`` is the fraction of associations where those are, of
delayed responses where those are, and 0 elsewhere and by default. The latents are meant at the level of the BOLD
signal: no hemodynamic response is laid over them, so the planted timescales are those of the data.

With ``transforms`` the first three terms, and the baseline, are seen through the head as it lies at that moment
(`titan_neuro.data.simulate.scanner`); drift and noise are of the scanner's voxels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from titan_neuro.data.simulate.config import FIRST_STIMULUS_SECOND, Draw, Screening, SimulateConfig, screenings
from titan_neuro.data.simulate.recall import Recall
from titan_neuro.data.simulate.scanner import Camera

STREAMS = ("ventral", "middle", "dorsal")
_DRIFT_TERMS = 3


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


def stimulus_latents(config: SimulateConfig) -> np.ndarray:
    """What the movie plants in each region, the same in every subject.

    Returns
    -------
    numpy.ndarray
        ``(seconds of stimulus, regions)``, of variance 1 in expectation; row 0 is the movie's second at which run 1
        begins.
    """
    from scipy.signal import lfilter

    n_seconds = max(run.stimulus_start + run.stimulus for run in screenings(config)) - FIRST_STIMULUS_SECOND
    before = int(10 * max(config.timescales_s)) + max(config.lags_s)
    news = config.rng(Draw.STIMULUS).standard_normal((before + n_seconds, len(STREAMS)))
    latents = np.empty((n_seconds, len(STREAMS), len(config.lags_s)))
    for level, (timescale, lag) in enumerate(zip(config.timescales_s, config.lags_s, strict=True)):
        keep = np.exp(-1 / timescale)
        kept = lfilter([np.sqrt(1 - keep**2)], [1, -keep], news, axis=0)
        latents[:, :, level] = kept[before - lag : before - lag + n_seconds]
    return latents.reshape(n_seconds, -1)


def screened_latents(latents: np.ndarray, run: Screening) -> np.ndarray:
    """The movie's latents at each volume of a run, ``(n_volumes, regions)``; zero during fixation."""
    shown = np.zeros((run.n_volumes, latents.shape[1]))
    start = run.stimulus_start - FIRST_STIMULUS_SECOND
    shown[run.fixation : run.fixation + run.stimulus] = latents[start : start + run.stimulus]
    return shown


def run_time_points(
    config: SimulateConfig,
    subject: int,
    run: Screening,
    *,
    stimulus: np.ndarray,
    regions: np.ndarray,
    baseline: np.ndarray,
    recall: Recall | None = None,
    camera: Camera | None = None,
) -> Iterator[np.ndarray]:
    """Simulate one run, volume by volume: memory does not grow with its length.

    Parameters
    ----------
    config : SimulateConfig
        What is planted.
    subject : int
        Index of the subject, from 0.
    run : Screening
        Which run.
    stimulus : numpy.ndarray
        `screened_latents` of the run, ``(n_volumes, regions)``.
    regions, baseline : numpy.ndarray
        Region of each voxel, ``(voxels,)``, and its mean intensity in the image's units.
    recall : Recall, optional
        What is planted for a memory; none by default.
    camera : Camera, optional
        The scanner's view of the run; by default the images are in the template's space.

    Yields
    ------
    numpy.ndarray
        A volume, int16, ``(voxels,)`` or, with a `camera`, ``(recorded voxels,)``.
    """
    rng = config.rng(Draw.RUN, subject, run.run)
    n_regions = stimulus.shape[1]
    thermal = np.sqrt(config.thermal_fraction - (0 if recall is None else recall.share))
    if camera is not None:
        thermal = camera.at_rest(np.broadcast_to(thermal, regions.shape))
    n_voxels = len(regions) if camera is None else camera.n_voxels
    recalled = None if recall is None else (recall.courses(subject, run), recall.patterns)
    keep = np.exp(-1 / config.spontaneous_timescale_s)
    spontaneous = rng.standard_normal(n_regions)
    drift_weights = _drift_weights(rng, n_voxels) * np.sqrt(config.drift_fraction)
    phase = np.pi * (np.arange(run.n_volumes) + 0.5) / run.n_volumes
    drift_terms = np.cos(np.outer(phase, np.arange(1, _DRIFT_TERMS + 1)))
    for volume in range(run.n_volumes):
        of_region = (
            np.sqrt(config.stimulus_fraction) * stimulus[volume] + np.sqrt(config.spontaneous_fraction) * spontaneous
        )
        signal = of_region[regions]
        if recalled is not None:
            courses, patterns = recalled
            signal += courses[volume] @ patterns
        intensity, signal = (baseline, signal) if camera is None else camera.look(volume, signal)
        signal += drift_terms[volume] @ drift_weights
        signal += thermal * rng.standard_normal(n_voxels)
        yield np.rint(intensity * (1 + config.signal_sd_percent / 100 * signal)).astype(np.int16)
        spontaneous = keep * spontaneous + np.sqrt(1 - keep**2) * rng.standard_normal(n_regions)


def _drift_weights(rng: np.random.Generator, n_voxels: int) -> np.ndarray:
    """Weights of the half-cosines, ``(terms, voxels)``, of variance falling as 1 / k^2; the drift has variance 1."""
    variance = 1 / np.arange(1, _DRIFT_TERMS + 1) ** 2.0
    # A cosine of amplitude 1 has variance 1/2.
    variance *= 2 / variance.sum()
    return np.sqrt(variance)[:, None] * rng.standard_normal((_DRIFT_TERMS, n_voxels))
