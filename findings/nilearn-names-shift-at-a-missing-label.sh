#!/usr/bin/env bash
# Expected: NiftiLabelsMasker(labels=[names of labels 1, 2, 3]) names label 3 by the third name, or complains, where
#   the image has no label 2.
# Happens: names are given out in order to the labels that are present. Label 3 gets the name of label 2, without a
#   warning. (A table with the columns index and name, lut=, names it correctly.)
# Versions: nilearn 0.14.1, nibabel 5.4.2, numpy 2.3.5, pandas 2.3.3
# Output seen (2026-11): label 3 (mean 30) is called 'Insula' (by labels=), 'Amygdala' (by lut=); warnings about it: 0
# Why it matters: atlases that were cropped, resampled or restricted to a mask lose small parcels. All parcels after
#   the first missing one then carry a wrong name.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check nilearn==0.14.1 nibabel==5.4.2 numpy==2.3.5 pandas==2.3.3
env/bin/python - 2>messages <<'PY' || { cat messages >&2; exit 1; }
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.maskers import NiftiLabelsMasker

labels = np.zeros((9, 9, 9), np.int16)
labels[:3], labels[6:] = 1, 3
image = nib.Nifti1Image(np.repeat(labels[..., None] * 10.0, 4, axis=3).astype(np.float32), np.eye(4))
names = ["Cuneus", "Insula", "Amygdala"]
table = pd.DataFrame({"index": [0, 1, 2, 3], "name": ["Background", *names]})


def name_of_30(**arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        masker = NiftiLabelsMasker(nib.Nifti1Image(labels, np.eye(4)), standardize=None, **arguments)
        column = int(np.argmax(masker.fit_transform(image)[0]))
    about = [w for w in caught if any(word in str(w.message).lower() for word in ("label", "region", "mismatch"))]
    return masker.region_names_[column], len(about)


(by_labels, n_warnings), (by_table, _) = name_of_30(labels=names), name_of_30(lut=table)
assert (by_labels, by_table, n_warnings) == ("Insula", "Amygdala", 0), (by_labels, by_table, n_warnings)
print(f"label 3 (mean 30) is called {by_labels!r} (by labels=), {by_table!r} (by lut=); warnings about it: {n_warnings}")
PY
