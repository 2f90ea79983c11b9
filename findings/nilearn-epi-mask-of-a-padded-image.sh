#!/usr/bin/env bash
# Expected: compute_epi_mask finds the same brain after the image was padded with zeros, at least with
#   exclude_zeros=True, which is meant for such images.
# Happens: once the brain fills less than 15 % of the image, the mask becomes the whole original field of view,
#   without a warning. exclude_zeros does not always help: the default opening= smooths the image first, so that the
#   zeros next to the old border are no longer zero, and a brain that just filled 15 % of the old field of view now
#   fills less.
# Versions: nilearn 0.14.1, nibabel 5.4.2, numpy 2.3.5, scipy 1.15.3
# Output seen (2026-11): brain of 5616 voxels: mask 5568 before; padded 25953, with exclude_zeros 25953, and without
#   opening 5616
# Why it matters: runs in MNI space, with a small coverage, or defaced have many zeros. A mask that is the whole box
#   puts air into averages, component analyses and z-scores.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check nilearn==0.14.1 nibabel==5.4.2 numpy==2.3.5 scipy==1.15.3
env/bin/python - <<'PY'
import nibabel as nib
import numpy as np
from nilearn.masking import compute_epi_mask

rng = np.random.default_rng(0)
brain = ((np.indices((30, 30, 30)) - 14.5) ** 2).sum(axis=0) < 11**2
values = np.where(brain, 1000.0, 60.0) + rng.normal(0, 20, brain.shape)


def n_voxels(padding, **arguments):
    image = nib.Nifti1Image(np.pad(values, padding).astype(np.float32), np.diag([3, 3, 3, 1]))
    return int(np.asarray(compute_epi_mask(image, **arguments).dataobj).sum())


before, padded = n_voxels(0), n_voxels(4)
excluded, no_opening = n_voxels(4, exclude_zeros=True), n_voxels(4, exclude_zeros=True, opening=False)
assert abs(before - brain.sum()) < 0.02 * brain.sum(), before
assert padded > 4 * brain.sum() and excluded > 4 * brain.sum(), (padded, excluded)
assert no_opening == brain.sum(), no_opening
print(f"brain of {brain.sum()} voxels: mask {before} before; padded {padded}, with exclude_zeros {excluded}, and without "
      f"opening {no_opening}")
PY
