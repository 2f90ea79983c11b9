"""What the preparation of a run takes of memory: known from headers beforehand, and bounded while it goes on.

A process holds the program, then what a run needs whole (masks, transforms, fields, tables), then a block of time
points. The first is measured; the second is estimated from the headers and sizes of the files, step by step, and from
above; the block gets what is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import math
import re
import resource
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.bids.annex import is_missing
from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.cleaning import BYTES_PER_FEATURE, BYTES_PER_VALUE_READ, bytes_per_time_point
from titan_neuro.data.prepare.config import PrepareConfig
from titan_neuro.data.prepare.grid import DEFAULT_RESOLUTION_MM, EXTENT_MM
from titan_neuro.data.prepare.images import reading
from titan_neuro.data.prepare.inputs import input_files
from titan_neuro.data.prepare.routes import OpenRun, is_realigned, output_route, output_space
from titan_neuro.data.prepare.slice_timing import MEMORY_BYTES as SLICE_TIMING_BYTES
from titan_neuro.data.prepare.steady_state import MAX_EXAMINED, MAX_SAMPLED_VOXELS
from titan_neuro.data.prepare.surfaces import SEARCHED_VALUES
from titan_neuro.data.store.arrays import layout
from titan_neuro.errors import ConfigError
from titan_neuro.provenance import peak_bytes

# Imported on the way of a run: they belong to the program, not to a block.
_LIBRARIES = (
    "h5py",
    "nibabel.cifti2",
    "nilearn.datasets",
    "nilearn.interfaces.fmriprep",
    "nilearn.masking",
    "nilearn.signal",
    "scipy.interpolate",
    "scipy.io",
    "scipy.ndimage",
    "scipy.signal",
    "scipy.sparse",
    "zarr",
)
# Small objects, and what the interpreter keeps of memory that was freed; before the first run also the parts of
# libraries that come into memory as they are used.
_SLACK_BYTES, _UNUSED_LIBRARIES_BYTES = 64 * 2**20, 96 * 2**20
# glibc's number of the option; arrays from this size on are mapped one by one.
_M_MMAP_THRESHOLD, _MAPPED_BYTES = -3, 2**20
# Of the template's brain mask, rounded up; and what reading it at 1 mm takes.
_BRAIN_MM3, _TEMPLATE_BYTES = 2.0e6, 250 * 10**6
# Another process, its libraries and the images that it registers.
_ANTS_BYTES = 800 * 10**6
# One volume, as stored, scaled, as a row, filtered, and as coefficients of splines.
_BYTES_PER_VOXEL = 48
# A 3D image that is read whole, compared and sampled; labels are compared with rounded ones.
_BYTES_PER_IMAGE_VOXEL, _BYTES_PER_LABEL = 32, 80
# Coordinates of an output voxel, moved, distorted, compared and narrowed.
_BYTES_PER_POINT = 8 * 3 * 8
# Sums over time for each feature, without those of confounds.
_BYTES_PER_STATE = 8 * 10
# A shard as it is filled, as it is encoded in parts, and as it is written.
_COPIES_OF_A_SHARD = 4
# Confounds of the presets, as far as they are not known yet.
_MOST_CONFOUNDS = 40
# White matter and CSF at a probability of 0.99, of all voxels of the brain; their values are held twice, and in double
# precision where they are fitted.
_FRACTION_OF_TISSUES, _BYTES_PER_TISSUE_VALUE, _BYTES_PER_FITTED_VALUE = 0.4, 8, 40
# A table of text as Python objects and as numbers; XML as objects, for each of its bytes.
_BYTES_PER_BYTE_OF_TABLE, _BYTES_PER_BYTE_OF_XML = 16, 16
_MOST_COMPRESSION = 8
# The part of a GIFTI file in which the size of its arrays is said.
_GIFTI_START = 2**16


def resident_bytes() -> int:
    """Return the resident size of this process; where the system has no ``/proc``, its highest so far."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    return peak_bytes()


def program_bytes() -> int:
    """Import what preparing a run imports, and return what this process will hold beside the run, from above."""
    release_memory()
    return resident_bytes() + _SLACK_BYTES + _UNUSED_LIBRARIES_BYTES


def release_memory() -> None:
    """Import what preparing a run imports, and have memory that is freed go back to the system from now on.

    The C library of Linux (glibc) would keep arrays of up to 32 MiB that were freed, and cut others from them: the
    resident size would then be far above what is in use. Elsewhere nothing is changed.
    """
    for name in _LIBRARIES:
        importlib.import_module(name)
    with contextlib.suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        libc.malloc_trim(0)


