"""The brain mask of a run on its own grid: given by the dataset, or computed from the first volumes."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np

from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.images import BoldImage, read_volume
from titan_neuro.data.space import Space, same_affine
from titan_neuro.errors import ImageError

logger = logging.getLogger(__name__)
# A mask that was resampled is cut where half of a voxel is brain, as on the route of the transforms.
_THRESHOLD = 0.5
# Soft masks are stored from 0 to 1, in percent, or in bytes; a few small integers are labels.
_MIN_FULL_SCALE = 50
# nilearn's quantiles, between which it looks for its threshold.
_CUTOFFS = (0.2, 0.85)
# From this fraction of zeros on, nilearn's threshold falls between the zeros and everything else.
_MIN_PADDING = 0.2
# What is thinner is removed; nilearn takes 2 voxels, which are of 2 to 4 mm usually.
_OPENING_MM, _MAX_OPENING = 7.0, 2
# Air against brain: median intensities of raw images are below 0.2; of brain voxels among each other above 0.4.
_MAX_BACKGROUND = 0.3
# Part of the sum of absolute values that is negative; interpolation alone leaves far less.
_MAX_NEGATIVE = 0.1
# Human brains with CSF have 1,000 to 1,900 mL; a slab of one has less.
_PLAUSIBLE_ML, _MAX_FIELD_OF_VIEW, _MAX_FACES = (200, 2500), 0.7, 3


def mask_image(recording: Recording, image: BoldImage, first: range) -> tuple[Space, str]:
    """Return the space of an image on its own grid, with its brain mask.

    Parameters
    ----------
    recording : Recording
    image : BoldImage
        Of the recording.
    first : range
        First volumes, of the steady state, from whose mean a mask is computed where the dataset has none.

    Returns
    -------
    space : Space
    description : str
        Where the mask is from, in words.

    Raises
    ------
    ImageError
        The mask lies on another grid or is empty; no brain was found in the first volumes.
    """
    name = recording.entities.get("space", "native")
    if recording.mask is not None:
        mask, description = read_mask(recording.mask, image)
    else:
        mask, description = _computed_mask(recording.key, image, first)
    return Space(kind="volume", name=name, mask=mask, affine=image.affine), description


def _computed_mask(key: str, image: BoldImage, first: range) -> tuple[np.ndarray, str]:
    source = f"the first {len(first)} volumes" if not first.start else f"volumes {first.start} to {first.stop - 1}"
    mask = compute_brain_mask(image.read(first.start, first.stop).astype(np.float32).mean(axis=-1), image.affine)
    if not mask.any():
        raise ImageError(
            f"{image.path}: no brain was found in {source}: it is not brighter than its surroundings.",
            "Give a brain mask (*_desc-brain_mask.nii.gz) with --derivatives.",
        )
    extent, doubts = describe_extent(mask, image.affine)
    logger.warning("%s: no brain mask in the dataset: it is computed from %s: %s.", key, source, extent)
    if doubts:
        logger.warning(
            "%s: THE COMPUTED MASK IS PROBABLY NOT THE BRAIN: %s. Look at the mean image beside the store, and give a "
            "mask with --derivatives.",
            *(key, "; ".join(doubts)),
        )
    return mask, "; ".join([f"computed from {source}: {extent}", *(f"doubtful: {doubt}" for doubt in doubts)])


def compute_brain_mask(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Compute a brain mask (`nilearn.masking.compute_epi_mask`), also of an image that is padded with zeros.

    nilearn looks for the largest gap between the intensities of its 20 to 85 % quantiles. Where a fifth of the image
    or more is 0 (or not finite), that gap lies above the zeros, and the air around a head would be brain. Then the
    zeros are left out; where the rest has no dark background (a brain that was extracted), or no contrast at all (a
    mean near 0, after z-scoring), the mask is the largest connected part of what is not 0. The opening that removes
    thin parts is 7 mm, and at most nilearn's 2 voxels, which would remove most of a brain of large voxels.

    Parameters
    ----------
    volume : numpy.ndarray
        float32 ``(x, y, z)``, a mean of volumes.
    affine : numpy.ndarray
        ``(4, 4)``, voxel indices to mm.

    Returns
    -------
    numpy.ndarray
        bool ``(x, y, z)``; all false where no brain is found.
    """
    volume = np.where(np.isfinite(volume), volume, np.float32(0))
    recorded = volume != 0
    is_padded = recorded.mean() <= 1 - _MIN_PADDING
    magnitude = np.abs(volume).sum(dtype=np.float64)
    if not magnitude or -volume[volume < 0].sum(dtype=np.float64) > _MAX_NEGATIVE * magnitude:
        return _largest_part(recorded) if is_padded else np.zeros(volume.shape, dtype=bool)
    if not is_padded:
        return _epi_mask(volume, affine)
    bright = volume >= _largest_gap(volume[recorded])
    background = volume[recorded & ~bright]
    if not background.size or np.median(background) > _MAX_BACKGROUND * np.median(volume[bright]):
        return _largest_part(recorded)
    # The threshold is set here, because nilearn's `exclude_zeros` comes after its smoothing, which leaves fewer zeros.
    return _epi_mask(bright.astype(np.float32), affine, cutoffs=(0.0, 1.0))


