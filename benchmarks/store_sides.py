"""What benchmarks/store.py compares: one run, kept in five ways, and how each gives back a window of it."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import nibabel as nib
import numpy as np
import torch
from common import BenchmarkError
from nilearn.datasets import load_mni152_brain_mask
from scipy.ndimage import gaussian_filter
from torch import Tensor

from titan_neuro.data.space import Space
from titan_neuro.data.store import RunHeader, RunStore, write_run

STEP = 1 / 512
"""Step of the integers in ``.nii.gz``, in standard deviations: float16 rounds as coarsely beyond 2 of them."""
_HEADER_BYTES = 352


def brain(voxel_mm: int) -> Space:
    """Nilearn's brain mask of the MNI152 template; at 2 mm 235,375 of 99 x 117 x 95 voxels."""
    image = load_mni152_brain_mask(resolution=voxel_mm)
    mask = np.asarray(image.dataobj) > 0
    return Space(kind="volume", name="MNI152", mask=mask, affine=np.asarray(image.affine, dtype=np.float64))


def noise(space: Space, n_time_points: int, voxel_mm: int) -> np.ndarray:
    """Stand in for z-scored time points, which compress as badly: float16 ``(time, voxels)``, about one standard
    deviation.

    81 % of the variance is smooth in space (Gaussian of 5 mm FWHM) and in time (AR(1), 0.5), 19 % white.
    """
    rng = np.random.default_rng(0)
    series = np.empty((n_time_points, space.n_features), dtype=np.float16)
    smooth = np.zeros(space.n_features, dtype=np.float32)
    for t in range(n_time_points):
        field = gaussian_filter(rng.standard_normal(space.mask.shape, dtype=np.float32), 5 / 2.355 / voxel_mm)
        new = field[space.mask] / field.std()
        smooth = 0.5 * smooth + np.sqrt(0.75) * new if t else new
        series[t] = 0.9 * smooth + np.sqrt(0.19) * rng.standard_normal(space.n_features, dtype=np.float32)
    return series


class Side(Protocol):
    """One way to keep a run.

    Attributes
    ----------
    paths : list of Path
        All its files.
    order : numpy.ndarray or slice
        Where the voxels lie in what `window` returns, in C order of the grid.
    """

    paths: list[Path]
    order: np.ndarray | slice

    def window(self, start: int, stop: int) -> Tensor:
        """Time points ``start <= t < stop`` inside the mask: float32 ``(time, voxels)``, voxels in the order of the
        file.
        """
        ...

    def grid(self, start: int, stop: int) -> Tensor:
        """Time points ``start <= t < stop``: float32 ``(time, x, y, z)``, 0 outside the mask, in any memory order."""
        ...

    def forget(self) -> None:
        """Let go of pages of the files that the process has mapped: the system keeps those in its cache."""
        ...


class Store:
    """Ours."""

    order = slice(None)

    def __init__(self, folder: Path, space: Space, series: np.ndarray) -> None:
        path = folder / "run.zarr"
        scored = np.ones(len(series), dtype=bool)
        header = RunHeader(key="run", entities={"subject": "01"}, repetition_time=1.0, space=space, scored=scored)
        write_run(path, header, [series])
        self.paths = [file for file in path.rglob("*") if file.is_file()]
        self._view = RunStore(path).within(space)

    def window(self, start: int, stop: int) -> Tensor:
        return self._view.read(start, stop)

    def grid(self, start: int, stop: int) -> Tensor:
        return self._view.read_grid(start, stop)

    def forget(self) -> None:
        pass


class Memmap:
    """One file of float16, the full grid."""

    order = slice(None)

    def __init__(self, folder: Path, space: Space, series: np.ndarray) -> None:
        self.paths = [folder / "run.f16"]
        self._shape, self._voxels = (len(series), *space.mask.shape), np.flatnonzero(space.mask)
        with self.paths[0].open("wb") as file:
            for volume in _volumes(space, series):
                file.write(volume.tobytes())
        self._map: np.memmap | None = None

    def _mapped(self) -> np.memmap:
        if self._map is None:
            self._map = np.memmap(self.paths[0], dtype="<f2", mode="r", shape=self._shape)
        return self._map

    def window(self, start: int, stop: int) -> Tensor:
        volumes = self._mapped()[start:stop].reshape(stop - start, -1)
        return torch.from_numpy(volumes.take(self._voxels, axis=1)).float()

    def grid(self, start: int, stop: int) -> Tensor:
        return torch.from_numpy(np.array(self._mapped()[start:stop])).float()

    def forget(self) -> None:
        self._map = None


