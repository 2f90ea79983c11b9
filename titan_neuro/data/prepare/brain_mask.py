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


def mask_image(recording: Recording, image: BoldImage, n_first: int) -> tuple[Space, str]:
    """Return the space of an image on its own grid, with its brain mask.

    Parameters
    ----------
    recording : Recording
    image : BoldImage
        Of the recording.
    n_first : int
        First volumes from whose mean a mask is computed where the dataset has none.

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
        mask, description = _read_mask(recording.mask, image), recording.mask.name
    else:
        logger.warning("%s: no brain mask in the dataset: it is computed from the first volumes.", recording.key)
        mask = compute_brain_mask(image.read(0, n_first).astype(np.float32).mean(axis=-1), image.affine)
        if not mask.any():
            raise ImageError(
                f"{image.path}: no brain was found in its first {n_first} volumes.",
                "Give a brain mask (*_desc-brain_mask.nii.gz) with --derivatives.",
            )
        description = f"computed from the first {n_first} volumes"
    return Space(kind="volume", name=name, mask=mask, affine=image.affine), description


def compute_brain_mask(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Compute a brain mask (`nilearn.masking.compute_epi_mask`).

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
    import nibabel as nib
    from nilearn.masking import compute_epi_mask

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Computed an empty mask")
        return np.asarray(compute_epi_mask(nib.Nifti1Image(volume, affine)).dataobj) > 0


def _read_mask(path: Path, image: BoldImage) -> np.ndarray:
    data, affine = read_volume(path, "brain mask")
    if data.shape != image.shape or not same_affine(image.shape, affine, image.affine):
        raise ImageError(
            f"{path}: expected the grid of {image.path.name}, {image.shape} with the affine "
            f"{image.affine.tolist()}; found {data.shape} with {affine.tolist()}.",
            "Give a mask on the grid of the run (--derivatives).",
        )
    mask = np.asarray(data > 0)
    if not mask.any():
        raise ImageError(f"{path}: the brain mask is empty.", "Replace it, or remove it: then one is computed.")
    return mask
