#!/usr/bin/env bash
# Expected: ITK and nibabel place a NIfTI image at the same points: by the sform where its code is not 0, with the
#   voxel sizes that the sform contains, and otherwise by the qform.
# Happens: (1) with both forms, ITK takes the qform, unless the sform's code is 1 (scanner): an sform in MNI space
#   (code 4) is ignored. (2) With an sform alone, ITK takes its directions and origin, but the voxel sizes from
#   pixdim, which nibabel's set_sform does not change. (3) With no form, nibabel flips x and centers the image; ITK's
#   y runs the other way and its origin is the corner. No error in any case.
# Versions: simpleitk 2.5.7, nibabel 5.4.2, numpy 2.3.5. Source: github.com/InsightSoftwareConsortium/ITK/pull/1868
# Output seen (2026-11): ITK took the qform (sform shifted by 50 mm ignored); voxels of 3.0 mm, nibabel 3.3 mm; no
#   form: x, y, z axes -3, -3, 3 in ITK and -3, 3, 3 in nibabel
# Why it matters: tools built on ITK (ANTsPy and TorchIO do the same) and on nibabel (nilearn, nitransforms) then put
#   the same brain in two places. Write both forms, with the same matrix and the same code.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check simpleitk==2.5.7 nibabel==5.4.2 numpy==2.3.5
env/bin/python - 2>messages <<'PY' || { cat messages >&2; exit 1; }
import nibabel as nib
import numpy as np
import SimpleITK as sitk


def affines(name, qform=None, sform=None, sform_code=4):
    image = nib.Nifti1Image(np.zeros((6, 7, 8), np.float32), None)
    image.header.set_zooms((3, 3, 3))
    if qform is not None:
        image.set_qform(qform, 1)
    if sform is not None:
        image.set_sform(sform, sform_code)
    image.to_filename(name)
    itk, ras = sitk.ReadImage(name), np.eye(4)
    ras[:3, :3] = np.reshape(itk.GetDirection(), (3, 3)) * itk.GetSpacing()
    ras[:3, 3] = itk.GetOrigin()
    return nib.load(name).affine, np.diag([-1, -1, 1, 1]) @ ras


qform, shifted, larger = np.diag([3.0, 3, 3, 1]), np.diag([3.0, 3, 3, 1]), np.diag([3.3, 3.3, 3.3, 1])
shifted[0, 3] = 50
by_nibabel, by_itk = affines("both.nii", qform, shifted)
assert np.allclose(by_nibabel, shifted) and np.allclose(by_itk, qform)
assert np.allclose(affines("scanner.nii", qform, shifted, sform_code=1)[1], shifted)
by_nibabel, by_itk = affines("sform.nii", None, larger)
assert np.allclose(np.diag(by_nibabel)[:3], 3.3) and np.allclose(np.diag(by_itk)[:3], 3.0)
none_nibabel, none_itk = affines("none.nii")
assert np.allclose(np.diag(none_nibabel)[:3], [-3, 3, 3]) and np.allclose(np.diag(none_itk)[:3], [-3, -3, 3])
assert np.allclose(none_nibabel[:3, 3], [7.5, -9, -10.5]) and np.allclose(none_itk[:3, 3], 0)
print("ITK took the qform (sform shifted by 50 mm ignored); voxels of 3.0 mm, nibabel 3.3 mm; no form: x, y, z axes "
      "-3, -3, 3 in ITK and -3, 3, 3 in nibabel")
PY
