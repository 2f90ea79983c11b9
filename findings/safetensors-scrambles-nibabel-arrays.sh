#!/usr/bin/env bash
# Expected: safetensors.numpy.save writes any NumPy array so that it loads with the same values, or refuses it (as
#   safetensors.torch does for a tensor that is not contiguous).
# Happens: the bytes are written in the order in which they lie in memory. nibabel's get_fdata() is in Fortran order,
#   so an image comes back with the right shape and its voxels scrambled; of a slice x[::2] the wrong elements come
#   back.
# Versions: safetensors 0.8.0, nibabel 5.4.2, numpy 2.3.5. Source: github.com/safetensors/safetensors/issues/825
# Output seen (2026-11): 1% of the voxels come back in place; x[::2] of 0..7 comes back as [0, 1, 2, 3]
# Why it matters: volumes, masks and displacement fields that nibabel reads are in Fortran order. A store that is
#   written from them is wrong without any error. numpy.ascontiguousarray helps.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check safetensors==0.8.0 nibabel==5.4.2 numpy==2.3.5
env/bin/python - <<'PY'
import nibabel as nib
import numpy as np
from safetensors.numpy import load, save

values = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
nib.Nifti1Image(values, np.eye(4)).to_filename("image.nii.gz")
image = nib.load("image.nii.gz").get_fdata(dtype=np.float32)
assert np.array_equal(image, values) and image.flags.f_contiguous
back = load(save({"image": image}))["image"]
slices = load(save({"x": np.arange(8, dtype=np.float32)[::2]}))["x"]
in_place = (back == image).mean()
assert back.shape == image.shape and in_place < 0.1, in_place
assert slices.tolist() == [0, 1, 2, 3], slices
assert np.array_equal(load(save({"x": np.ascontiguousarray(image)}))["x"], image)
print(f"{in_place:.0%} of the voxels come back in place; x[::2] of 0..7 comes back as {slices.astype(int).tolist()}")
PY
