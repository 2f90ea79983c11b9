#!/usr/bin/env bash
# Expected: the surprise of NeuralMemory for one and the same token, repeated, falls as the memory learns it.
# Happens: by default it never changes: gradients are always taken at the initial weights, however long the stream.
#   With batch_size=, which moves the weights, it grows without bound at the default step size (1, summed over the
#   tokens of a chunk), before any training of the outer network; after some thousand tokens the memory is NaN. With
#   default_step_transform_max_lr=0.1 it falls.
# Versions: titans-pytorch 0.5.5, torch 2.13.0. Related: github.com/lucidrains/titans-pytorch/issues/29
# Output seen (2026-11): surprise of the first and the 256th repetition, median of 5 seeds: default 1.93 and 1.93;
#   batch_size=16 1.93 and 3e+15; the same with max_lr 0.1 1.93 and 0.15
# Why it matters: surprise is compared with event boundaries of films. By default it cannot reflect what has been
#   heard before, and with batch_size it is an artifact of an unstable step size.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check titans-pytorch==0.5.5 torch==2.13.0
env/bin/python - 2>messages <<'PY' || { cat messages >&2; exit 1; }
from statistics import median

import torch
from titans_pytorch import NeuralMemory

torch.set_grad_enabled(False)


def surprises(**arguments):
    """Of the first and the last token, the median over seeds."""
    first, last = [], []
    for seed in range(5):
        torch.manual_seed(seed)
        memory = NeuralMemory(8, chunk_size=16, **arguments)
        token = torch.randn(1, 1, 8)
        _, _, (surprise, _) = memory(token.expand(1, 256, 8).contiguous(), return_surprises=True)
        first.append(surprise[0, 0, 0].item())
        last.append(surprise[0, 0, -1].item())
    return median(first), median(last)


default = surprises()
moving = surprises(batch_size=16)
small = surprises(batch_size=16, default_step_transform_max_lr=0.1)
assert abs(default[0] - default[1]) < 1e-5, default
assert moving[1] > 1e6 * moving[0], moving
assert small[1] < 0.5 * small[0], small
print(f"surprise of the first and the 256th repetition, median of 5 seeds: default {default[0]:.2f} and {default[1]:.2f}; "
      f"batch_size=16 {moving[0]:.2f} and {moving[1]:.0e}; the same with max_lr 0.1 {small[0]:.2f} and {small[1]:.2f}")
PY
