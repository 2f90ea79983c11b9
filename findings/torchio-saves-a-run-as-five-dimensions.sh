#!/usr/bin/env bash
# Expected: a 4D BOLD run that TorchIO reads and saves again is a 4D NIfTI image, perhaps without its repetition time.
# Happens: time is taken for channels, and written as the vector components of a 3D image: five dimensions, (x, y, z,
#   1, time), with the intent code "vector". nilearn refuses the file. TorchIO itself reads it as before.
# Versions: torchio 1.2.1, torch 2.13.0, simpleitk 2.5.7, nibabel 5.4.2, nilearn 0.14.1, numpy 2.3.5. Source:
#   github.com/TorchIO-project/torchio/pull/685
# Output seen (2026-11): (6, 7, 8, 5), TR 0.8 -> (6, 7, 8, 1, 5), step of time 0.0, intent vector; nilearn: ValueError
# Why it matters: augmented or normalized runs of a deep-learning pipeline can't be read by the tools of the field, or
#   are taken for displacement fields.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check torchio==1.2.1 torch==2.13.0 simpleitk==2.5.7 nibabel==5.4.2 \
    nilearn==0.14.1 numpy==2.3.5
env/bin/python - 2>messages <<'PY' || { cat messages >&2; exit 1; }
import nibabel as nib
import numpy as np
import torchio
from nilearn.image import mean_img

values = np.random.default_rng(0).random((6, 7, 8, 5)).astype(np.float32)
run = nib.Nifti1Image(values, np.diag([3, 3, 3, 1]))
run.header.set_zooms((3, 3, 3, 0.8))
run.header.set_xyzt_units("mm", "sec")
run.to_filename("a.nii.gz")
torchio.ScalarImage("a.nii.gz").save("b.nii.gz")
back = nib.load("b.nii.gz")
step, intent = float(back.header.get_zooms()[-1]), back.header.get_intent()[0]
assert back.shape == (6, 7, 8, 1, 5) and step == 0 and intent == "vector", (back.shape, step, intent)
assert np.array_equal(np.squeeze(back.get_fdata(dtype=np.float32)), values)
assert torchio.ScalarImage("b.nii.gz").shape == (5, 6, 7, 8)
try:
    mean_img(back)
except ValueError as error:
    refusal = type(error).__name__
print(f"{values.shape}, TR 0.8 -> {back.shape}, step of time {step}, intent {intent}; nilearn: {refusal}")
PY
