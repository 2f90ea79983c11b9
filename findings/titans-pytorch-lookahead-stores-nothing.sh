#!/usr/bin/env bash
# Expected: store_with_lookahead_value=True lets each key wait for the value of the next token, across the whole
#   stream.
# Happens: keys wait within their chunk only. The last key of each chunk is never stored. With the default chunk_size
#   of 1 nothing is: the memory only forgets, and its weights go to 0, whatever it reads. No error and no warning.
# Versions: titans-pytorch 0.5.5, torch 2.13.0
# Output seen (2026-11): tokens stored of 256: 0 with chunk_size 1, 192 with 4, 240 with 16; weights after 256 tokens
#   with chunk_size 1: 0.0e+00 of the initial ones
# Why it matters: a memory that forecasts stores what follows a time point. This option looks like that, and at the
#   default chunk size it is a memory of nothing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check titans-pytorch==0.5.5 torch==2.13.0
env/bin/python - 2>messages <<'PY' || { cat messages >&2; exit 1; }
import torch
from titans_pytorch import NeuralMemory

torch.manual_seed(0)
torch.set_grad_enabled(False)
x, stored = torch.randn(1, 256, 8), {}
for chunk_size in (1, 4, 16):
    memory = NeuralMemory(8, chunk_size=chunk_size, store_with_lookahead_value=True)
    _, state, (surprise, _) = memory(x, return_surprises=True)
    stored[chunk_size] = surprise.shape[-1]
    if chunk_size == 1:
        initial = memory.init_weights(1)
        names = [name for name in initial.keys() if "weights" in name]
        left = max((state.states[0][name].norm() / initial[name].norm()).item() for name in names)
        # Along the way the weights are the initial ones, times a number: nothing else has been added.
        _, early, _ = memory(x[:, :3], return_surprises=True)
        for name in names:
            ratio = early.states[0][name] / initial[name]
            assert torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-4)
assert stored == {1: 0, 4: 192, 16: 240}, stored
assert left < 1e-6, left
print(f"tokens stored of 256: {stored[1]} with chunk_size 1, {stored[4]} with 4, {stored[16]} with 16; weights after 256 "
      f"tokens with chunk_size 1: {left:.1e} of the initial ones")
PY
