"""Recordings in which nothing is to be found: what any forecaster earns on them, it has not earned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from titan_neuro.data.bids.output import write_nifti
from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.data.prepare.scratch import ScratchSeries
from titan_neuro.data.prepare.time_series import ParcelTable
from titan_neuro.data.prepare.timing import repetition_time
from titan_neuro.data.space import Space
from titan_neuro.files import atomic, writing_to
from titan_neuro.seeds import named_generator

SurrogateKind = Literal["white", "phase"]
# What is worked on at a time.
_VALUES_AT_A_TIME = 2**22


def write_surrogate(recording: Recording, kind: SurrogateKind, folder: Path, seed: int) -> Recording:
    """Write a recording of the same shape, grid and timing without what was measured.

    ``white``: independent normal noise. ``phase``: each voxel's (or parcel's) Fourier amplitudes with phases drawn
    anew, for every voxel and run apart, so that its own autocorrelation stays and all that it shares with others, movie
    and neighbors, is gone.

    Each voxel keeps its standard deviation, and its mean too, from which a brain mask may have to be computed. Where
    the recording is to be resampled by transforms the mean is 0: head motion would move a mean image through the
    voxels, and make a signal of it.

    Parameters
    ----------
    recording : Recording
        Its content is on this machine.
    kind : {"white", "phase"}
    folder : Path
        Where the image or table goes; events, mask, confounds and transforms stay those of the recording.
    seed : int
        With the name of the run, the seed of the noise.

    Returns
    -------
    Recording
        For `titan_neuro.data.prepare.prepare_run`.

    Raises
    ------
    ImageError, MetadataError
        The recording can't be read.
    OutputError
        The folder can't be written.
    """
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    rng = named_generator(seed, recording.key)
    write = _write_table if recording.kind == "parcels" else _write_image
    return replace(recording, path=write(recording, kind, folder, rng))


def surrogate(series: np.ndarray, kind: SurrogateKind, rng: np.random.Generator, *, keep_mean: bool) -> np.ndarray:
    """Replace series by noise of the same variance, or by ones of the same amplitudes and other phases.

    Parameters
    ----------
    series : numpy.ndarray
        ``(time, features)``, in any units.
    kind : {"white", "phase"}
    rng : numpy.random.Generator
    keep_mean : bool
        Whether each feature keeps its mean; else it is 0 (of white noise: expected to be).

    Returns
    -------
    numpy.ndarray
        float64 ``(time, features)``; a constant feature stays constant.
    """
    series = np.asarray(series, dtype=np.float64)
    mean = series.mean(axis=0)
    if kind == "white":
        noise = rng.normal(size=series.shape) * series.std(axis=0)
    else:
        spectrum = np.fft.rfft(series - mean, axis=0)
        turn = np.exp(2j * np.pi * rng.random(spectrum.shape))
        if len(series) % 2 == 0:
            # The Nyquist frequency has no phase but a sign.
            turn[-1] = np.where(rng.random(spectrum.shape[1]) < 0.5, -1.0, 1.0)
        noise = np.fft.irfft(spectrum * turn, len(series), axis=0)
    return np.asarray(noise + mean if keep_mean else noise)


def _write_table(recording: Recording, kind: SurrogateKind, folder: Path, rng: np.random.Generator) -> Path:
    table = ParcelTable(recording)
    values = surrogate(table.read(0, table.n_time_points), kind, rng, keep_mean=True)
    path = folder / recording.path.name
    with atomic(path) as temporary:
        pd.DataFrame(values, columns=list(table.space.parcels)).to_csv(
            temporary, sep="\t", index=False, float_format="%.9g"
        )
    return path


def _write_image(recording: Recording, kind: SurrogateKind, folder: Path, rng: np.random.Generator) -> Path:
    image = BoldImage(recording.path)
    tr = repetition_time(recording, image.header_repetition_time)
    whole = Space(kind="volume", name="native", mask=np.ones(image.shape, dtype=bool), affine=image.affine)
    path = folder / f"{recording.path.name.partition('.')[0]}.nii.gz"
    at_a_time = max(1, _VALUES_AT_A_TIME // whole.n_features)
    with ScratchSeries(folder / "series") as scratch:
        for start in range(0, image.n_volumes, at_a_time):
            block = image.read(start, min(start + at_a_time, image.n_volumes))
            scratch.append(block.reshape(whole.n_features, -1).T)
        width = max(1, _VALUES_AT_A_TIME // image.n_volumes)
        for first in range(0, whole.n_features, width):
            series = scratch.read_columns(first, min(first + width, whole.n_features))
            made = surrogate(series, kind, rng, keep_mean=recording.route != "transforms")
            scratch.replace_columns(first, made)
        write_nifti(path, whole, _volumes(scratch), n_time_points=image.n_volumes, repetition_time=tr)
    return path


def _volumes(scratch: ScratchSeries) -> Iterator[np.ndarray]:
    for volume in range(scratch.n_time_points):
        yield scratch.read(volume, volume + 1)
