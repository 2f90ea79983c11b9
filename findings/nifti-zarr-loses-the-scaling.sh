#!/usr/bin/env bash
# Expected: nii2zarr stores the NIfTI header, as its format says, so that zarr2nii gives back the values of the image.
# Happens: for integers with a scale (scl_slope, scl_inter) the raw integers are stored, with a header whose scale is
#   NaN: nibabel blanks the two fields when it loads an image. The scale is lost for good. The image that zarr2nii
#   returns also has no affine (None) until it is saved and loaded again.
# Versions: nifti-zarr 1.0.0rc8, zarr 3.1.6, nibabel 5.4.2, numpy 2.3.5
# Output seen (2026-11): image 1000.0 to 1100.0; after the round trip -32768.0 to 32767.0; affine in memory: None
# Why it matters: scanners and FSL write BOLD as scaled int16. In the zarr the time series have the wrong unit and
#   mean, so that percent signal change is meaningless.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check nifti-zarr==1.0.0rc8 zarr==3.1.6 nibabel==5.4.2 numpy==2.3.5
env/bin/python - 2>messages <<'PY' || { cat messages >&2; exit 1; }
import nibabel as nib
import niizarr
import numpy as np

values = np.linspace(1000, 1100, 6 * 7 * 8 * 5).reshape(6, 7, 8, 5)
image = nib.Nifti1Image(values, np.diag([3, 3, 3, 1]))
image.set_data_dtype(np.int16)
image.to_filename("a.nii.gz")
assert np.allclose(nib.load("a.nii.gz").get_fdata(), values, atol=0.01)
niizarr.nii2zarr("a.nii.gz", "a.nii.zarr")
returned = niizarr.zarr2nii("a.nii.zarr")
affine = returned.affine
returned.to_filename("b.nii.gz")
back = nib.load("b.nii.gz")
low, high = back.get_fdata().min(), back.get_fdata().max()
assert (low, high) == (-32768, 32767) and back.dataobj.slope == 1, (low, high, back.dataobj.slope)
assert affine is None and np.allclose(back.affine, np.diag([3, 3, 3, 1])), affine
print(f"image {values.min():.1f} to {values.max():.1f}; after the round trip {low} to {high}; affine in memory: {affine}")
PY
