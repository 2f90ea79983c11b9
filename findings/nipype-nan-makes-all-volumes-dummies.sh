#!/usr/bin/env bash
# Expected: NonSteadyStateDetector counts the bright volumes at the start of a run. A voxel without a value (NaN) is
#   left out, or raises an error.
# Happens: one NaN voxel makes the global signal NaN. NaN is not below the threshold, so that every volume counts as
#   non-steady: all of the first 50, or the whole run if it is shorter. No warning.
# Versions: nipype 1.11.0, nibabel 5.4.2, numpy 2.3.5
# Output seen (2026-11): 2 of 80 volumes; with one NaN voxel 50; of a run of 20 volumes 20
# Why it matters: SPM writes NaN outside the brain after resampling. The number is used to drop volumes and to make
#   one regressor per dummy volume, which removes the start of the run, or all of it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check nipype==1.11.0 nibabel==5.4.2 numpy==2.3.5
NO_ET=1 env/bin/python - 2>messages <<'PY' || { cat messages >&2; exit 1; }
from pathlib import Path

import nibabel as nib
import numpy as np
from nipype.algorithms.confounds import NonSteadyStateDetector

values = 1000 + np.random.default_rng(0).normal(0, 10, (6, 6, 6, 80))
values[..., :2] += 500


def n_dummies(data):
    path = Path("run.nii").resolve()
    nib.Nifti1Image(data.astype(np.float32), np.eye(4)).to_filename(path)
    return NonSteadyStateDetector(in_file=str(path)).run().outputs.n_volumes_to_discard


with_nan = values.copy()
with_nan[0, 0, 0] = np.nan
counts = n_dummies(values), n_dummies(with_nan), n_dummies(with_nan[..., :20])
assert counts == (2, 50, 20), counts
print(f"{counts[0]} of 80 volumes; with one NaN voxel {counts[1]}; of a run of 20 volumes {counts[2]}")
PY
