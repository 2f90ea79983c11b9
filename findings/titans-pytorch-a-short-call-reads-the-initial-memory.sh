#!/usr/bin/env bash
# Expected: NeuralMemory gives the same outputs for a stream, however it is cut into calls, since it hands over its
#   state.
# Happens: a call of more than one token that does not complete a chunk is answered from the initial weights, as if
#   nothing had been stored. (Calls of one token, and of whole chunks, are right.) Calls that complete a chunk in
#   their middle use the old memory for some tokens after it; later ones may raise a RuntimeError about sizes.
# Versions: titans-pytorch 0.5.5, torch 2.13.0. Related: github.com/lucidrains/titans-pytorch/issues/59
# Output seen (2026-11): chunks of 16, stream of 40 tokens, largest differences from one call: calls of 1: 0.00, 32 +
#   8: 5.13 (that of a memory that has read nothing: 0.00), 20 + 20: 5.65
# Why it matters: fMRI arrives one volume or one block at a time. A block of 8 volumes after 32 is forecast without
#   any memory of the run, and the code gives no sign of it.
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
memory, x = NeuralMemory(8, chunk_size=16), torch.randn(2, 40, 8)
whole, _ = memory(x)


def in_calls(*lengths):
    outputs, state = [], None
    for part in x.split(lengths, dim=1):
        output, state = memory(part, state=state)
        outputs.append(output)
    return torch.cat(outputs, dim=1)


def largest(a, b):
    return (a - b).abs().max().item()


ones, short, shifted = in_calls(*[1] * 40), in_calls(32, 8), in_calls(20, 20)
assert largest(ones, whole) < 1e-4 and largest(short[:, :32], whole[:, :32]) < 1e-4
assert largest(short, whole) > 1 and largest(shifted, whole) > 1
fresh, _ = memory(x[:, 32:])
assert largest(short[:, 32:], fresh) < 1e-5
print(f"chunks of 16, stream of 40 tokens, largest differences from one call: calls of 1: {largest(ones, whole):.2f}, 32 + "
      f"8: {largest(short, whole):.2f} (that of a memory that has read nothing: {largest(short[:, 32:], fresh):.2f}), 20 + "
      f"20: {largest(shifted, whole):.2f}")
PY