def _largest_gap(values: np.ndarray) -> float:
    """Return nilearn's threshold: the middle of the largest gap between the 20 and 85 % quantiles."""
    ordered = np.sort(values)
    least, most = (int(cutoff * len(ordered)) for cutoff in _CUTOFFS)
    ordered = ordered[least : most + 1]
    gap = int(np.diff(ordered).argmax()) if len(ordered) > 1 else 0
    return float(ordered[gap : gap + 2].mean())


def _epi_mask(volume: np.ndarray, affine: np.ndarray, cutoffs: tuple[float, float] = _CUTOFFS) -> np.ndarray:
    import nibabel as nib
    from nilearn.masking import compute_epi_mask

    voxel_mm = abs(np.linalg.det(affine[:3, :3])) ** (1 / 3)
    opening = min(_MAX_OPENING, round(_OPENING_MM / voxel_mm))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Computed an empty mask")
        mask = compute_epi_mask(
            nib.Nifti1Image(volume, affine),
            lower_cutoff=cutoffs[0],
            upper_cutoff=cutoffs[1],
            opening=opening or False,
        )
    return np.asarray(mask.dataobj) > 0


def _largest_part(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import label

    parts, n_parts = label(mask)
    if not n_parts:
        return mask
    return np.asarray(parts == 1 + np.bincount(parts[mask])[1:].argmax())


def describe_extent(mask: np.ndarray, affine: np.ndarray) -> tuple[str, list[str]]:
    """Describe the extent of a computed mask, and say whether it can be a human brain.

    Parameters
    ----------
    mask : numpy.ndarray
        bool ``(x, y, z)``, not empty.
    affine : numpy.ndarray
        ``(4, 4)``, voxel indices to mm.

    Returns
    -------
    extent : str
        Its volume in mL, its part of the field of view, and how many faces of the field of view it touches.
    doubts : list of str
        What is not plausible: a volume outside 200 to 2,500 mL, more than 70 % of the field of view, more than three of
        its six faces touched.
    """
    volume_ml = mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000
    fraction = mask.mean()
    n_faces = sum(bool(mask.take(end, axis=axis).any()) for axis in range(3) for end in (0, -1))
    least, most = _PLAUSIBLE_ML
    doubts = []
    if not least <= volume_ml <= most:
        doubts.append(f"expected {least} to {most:,} mL, found {volume_ml:,.3g} mL")
    if fraction > _MAX_FIELD_OF_VIEW:
        doubts.append(f"expected at most {_MAX_FIELD_OF_VIEW:.0%} of the field of view, found {fraction:.0%}")
    if n_faces > _MAX_FACES:
        doubts.append(f"expected it to touch at most {_MAX_FACES} faces of the field of view, found {n_faces}")
    return f"{volume_ml:,.4g} mL, {fraction:.0%} of the field of view, touches {n_faces} of its 6 faces", doubts


def read_mask(path: Path, image: BoldImage) -> tuple[np.ndarray, str]:
    """Read the brain mask that the dataset has for an image.

    Parameters
    ----------
    path : Path
    image : BoldImage
        Which it belongs to.

    Returns
    -------
    mask : numpy.ndarray
        bool ``(x, y, z)``.
    description : str
        Its name, and how it was made binary.

    Raises
    ------
    ImageError
        It can't be read, lies on another grid, or is empty.
    """
    data, affine = read_volume(path, "brain mask")
    if data.shape != image.shape or not same_affine(image.shape, affine, image.affine):
        raise ImageError(
            f"{path}: expected the grid of {image.path.name}, {image.shape} with the affine "
            f"{image.affine.tolist()}; found {data.shape} with {affine.tolist()}.",
            "Give a mask on the grid of the run (--derivatives).",
        )
    threshold = mask_threshold(data)
    # Values that are not finite are not brain.
    mask = np.isfinite(data) & (data >= threshold)
    if not mask.any():
        raise ImageError(
            f"{path}: the brain mask is empty: no voxel is at least {threshold:g}.",
            "Replace it, or remove it: then one is computed.",
        )
    if len(np.unique(data)) <= 2:
        return mask, path.name
    description = f"{path.name}, which is not binary: voxels of at least {threshold:g}"
    logger.info("Brain mask: %s.", description)
    return mask, description


def mask_threshold(data: np.ndarray) -> float:
    """Return the value from which on a mask, binary or not, means brain.

    Parameters
    ----------
    data : numpy.ndarray
        ``(x, y, z)``, of any type: two values; or a mask that was resampled, from 0 to 1 (interpolation may exceed both
        a little), in percent, or in bytes; or small integers, which are labels.

    Returns
    -------
    float
        0.5; half of the largest value where that stands for 1.
    """
    values = np.unique(data[np.isfinite(data)])
    full_scale = float(values.max(initial=0))
    is_scaled = full_scale > 1 and (len(values) == 2 or full_scale >= _MIN_FULL_SCALE)
    return _THRESHOLD * full_scale if is_scaled else _THRESHOLD