class Volumes:
    """A file a time point, the full grid as float16, kept by torch: SwiFT's way."""

    order = slice(None)

    def __init__(self, folder: Path, space: Space, series: np.ndarray) -> None:
        self.paths = [folder / f"frame_{t}.pt" for t in range(len(series))]
        self._voxels = torch.from_numpy(np.flatnonzero(space.mask))
        for path, volume in zip(self.paths, _volumes(space, series), strict=True):
            torch.save(torch.from_numpy(volume), path)

    def _load(self, start: int, stop: int) -> Iterator[Tensor]:
        return (torch.load(path, weights_only=True) for path in self.paths[start:stop])

    def window(self, start: int, stop: int) -> Tensor:
        return torch.stack([volume.view(-1)[self._voxels] for volume in self._load(start, stop)]).float()

    def grid(self, start: int, stop: int) -> Tensor:
        return torch.stack(list(self._load(start, stop))).float()

    def forget(self) -> None:
        pass


class Nifti:
    """``.nii.gz`` of int16, as fMRIPrep's, read from its start or by an index of the whole file."""

    def __init__(self, path: Path, space: Space, n_time_points: int, *, is_indexed: bool) -> None:
        self.paths = [path]
        self._voxels = np.flatnonzero(space.mask.T)
        # NIfTI counts x first: its voxels come in the order of the transposed grid.
        self.order = (np.cumsum(space.mask.T).reshape(space.mask.T.shape) - 1).T[space.mask]
        if is_indexed:
            indexed_gzip = _indexed_gzip()
            index = path.with_suffix(".index")
            with indexed_gzip.IndexedGzipFile(path) as file:
                file.build_full_index()
                file.export_index(index)
            self._file = indexed_gzip.IndexedGzipFile(path, index_file=index)
            self.paths.append(index)
        else:
            # Given as a file, so that nibabel does not choose the indexed reader by itself.
            self._file = gzip.GzipFile(path)
        # A slope of 1 here: nibabel would scale to float64, which takes longer.
        spec = ((*space.mask.shape, n_time_points), np.dtype("<i2"), _HEADER_BYTES, 1.0, 0.0)
        self._data = nib.arrayproxy.ArrayProxy(self._file, spec)

    def window(self, start: int, stop: int) -> Tensor:
        volumes = self._data[..., start:stop].T.reshape(stop - start, -1)
        return torch.from_numpy(volumes.take(self._voxels, axis=1)).float().mul_(STEP)

    def grid(self, start: int, stop: int) -> Tensor:
        return torch.from_numpy(self._data[..., start:stop].T.astype(np.float32)).mul_(STEP).permute(0, 3, 2, 1)

    def forget(self) -> None:
        pass

    @staticmethod
    def write(path: Path, space: Space, series: np.ndarray) -> None:
        """Write it time point by time point with zlib's level 1, which nibabel takes too."""
        header = nib.Nifti1Header()
        header.set_data_dtype(np.int16)
        header.set_data_shape((*space.mask.shape, len(series)))
        header.set_slope_inter(STEP, 0)
        header.set_sform(space.affine)
        header["vox_offset"], header["magic"] = _HEADER_BYTES, b"n+1"
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(header.binaryblock.ljust(_HEADER_BYTES, b"\0"))
            for volume in _volumes(space, series):
                file.write(np.rint(volume.astype(np.float32) / STEP).astype("<i2").tobytes(order="F"))


def _volumes(space: Space, series: np.ndarray) -> Iterator[np.ndarray]:
    for time_point in series:
        yield space.scatter(time_point).astype("<f2")


def _indexed_gzip() -> object:
    try:
        import indexed_gzip
    except ImportError as error:
        raise BenchmarkError("indexed_gzip is not installed.", "pip install -e '.[dev]'") from error
    return indexed_gzip


def make_sides(folder: Path, space: Space, series: np.ndarray) -> dict[str, Side]:
    """Write the run in every way, and open it; the store comes first."""
    recording = folder / "run.nii.gz"
    Nifti.write(recording, space, series)
    makers: dict[str, Callable[[], Side]] = {
        "store": lambda: Store(folder, space, series),
        "memmap": lambda: Memmap(folder, space, series),
        "a file a time point": lambda: Volumes(folder, space, series),
        "indexed .nii.gz": lambda: Nifti(recording, space, len(series), is_indexed=True),
        "plain .nii.gz": lambda: Nifti(recording, space, len(series), is_indexed=False),
    }
    return {name: make() for name, make in makers.items()}
