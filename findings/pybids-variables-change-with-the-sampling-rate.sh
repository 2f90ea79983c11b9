#!/usr/bin/env bash
# Expected: to_dense(10) of events at 0, 0.02 ... s gives a step for each event with a duration, one sample (or a
#   warning) for an event of duration 0, and 0 elsewhere. resample(1) of a recording keeps each value at its time.
# Happens: an event of duration 0 disappears. Where times are no multiples of the new step, the steps overshoot, and
#   the value is not 0 before the event begins. resample() stretches the time axis so that the last old sample becomes
#   the last new one: the value shown at the end is almost one new sample late.
# Versions: pybids 0.22.0, numpy 2.3.5, scipy 1.15.3, pandas 2.3.3. Related:
#   github.com/bids-standard/pybids/issues/643
# Output seen (2026-11): duration 0: largest value 0.00; step of 1: up to 1.06, 0.05 before it begins; resampled to 1
#   Hz the clock is 1.05 s ahead at the end of 30 s
# Why it matters: film annotations (cuts, words) have duration 0 and odd onsets; physiological recordings are
#   resampled to the TR. Both move against the BOLD signal by about a TR, or vanish.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check pybids==0.22.0 universal-pathlib==0.3.10 nibabel==5.4.2 numpy==2.3.5 \
    scipy==1.15.3 pandas==2.3.3
env/bin/python - 2>messages <<'PY' || { cat messages >&2; exit 1; }
import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
from bids import BIDSLayout
from bids.variables import load_variables

func = Path("data/sub-01/func")
func.mkdir(parents=True)
Path("data/dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.10.0"}))
Path("data/task-film_bold.json").write_text(json.dumps({"RepetitionTime": 1.0, "TaskName": "film"}))
nib.Nifti1Image(np.zeros((2, 2, 2, 30), np.int16), np.eye(4)).to_filename(func / "sub-01_task-film_bold.nii.gz")
(func / "sub-01_task-film_events.tsv").write_text("onset\tduration\tcut\n1\t0\t1\n5\t2\t1\n12.04\t0.02\t1\n")
recording = {"SamplingFrequency": 10, "StartTime": 0, "Columns": ["clock"]}
(func / "sub-01_task-film_physio.json").write_text(json.dumps(recording))
with gzip.open(func / "sub-01_task-film_physio.tsv.gz", "wt") as file:
    file.write("\n".join(str(i / 10) for i in range(320)))
variables = load_variables(BIDSLayout("data"), skip_empty=True).get_nodes("run")[0].variables
dense = np.asarray(variables["cut"].to_dense(10).values, dtype=float).ravel()
at_zero, overshoot, early = np.abs(dense[5:20]).max(), dense[50:70].max(), np.abs(dense[45:50]).max()
clock = np.asarray(variables["clock"].resample(1).values, dtype=float).ravel()
ahead = clock[-1] - (len(clock) - 1)
assert at_zero < 1e-3 and 1.03 < overshoot < 1.1 and 0.03 < early < 0.08, (at_zero, overshoot, early)
assert len(clock) == 30 and 0.8 < ahead < 1.2 and clock[0] < 0.15, (clock[0], ahead)
print(f"duration 0: largest value {at_zero:.2f}; step of 1: up to {overshoot:.2f}, {early:.2f} before it begins; resampled "
      f"to 1 Hz the clock is {ahead:.2f} s ahead at the end of 30 s")
PY
