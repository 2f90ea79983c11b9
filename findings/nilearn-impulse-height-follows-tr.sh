#!/usr/bin/env bash
# Expected: an event of duration 0 is an impulse. Its regressor does not depend on the TR, except by where it is
#   sampled.
# Happens: an impulse is one sample of the oversampled grid, whose step is TR / 50. The height of the regressor is
#   therefore proportional to the TR, so that the estimated effect is inversely proportional to it. An event of 1 ms
#   is as high as one of duration 0.
# Versions: nilearn 0.14.1, numpy 2.3.5, scipy 1.15.3. Related: github.com/bids-standard/pybids/issues/643
# Output seen (2026-11): peak at TR 0.5, 1, 2, 4 s: 0.0035, 0.0069, 0.0139, 0.0278; an event of 1 s: 0.344, 0.344,
#   0.344, 0.357
# Why it matters: annotations of films (cuts, words, event boundaries) have duration 0 in BIDS. Their effects cannot
#   be compared between datasets of different TR, or with those of events that have a duration.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check nilearn==0.14.1 numpy==2.3.5 scipy==1.15.3
env/bin/python - <<'PY'
import numpy as np
from nilearn.glm.first_level import compute_regressor

TRS = (0.5, 1.0, 2.0, 4.0)


def peak(duration, repetition_time):
    """The largest value, over onsets that shift the response by less than a TR."""
    times = np.arange(0, 60, repetition_time)
    onsets = 12 + np.arange(0, repetition_time, 0.1)
    return max(compute_regressor(np.array([[t], [duration], [1.0]]), "glover", times)[0].max() for t in onsets)


impulses, events = [peak(0.0, tr) for tr in TRS], [peak(1.0, tr) for tr in TRS]
ratios = np.array(impulses) / np.array(TRS)
assert np.allclose(ratios, ratios[0], rtol=0.05), ratios
assert np.allclose(events, events[0], rtol=0.05), events
assert np.isclose(peak(0.001, 1.0), impulses[1])
print(f"peak at TR 0.5, 1, 2, 4 s: {', '.join(f'{p:.4f}' for p in impulses)}; an event of 1 s: "
      f"{', '.join(f'{p:.3f}' for p in events)}")
PY
