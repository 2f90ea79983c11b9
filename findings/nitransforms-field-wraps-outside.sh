#!/usr/bin/env bash
# Expected: a point outside a displacement field is not moved, as in ITK; a constant field moves all points inside
#   alike.
# Happens: if all points given lie on voxel centers, a point up to one field length before the first voxel is sent
#   where a voxel at the other end of the field goes: its index is negative, and NumPy counts from the end. (After the
#   last voxel there is an IndexError.) If one point lies between voxel centers, points outside are not moved. And
#   inside, near the border, a constant field is not constant: its spline assumes zeros outside.
# Versions: nitransforms 25.1.0, nibabel 5.4.2, numpy 2.3.5, scipy 1.15.3; simpleitk 2.5.7 for comparison
# Output seen (2026-11), for a field of 2 mm everywhere: 3 mm outside: moved by 12 mm (ITK 0); 3.2 mm outside: by 0;
#   half a voxel inside: by 1.84 mm (ITK 2.00)
# Why it matters: fields of fMRIPrep and ANTs often cover less than the image, whose grid is aligned with theirs.
#   Voxels on the left are then filled from the right, silently.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check nitransforms==25.1.0 nibabel==5.4.2 numpy==2.3.5 scipy==1.15.3 \
    simpleitk==2.5.7
env/bin/python - <<'PY'
import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nitransforms.nonlinear import DenseFieldTransform


constant = np.zeros((10, 10, 10, 3))
constant[..., 0] = 2  # mm to the right
ours = DenseFieldTransform(nib.Nifti1Image(constant.astype(np.float32), np.eye(4)))
image = sitk.GetImageFromArray(constant * -1, isVector=True)  # LPS
image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
itk = sitk.DisplacementFieldTransform(image)


def moved(x):
    """Displacement along x of a point, by nitransforms and by ITK."""
    return ours.map([[x, 5, 5]])[0, 0] - x, -itk.TransformPoint([-x, -5, 5])[0] - x


assert np.allclose(moved(4.0), (2, 2)), moved(4.0)
assert np.allclose(moved(-3.0), (12, 0)), moved(-3.0)  # to where voxel 10 - 3 goes, 7 + 2
assert np.allclose(moved(-3.2), (0, 0)), moved(-3.2)
assert np.allclose(moved(0.5), (1.8415, 2), atol=1e-3), moved(0.5)
print(f"3 mm outside: moved by {moved(-3.0)[0]:.0f} mm (ITK {moved(-3.0)[1]:.0f}); 3.2 mm outside: by "
      f"{moved(-3.2)[0]:.0f}; half a voxel inside: by {moved(0.5)[0]:.2f} mm (ITK {moved(0.5)[1]:.2f})")
PY
