#!/usr/bin/env bash
# Expected: bootstrap_isc on leave-one-out intersubject correlations (the default of isc) finds a correlation in about
#   5 % of the tests at 0.05, where the subjects have nothing in common.
# Happens: in about four times as many, with 6 subjects and with 25. Each subject is also part of the others'
#   averages, so that the leave-one-out values depend on each other, and the bootstrap is not told. With pairwise=True
#   it resamples subjects, and rejects in 5 % or fewer.
# Versions: brainiak 0.12, numpy 2.3.5, scipy 1.15.3, scikit-learn 1.9.1
# Output seen (2026-11): white noise, 600 tests at 0.05: 6 subjects 21%, pairwise 4%; 25 subjects 18%, pairwise 0%
# Why it matters: this is how maps of "shared responses to the film" are tested. A fifth of a brain of pure noise is
#   found to respond.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check brainiak==0.12 numpy==2.3.5 scipy==1.15.3 scikit-learn==1.9.1
env/bin/python - 2>messages <<'PY' || { cat messages >&2; exit 1; }
import numpy as np
from brainiak.isc import bootstrap_isc, isc

rng = np.random.default_rng(0)


def rejected(n_subjects, pairwise):
    """Part of 600 independent features in which a shared signal is found; none has one."""
    data = rng.normal(size=(200, 600, n_subjects))
    correlations = isc(data, pairwise=pairwise)
    p_values = bootstrap_isc(correlations, pairwise=pairwise, n_bootstraps=400, random_state=1)[2]
    return float(np.mean(np.ravel(p_values) < 0.05))


rates = {n: (rejected(n, False), rejected(n, True)) for n in (6, 25)}
for leave_one_out, pairs in rates.values():
    assert leave_one_out > 0.11 and pairs < 0.08, rates
text = "; ".join(f"{n} subjects {one:.0%}, pairwise {pairs:.0%}" for n, (one, pairs) in rates.items())
print(f"white noise, 600 tests at 0.05: {text}")
PY
