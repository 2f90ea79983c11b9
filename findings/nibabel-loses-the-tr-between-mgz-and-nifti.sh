#!/usr/bin/env bash
# Expected: nib.save(image, "x.mgz") and back keep the repetition time, or at least drop it.
# Happens: from NIfTI to MGZ it becomes 0. From MGZ, where it is in milliseconds, the bare number goes into the NIfTI
#   header without a unit: a TR of 800 ms is read as 800.
# Versions: nibabel 5.4.2, numpy 2.3.5
# Output seen (2026-11): NIfTI 0.8 s -> MGZ 0.0; MGZ 800 ms -> NIfTI 800.0, unit 'unknown'
# Why it matters: FreeSurfer's surface time series are MGZ. Filters and design matrices that take the TR from the
#   header are wrong by a factor of 1000, or divide by 0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check nibabel==5.4.2 numpy==2.3.5
env/bin/python - <<'PY'
import nibabel as nib
import numpy as np

values = np.zeros((4, 5, 6, 7), np.float32)
nifti = nib.Nifti1Image(values, np.eye(4))
nifti.header.set_zooms((1, 1, 1, 0.8))
nifti.header.set_xyzt_units("mm", "sec")
nib.save(nifti, "a.nii")
nib.save(nib.load("a.nii"), "a.mgz")
to_mgz = float(nib.load("a.mgz").header.get_zooms()[3])
mgz = nib.MGHImage(values, np.eye(4))
mgz.header.set_zooms((1, 1, 1, 800))
nib.save(mgz, "b.mgz")
nib.save(nib.load("b.mgz"), "b.nii")
back = nib.load("b.nii").header
assert to_mgz == 0, to_mgz
assert float(back.get_zooms()[3]) == 800 and back.get_xyzt_units()[1] == "unknown", back
print(f"NIfTI 0.8 s -> MGZ {to_mgz}; MGZ 800 ms -> NIfTI {float(back.get_zooms()[3])}, unit {back.get_xyzt_units()[1]!r}")
PY
