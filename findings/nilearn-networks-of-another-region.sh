#!/usr/bin/env bash
# Expected: fetch_coords_dosenbach_2010() returns `labels` and `networks` of the same 160 regions in the same order (the
#   documentation calls `networks` an array): networks[i] is the network of labels[i].
# Happens: `labels` is a list in sorted order, `networks` a Series that is sorted, too, but keeps the row numbers of the
#   unsorted table, by which networks[i] then looks. Of 160 regions most get the network of another one.
# Versions: nilearn 0.14.1, numpy 2.3.5, pandas 2.3.3
# Output seen (2026-11): 'vmPFC 13' is in 'cingulo-opercular' by networks[i], in 'default' by networks.iloc[i]; 133 of 160 differ
# Why it matters: regions are listed with wrong networks, and nodes of a connectome are colored and grouped wrongly,
#   without a message.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check nilearn==0.14.1 numpy==2.3.5 pandas==2.3.3
env/bin/python - 2>messages <<'PY' || { cat messages >&2; exit 1; }
from nilearn.datasets import fetch_coords_dosenbach_2010

atlas = fetch_coords_dosenbach_2010()
place = atlas.labels.index("vmPFC 13")
wrong = sum(atlas.networks[i] != atlas.networks.iloc[i] for i in range(160))
assert (atlas.networks[place], atlas.networks.iloc[place]) == ("cingulo-opercular", "default")
print(
    f"'vmPFC 13' is in {atlas.networks[place]!r} by networks[i], in {atlas.networks.iloc[place]!r} by networks.iloc[i]; "
    f"{wrong} of 160 differ"
)
PY
