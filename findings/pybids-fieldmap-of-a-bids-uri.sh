#!/usr/bin/env bash
# Expected: get_fieldmap finds the fieldmap of a run, however its sidecar names the run: by a path relative to the
#   subject, or by the BIDS URI that the standard has recommended since version 1.8.
# Happens: for a URI it raises ValueError("Unsupported filesystem: 'bids'"). A plain path to the same run, in the same
#   list, does not help.
# Versions: pybids 0.22.0 with universal-pathlib 0.3.10. Source: github.com/bids-standard/pybids/issues/950
# Output seen (2026-11): plain path: sub-01_epi.nii.gz; BIDS URI: ValueError: Unsupported filesystem: 'bids'
# Why it matters: BIDScoin, for one, writes URIs. A valid dataset ends a pipeline, with a message that names neither
#   the sidecar nor the field.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check pybids==0.22.0 universal-pathlib==0.3.10 nibabel==5.4.2
env/bin/python - 2>messages <<'PY' || { cat messages >&2; exit 1; }
import json
from pathlib import Path

import nibabel as nib
import numpy as np
from bids import BIDSLayout


def fieldmap(name, intended_for):
    root = Path(name)
    for folder in ("func", "fmap"):
        (root / "sub-01" / folder).mkdir(parents=True)
    run, epi = root / "sub-01/func/sub-01_task-film_bold.nii.gz", root / "sub-01/fmap/sub-01_epi.nii.gz"
    for path in (run, epi):
        nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.int16), np.eye(4)).to_filename(path)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.10.0"}))
    sidecar = {"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.05, "IntendedFor": intended_for}
    (root / "sub-01/fmap/sub-01_epi.json").write_text(json.dumps(sidecar))
    try:
        return Path(BIDSLayout(root).get_fieldmap(str(run.resolve()))["epi"]).name
    except ValueError as error:
        return f"ValueError: {error}"


plain = fieldmap("plain", "func/sub-01_task-film_bold.nii.gz")
uri = fieldmap("uri", ["bids::sub-01/func/sub-01_task-film_bold.nii.gz"])
both = fieldmap("both", ["func/sub-01_task-film_bold.nii.gz", "bids::sub-01/func/sub-01_task-film_bold.nii.gz"])
assert both == uri, both
assert plain == "sub-01_epi.nii.gz", plain
assert uri == "ValueError: Unsupported filesystem: 'bids'", uri
print(f"plain path: {plain}; BIDS URI: {uri}")
PY