def bytes_for_blocks(name: str, run: OpenRun, memory_bytes: int) -> int:
    """Return what is left for a block of time points, now that a run is open.

    Parameters
    ----------
    name : str
        Of the run, for the message.
    run : OpenRun
    memory_bytes : int
        Bound on the resident size of this process.

    Raises
    ------
    ConfigError
        Not a single time point fits.
    """
    series = run.series
    release_memory()
    used = (
        resident_bytes()
        + _SLACK_BYTES
        + _bytes_while_cleaning(series.space.n_features, series.n_time_points, run.confounds.values.shape[1])
    )
    needed = used + bytes_per_time_point(series)
    if needed > memory_bytes:
        raise ConfigError(
            f"{name}: its preparation needs {in_gb(needed)} GB of memory in one process, found "
            f"{in_gb(memory_bytes)} GB for each.",
            "Give more --mem (memory_bytes), or fewer --nprocs (n_processes).",
        )
    return memory_bytes - used


def least_bytes(recording: Recording, config: PrepareConfig) -> int:
    """Return what preparing a run takes at least beside the program, estimated from above, from headers and sizes.

    Parameters
    ----------
    recording : Recording
        Its files are readable; of those that are not on this machine nothing is counted.
    config : PrepareConfig

    Raises
    ------
    ImageError
        A header can't be read.
    OSError
        A file is not there.
    ConfigError
        A setting does not fit the run.
    """
    tables = sum(_bytes_of_table(path) for path in input_files(recording, config).values() if not is_missing(path))
    if recording.kind == "volume":
        return tables + _of_volumes(recording, config)
    n_time_points, n_features, whole = _size_of_features(recording)
    return tables + max(
        whole + _of_atlas(config),
        whole
        + _bytes_while_cleaning(n_features, n_time_points, _n_confounds(config))
        + n_features * (BYTES_PER_VALUE_READ + BYTES_PER_FEATURE),
    )


def _bytes_of_table(path: Path) -> int:
    if path.name.endswith(".tsv.gz"):
        return _BYTES_PER_BYTE_OF_TABLE * _MOST_COMPRESSION * path.stat().st_size
    return _BYTES_PER_BYTE_OF_TABLE * path.stat().st_size if path.suffix == ".tsv" else 0


def in_gb(n_bytes: float) -> str:
    """Return an amount of memory in GB (10^9 bytes), for messages: ``0.25``."""
    return f"{n_bytes / 1e9:.2f}"


def _n_confounds(config: PrepareConfig) -> int:
    return 0 if config.confounds == "none" else _MOST_CONFOUNDS


def _bytes_while_cleaning(n_features: int, n_time_points: int, n_confounds: int) -> int:
    """What stays in memory from block to block: sums for each feature, and the store's shard."""
    # A header that is not valid may say 0.
    shard = layout(max(n_time_points, 1), max(n_features, 1))[1] * n_features * 2
    return n_features * (_BYTES_PER_STATE + 8 * n_confounds) + _COPIES_OF_A_SHARD * shard


def _of_volumes(recording: Recording, config: PrepareConfig) -> int:
    """The step of a run of volumes that takes most."""
    shape = _shape(recording.path)
    n_voxels, n_time_points = math.prod(shape[:3]), math.prod(shape[3:])
    resolution_mm = output_space(recording, config)[1]
    n_features, mask = _n_features(recording, config, n_voxels, resolution_mm)
    # The masks of the output's grid, and the points of its voxels.
    grid = 0 if resolution_mm is None else round(math.prod(EXTENT_MM) / resolution_mm**3)
    stays = 4 * grid + (n_features * _BYTES_PER_POINT if grid else 0)
    sampled = n_voxels // max(1, n_voxels // (10 * MAX_SAMPLED_VOXELS))
    steps = [
        MAX_EXAMINED * sampled * 10,
        SLICE_TIMING_BYTES if config.slice_timing else 0,
        mask + 8 * grid,
        stays + _of_transforms(recording, config, n_voxels) + 8 * grid,
        stays + _of_atlas(config),
        stays + _of_confounds(recording, config, n_features, n_time_points),
        stays
        + _bytes_while_cleaning(n_features, n_time_points, _n_confounds(config))
        + n_voxels * BYTES_PER_VALUE_READ
        + n_features * BYTES_PER_FEATURE,
    ]
    return max(steps) + _BYTES_PER_VOXEL * n_voxels


def _n_features(
    recording: Recording, config: PrepareConfig, n_voxels: int, resolution_mm: float | None
) -> tuple[int, int]:
    """Voxels of the output (at most), and the bytes that finding them takes."""
    if is_realigned(recording, config):
        return round(_BRAIN_MM3 / (resolution_mm or DEFAULT_RESOLUTION_MM) ** 3), 0
    found = n_voxels
    needed = (config.mask_time_points * 16 + _BYTES_PER_IMAGE_VOXEL) * n_voxels
    if recording.mask is not None and not is_missing(recording.mask):
        with reading(recording.mask):
            found = int(np.count_nonzero(_open(recording.mask).dataobj))
        needed = _BYTES_PER_IMAGE_VOXEL * n_voxels
    if resolution_mm is not None:
        voxel_mm3 = math.prod(map(float, _open(recording.path).header.get_zooms()[:3]))
        found = round(1.1 * found * voxel_mm3 / resolution_mm**3)
    return found, needed


