#!/usr/bin/env bash
# Expected: fla.ops.titans takes the step of the Titans paper: theta times the gradient of the loss of the memory
#   (here with a layer norm, as its code has it). Its final state continues the stream.
# Happens: a pair of parentheses is missing in the derivative of the layer norm. The step points elsewhere, and is
#   longer by a factor that grows with the width. The chunked and the recurrent form share the error, and so agree
#   with each other. And the final state holds the memory, but not the momentum: a stream that is cut in two gives
#   other outputs.
# Versions: fla-core 0.6.0, torch 2.13.0, triton 3.9.0 (it is imported, not used), packaging 26.3 (not among the
#   requirements of fla-core, but imported)
# Output seen (2026-11): width 16: step 20 x as long as the gradient, cosine 0.80; width 64: 77 x, 0.80; stream in two
#   halves: outputs differ by 0.45, mean 0.85
# Why it matters: this is the Titans memory of the best-known library of linear attention. Step sizes of the paper
#   are dozens of times too large for it, and it cannot read a scan block by block.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3.11 -m venv env
env/bin/pip install -q --disable-pip-version-check fla-core==0.6.0 torch==2.13.0 triton==3.9.0 packaging==26.3
env/bin/python - 2>messages <<'PY' || { cat messages >&2; exit 1; }
import torch
from fla.ops.titans.naive import chunk_titans_linear_ref
from torch.nn.functional import cosine_similarity, layer_norm

torch.manual_seed(0)


def compare(width):
    ratios, cosines = [], []  # of the step and the gradient, for 20 memories and tokens
    for _ in range(20):
        q, k, v = torch.randn(3, 1, 1, 1, width)
        memory = torch.randn(width, width) / width**0.5
        gates = [torch.full((1, 1, 1, 1), value) for value in (1.0, 0.0, 0.0)]  # step size, forgetting, momentum
        _, after = chunk_titans_linear_ref(q, k, v, torch.ones(1, width), torch.zeros(1, width), *gates, chunk_size=1,
                                           initial_state=memory[None, None].clone(), output_final_state=True)
        weights = memory.clone().requires_grad_()
        loss = (layer_norm(k[0, 0] @ weights, (width,), eps=1e-6) - (v - k)[0, 0]).square().sum()
        (gradient,) = torch.autograd.grad(loss, weights)
        step = memory - after[0, 0]
        ratios.append(step.norm() / gradient.norm())
        cosines.append(cosine_similarity(step.flatten(), gradient.flatten(), dim=0))
    return torch.stack(ratios).mean().item(), torch.stack(cosines).mean().item()


def read(part, state):
    constant = [torch.full((1, 64, 1, 1), value)[:, part] for value in (1e-4, 0.05, 0.8)]
    return chunk_titans_linear_ref(*tokens[:, :, part], torch.ones(1, 8), torch.zeros(1, 8), *constant,
                                   initial_state=state, output_final_state=True)


(ratio_16, cosine_16), (ratio_64, cosine_64) = compare(16), compare(64)
tokens = torch.randn(3, 1, 64, 1, 8) * 0.3
whole, _ = read(slice(0, 64), torch.zeros(1, 1, 8, 8))
first, state = read(slice(0, 32), torch.zeros(1, 1, 8, 8))
second, _ = read(slice(32, 64), state)
difference = (torch.cat([first, second], dim=1) - whole).abs().max().item()
assert ratio_16 > 5 and ratio_64 > 2 * ratio_16 and max(cosine_16, cosine_64) < 0.95, (ratio_16, ratio_64, cosine_16)
assert difference > 0.1, difference
print(f"width 16: step {ratio_16:.0f} x as long as the gradient, cosine {cosine_16:.2f}; width 64: {ratio_64:.0f} x, "
      f"{cosine_64:.2f}; stream in two halves: outputs differ by {difference:.2f}, mean {whole.abs().mean():.2f}")
PY
