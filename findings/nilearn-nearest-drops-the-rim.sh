#!/usr/bin/env bash
# Expected: with interpolation="nearest", every point of the field of view takes the value of the voxel in which it
#   lies.
# Happens: points in the outer half of the outermost voxels are set to 0, on all six sides: SciPy calls a point
#   outside as soon as it is beyond the center of the first or last voxel. ITK keeps them.
# Versions: nilearn 0.14.1, nibabel 5.4.2, numpy 2.3.5, scipy 1.15.3; simpleitk 2.5.7 for comparison
# Output seen (2026-11): of 20 voxels along an axis nilearn leaves 18, ITK 20; of the volume nilearn leaves 73 %
# Why it matters: masks and atlases with labels at the edge of the field of view lose a rim at each resampling to a
#   finer grid; a thin slab (partial-brain BOLD) loses half a slice on each side.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check nilearn==0.14.1 nibabel==5.4.2 numpy==2.3.5 scipy==1.15.3 \
    simpleitk==2.5.7
env/bin/python - <<'PY'
import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nilearn.image import resample_img

labels = np.full((10, 10, 10), 7, np.int16)  # voxels of 2 mm; the new ones of 1 mm divide each into eight
fine = np.eye(4)
fine[:3, 3] = -0.5
image = nib.Nifti1Image(labels, np.diag([2, 2, 2, 1]))
by_nilearn = resample_img(image, fine, (20, 20, 20), interpolation="nearest").get_fdata() == 7
source, grid = sitk.GetImageFromArray(labels), sitk.Image(20, 20, 20, sitk.sitkInt16)
source.SetSpacing((2, 2, 2))
grid.SetOrigin((-0.5, -0.5, -0.5))
by_itk = sitk.GetArrayFromImage(sitk.Resample(source, grid, sitk.Transform(), sitk.sitkNearestNeighbor)) == 7
kept = int(by_nilearn[:, 10, 10].sum())
assert kept == 18 and not by_nilearn[0].any() and not by_nilearn[-1].any() and by_itk.all()
assert by_nilearn.sum() == 18**3
print(f"of 20 voxels along an axis nilearn leaves {kept}, ITK {by_itk[:, 10, 10].sum()}; of the volume nilearn leaves "
      f"{by_nilearn.mean():.0%}")
PY
