"""Surrogate recordings for null controls: nothing in them can be forecast beyond linear autoregression."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from titan_neuro.data.bids.maps import write_surface_series
from titan_neuro.data.bids.output import write_nifti
from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.data.prepare.scratch import ScratchSeries
from titan_neuro.data.prepare.surfaces import SurfaceSeries
from titan_neuro.data.prepare.time_series import ParcelTable
from titan_neuro.data.space import Space
from titan_neuro.files import write_bytes, writing_to
from titan_neuro.seeds import named_generator
from titan_neuro.tables import write_tsv

SurrogateKind = Literal["white", "phase"]
# Number of values in memory at a time.
_BLOCK_VALUES = 2**22


def write_surrogate(recording: Recording, kind: SurrogateKind, folder: Path, seed: int) -> Recording:
    """Write a surrogate of a recording, of the same shape, grid and timing.

    ``white``: independent normal noise. ``phase``: each voxel (or parcel) keeps its Fourier amplitudes, with random
    phases that are independent between voxels and runs. It keeps its autocorrelation, and loses its relation to the
    movie and to other voxels.

    Each voxel keeps its standard deviation. It also keeps its mean, from which a brain mask may be computed, except if
    the recording will be resampled by transforms: head motion would shift the mean image across voxels, which is a
    signal.

    Parameters
    ----------
    recording : Recording
        Its files are on this machine.
    kind : {"white", "phase"}
    folder : Path
        Folder of the new image or table; events, mask, confounds and transforms are those of the recording.
    seed : int
        Seed of the noise, together with the name of the run.

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
    if recording.kind == "surface":
        return _write_surfaces(recording, kind, folder, rng)
    is_table = recording.path.suffix == ".tsv"
    write = _write_image if recording.kind == "volume" else _write_table if is_table else _write_parcel_series
    return replace(recording, path=write(recording, kind, folder, rng), surrogate=kind)


def surrogate(series: np.ndarray, kind: SurrogateKind, rng: np.random.Generator, *, keep_mean: bool) -> np.ndarray:
    """Replace series by noise of the same variance, or by series of the same amplitudes and random phases.

    Parameters
    ----------
    series : numpy.ndarray
        ``(time, features)``, in any units.
    kind : {"white", "phase"}
    rng : numpy.random.Generator
    keep_mean : bool
        Whether each feature keeps its mean; else the mean is 0 (for white noise: in expectation).

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
        rotation = np.exp(2j * np.pi * rng.random(spectrum.shape))
        if len(series) % 2 == 0:
            # The Nyquist frequency is real: it has a sign instead of a phase.
            rotation[-1] = np.where(rng.random(spectrum.shape[1]) < 0.5, -1.0, 1.0)
        noise = np.fft.irfft(spectrum * rotation, len(series), axis=0)
    return np.asarray(noise + mean if keep_mean else noise)


def _write_table(recording: Recording, kind: SurrogateKind, folder: Path, rng: np.random.Generator) -> Path:
    table = ParcelTable(recording)
    values = surrogate(table.read(0, table.n_time_points), kind, rng, keep_mean=True)
    path = folder / recording.path.name
    # A lost parcel is lost in the surrogate, too.
    surrogates = pd.DataFrame(values, columns=list(table.space.parcels))
    write_tsv(path, surrogates.assign(**dict.fromkeys(table.space.lost_parcels, np.nan)), float_format="%.9g")
    return path


def _write_parcel_series(recording: Recording, kind: SurrogateKind, folder: Path, rng: np.random.Generator) -> Path:
    import nibabel as nib

    image = nib.load(recording.path)
    # A lost parcel, NaN throughout, stays lost.
    values = surrogate(np.asarray(image.dataobj), kind, rng, keep_mean=True).astype(np.float32)
    path = folder / recording.path.name
    write_bytes(path, nib.Cifti2Image(values, image.header, nifti_header=image.nifti_header).to_bytes())
    return path


def _write_surfaces(recording: Recording, kind: SurrogateKind, folder: Path, rng: np.random.Generator) -> Recording:
    surfaces = SurfaceSeries(recording)
    values = surrogate(surfaces.read(0, surfaces.n_time_points), kind, rng, keep_mean=True)
    stem = folder / recording.path.name.partition(".")[0].removesuffix("_bold").replace("_hemi-L", "")
    # 0: the header of the recording gives none, and neither does this one.
    header_s = surfaces.header_repetition_time or 0.0
    paths = write_surface_series(stem, surfaces.points, values.astype(np.float32), header_s)
    hemispheres = dict(zip(recording.hemispheres, paths, strict=True)) if recording.hemispheres else {}
    return replace(recording, path=paths[0], hemispheres=hemispheres, surrogate=kind)


def _write_image(recording: Recording, kind: SurrogateKind, folder: Path, rng: np.random.Generator) -> Path:
    image = BoldImage(recording.path)
    all_voxels = Space(kind="volume", name="native", mask=np.ones(image.shape, dtype=bool), affine=image.affine)
    path = folder / f"{recording.path.name.partition('.')[0]}.nii.gz"
    n_volumes = max(1, _BLOCK_VALUES // all_voxels.n_features)
    with ScratchSeries(folder / "series") as scratch:
        for start in range(0, image.n_volumes, n_volumes):
            block = image.read(start, min(start + n_volumes, image.n_volumes))
            scratch.append(block.reshape(all_voxels.n_features, -1).T)
        n_columns = max(1, _BLOCK_VALUES // image.n_volumes)
        for first in range(0, all_voxels.n_features, n_columns):
            series = scratch.read_columns(first, min(first + n_columns, all_voxels.n_features))
            scratch.replace_columns(first, surrogate(series, kind, rng, keep_mean=recording.route != "transforms"))
        # 0: the header of the recording gives none, and neither does this one.
        header_s = image.header_repetition_time or 0.0
        write_nifti(path, all_voxels, _volumes(scratch), n_time_points=image.n_volumes, repetition_time=header_s)
    return path


def _volumes(scratch: ScratchSeries) -> Iterator[np.ndarray]:
    for volume in range(scratch.n_time_points):
        yield scratch.read(volume, volume + 1)
