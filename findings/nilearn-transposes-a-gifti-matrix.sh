#!/usr/bin/env bash
# Expected: load_surf_data returns (vertices, time points) for every GIFTI file of time series.
# Happens: it does so for one data array per time point. Where the file holds one two-dimensional data array (vertices
#   x time points), which GIFTI permits, it is transposed: (time points, vertices). nibabel's agg_data does not
#   transpose.
# Versions: nilearn 0.14.1, nibabel 5.4.2, numpy 2.3.5
# Output seen (2026-11): 6 vertices, 4 time points: nilearn (6, 4) for 4 arrays, (4, 6) for one; nibabel (6, 4), (6,
#   4)
# Why it matters: with as many time points as vertices of a small mesh, or in code that only takes means, time and
#   space are exchanged without an error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check nilearn==0.14.1 nibabel==5.4.2 numpy==2.3.5
env/bin/python - <<'PY'
import nibabel as nib
import numpy as np
from nibabel.gifti import GiftiDataArray, GiftiImage
from nilearn.surface import load_surf_data

series = np.arange(24, dtype=np.float32).reshape(6, 4)
intent = "NIFTI_INTENT_TIME_SERIES"
nib.save(GiftiImage(darrays=[GiftiDataArray(column.copy(), intent=intent) for column in series.T]), "many.func.gii")
nib.save(GiftiImage(darrays=[GiftiDataArray(series, intent=intent)]), "one.func.gii")
many, one = load_surf_data("many.func.gii"), load_surf_data("one.func.gii")
assert np.array_equal(many, series) and np.array_equal(one, series.T), (many.shape, one.shape)
by_nibabel = [nib.load(name).agg_data(intent) for name in ("many.func.gii", "one.func.gii")]
assert all(np.array_equal(values, series) for values in by_nibabel)
print(f"6 vertices, 4 time points: nilearn {many.shape} for 4 arrays, {one.shape} for one; nibabel "
      f"{by_nibabel[0].shape}, {by_nibabel[1].shape}")
PY
