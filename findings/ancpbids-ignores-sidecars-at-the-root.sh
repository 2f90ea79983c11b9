#!/usr/bin/env bash
# Expected: get_metadata follows BIDS's inheritance principle: a sidecar at the root of the dataset holds for every
#   file that its name fits.
# Happens: sidecars in the folder of the file and in sub-* are read, those at the root are not. Where all metadata are
#   at the root, the result is empty, without an error. pybids reads them.
# Versions: ancpbids 0.4.0; pybids 0.22.0 for comparison
# Output seen (2026-11): pybids: EchoTime 0.02, FlipAngle 70, RepetitionTime 1.5; ancpbids: EchoTime 0.02, FlipAngle
#   70
# Why it matters: many datasets keep the repetition time and the slice times in task-*_bold.json at the root. Code
#   that falls back to a default, or to the NIfTI header, then uses another TR.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check ancpbids==0.4.0 pybids==0.22.0 universal-pathlib==0.3.10 nibabel==5.4.2
env/bin/python - 2>messages <<'PY' || { cat messages >&2; exit 1; }
import json
from pathlib import Path

import ancpbids
import bids
import nibabel as nib
import numpy as np

root = Path("data").resolve()
sidecars = {
    "dataset_description.json": {"Name": "x", "BIDSVersion": "1.10.0"},
    "task-film_bold.json": {"RepetitionTime": 1.5, "FlipAngle": 90},
    "sub-01/sub-01_task-film_bold.json": {"FlipAngle": 70},
    "sub-01/func/sub-01_task-film_run-1_bold.json": {"EchoTime": 0.02},
}
(root / "sub-01/func").mkdir(parents=True)
for name, content in sidecars.items():
    (root / name).write_text(json.dumps(content))
run = root / "sub-01/func/sub-01_task-film_run-1_bold.nii.gz"
nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.int16), np.eye(4)).to_filename(run)
by_pybids = dict(bids.BIDSLayout(root).get_metadata(str(run)))
by_ancpbids = dict(ancpbids.BIDSLayout(str(root)).get_metadata(str(run)))
assert by_pybids == {"EchoTime": 0.02, "FlipAngle": 70, "RepetitionTime": 1.5}, by_pybids
assert by_ancpbids == {"EchoTime": 0.02, "FlipAngle": 70}, by_ancpbids


def text(metadata):
    return ", ".join(f"{key} {metadata[key]}" for key in sorted(metadata))


print(f"pybids: {text(by_pybids)}; ancpbids: {text(by_ancpbids)}")
PY
