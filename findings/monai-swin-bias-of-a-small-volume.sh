#!/usr/bin/env bash
# Expected: in MONAI's Swin, the position bias of two patches depends on their displacement only, also where the
#   volume is smaller than the attention window and the window is made as small as the volume.
# Happens: the small window takes the upper left corner of the index table of the large one. Its patches are numbered
#   in another way there: one displacement gets up to four different biases, and one bias serves up to four
#   displacements.
# Versions: monai 1.6.1, torch 2.13.0, numpy 2.3.5
# Output seen (2026-11): window 7, volume of 4 patches a side: the displacement (1, 0, 0) has 4 biases, and one bias
#   serves 4 displacements; in a volume of 7 patches 1 and 1
# Why it matters: fMRI volumes are small. After a patch of 2 and three mergings, 48 voxels are 3 patches a side.
#   Weights that were trained on large volumes mean something else there; a translation of a pattern changes its
#   attention.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check monai==1.6.1 torch==2.13.0 numpy==2.3.5
env/bin/python - 2>messages <<'PY' || { cat messages >&2; exit 1; }
from collections import defaultdict

import torch
from monai.networks.nets.swin_unetr import WindowAttention

attention = WindowAttention(1, 1, (7, 7, 7))
attention.relative_position_bias_table.data[:, 0] = torch.arange(13**3)
# Queries and keys are 0, and the projection keeps the values: the attention weights are a softmax of the biases.
attention.qkv.weight.data.zero_()
captured = {}
attention.softmax.register_forward_pre_hook(lambda module, inputs: captured.update(bias=inputs[0][0, 0]))


def counts(side):
    """The most biases of one displacement, and the most displacements of one bias."""
    with torch.no_grad():
        attention(torch.zeros(1, side**3, 1), None)
    points = torch.cartesian_prod(*[torch.arange(side)] * 3)
    biases, displacements = defaultdict(set), defaultdict(set)
    for i in range(side**3):
        for j in range(side**3):
            displacement, bias = tuple((points[i] - points[j]).tolist()), captured["bias"][i, j].item()
            biases[displacement].add(bias)
            displacements[bias].add(displacement)
    return len(biases[1, 0, 0]), max(map(len, displacements.values()))


small, full = counts(4), counts(7)
assert small == (4, 4) and full == (1, 1), (small, full)
print(f"window 7, volume of 4 patches a side: the displacement (1, 0, 0) has {small[0]} biases, and one bias serves "
      f"{small[1]} displacements; in a volume of 7 patches {full[0]} and {full[1]}")
PY