def _of_transforms(recording: Recording, config: PrepareConfig, n_voxels: int) -> int:
    """What finding the point of each output voxel takes, beside the points."""
    route = output_route(recording, config)
    if route == "rough registration":
        return _TEMPLATE_BYTES + _ANTS_BYTES + 12 * config.mask_time_points * n_voxels
    if route != "transforms":
        return 0
    return _TEMPLATE_BYTES + max(
        [_bytes_of_transform(path) for path in recording.transforms.values() if not is_missing(path)], default=0
    )


def _bytes_of_transform(path: Path) -> int:
    """What reading a file of transforms, a fieldmap or a tissue map takes, from its header."""
    if path.name.endswith((".nii", ".nii.gz")):
        return _BYTES_PER_IMAGE_VOXEL * math.prod(_shape(path))
    if path.suffix != ".h5":
        return _BYTES_PER_BYTE_OF_TABLE * path.stat().st_size
    import h5py

    sizes: list[int] = []

    def add(_: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset):
            # As stored, in single precision, as vectors in RAS, and whether they are finite.
            sizes.append(entry.size * (entry.dtype.itemsize + 9))

    with reading(path), h5py.File(path) as file:
        file.visititems(add)
    return sum(sizes)


def _shape(path: Path) -> tuple[int, ...]:
    return tuple(map(int, _open(path).shape))


def _open(path: Path) -> Any:
    """Open an image, of which the header alone is read."""
    import nibabel as nib

    with reading(path):
        return nib.load(path)


def _of_atlas(config: PrepareConfig) -> int:
    """What reading the atlas takes."""
    if config.atlas is None or is_missing(config.atlas):
        return 0
    if config.atlas.name.endswith((".nii", ".nii.gz")):
        return _BYTES_PER_LABEL * math.prod(_shape(config.atlas))
    return _BYTES_PER_LABEL * config.atlas.stat().st_size


def _of_confounds(recording: Recording, config: PrepareConfig, n_features: int, n_time_points: int) -> int:
    """What computing the components of white matter and CSF takes."""
    if output_route(recording, config) != "transforms":
        return 0
    # During a causal calibration few time points are in double precision.
    per_value = _BYTES_PER_TISSUE_VALUE + (_BYTES_PER_FITTED_VALUE if config.estimation == "whole-run" else 4)
    return round(_FRACTION_OF_TISSUES * n_features) * n_time_points * per_value


def _size_of_features(recording: Recording) -> tuple[int, int, int]:
    """Time points and features of parcels or surfaces, from above, and what reading them takes."""
    import nibabel as nib

    if recording.hemispheres:
        arrays = [_gifti_shape(path) for path in recording.hemispheres.values()]
        n_values, n_time_points = sum(t * n for t, n in arrays), arrays[0][0]
        # The text of a file, its values, those of both hemispheres, and all of them side by side.
        files = sum(path.stat().st_size for path in recording.hemispheres.values())
        return n_time_points, sum(n for _, n in arrays), 3 * files + 16 * n_values
    if recording.path.name.endswith(".nii"):
        with reading(recording.path, "its header"), recording.path.open("rb") as file:
            header = nib.Nifti2Header.from_fileobj(file)
            n_time_points, n_features = (int(count) for count in header.get_data_shape()[4:6])
        n_whole = n_features * n_time_points if recording.kind == "parcels" else SEARCHED_VALUES
        xml = _BYTES_PER_BYTE_OF_XML * int(header.get_data_offset())
        return n_time_points, n_features, xml + 24 * min(n_whole, n_features * n_time_points)
    with recording.path.open("rb") as file:
        n_columns = file.readline().count(b"\t") + 1
        n_rows = sum(1 for _ in file)
    # What the table takes is counted with the others.
    return n_rows, n_columns, 0


def _gifti_shape(path: Path) -> tuple[int, int]:
    """Time points and vertices of a GIFTI file, as the first of its arrays says."""
    with path.open("rb") as file:
        start = file.read(_GIFTI_START)
    found = {
        name.decode(): int(number)
        for name, number in reversed(re.findall(rb"""(NumberOfDataArrays|Dim0|Dim1)\s*=\s*["'](\d+)""", start))
    }
    n_arrays, n_vertices = found.get("NumberOfDataArrays", 1), found.get("Dim0", 0)
    return (found.get("Dim1", 1), n_vertices) if n_arrays == 1 else (n_arrays, n_vertices)
