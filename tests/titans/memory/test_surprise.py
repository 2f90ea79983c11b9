"""The norm of the gradient must be that of autograd."""

import pytest
import torch

from titan_neuro.titans.memory import memory_surprise
from titan_neuro.titans.memory.mlp import memory_mlp


@pytest.mark.parametrize("widths", [(3, 5), (4, 6, 3), (2, 7, 5, 4)])
def test_it_equals_the_norm_by_autograd(widths):
    torch.manual_seed(0)
    pairs = list(zip(widths[1:], widths[:-1], strict=True))
    weights = tuple(torch.randn(2, 3, *pair, dtype=torch.float64) for pair in pairs)
    keys, values = (torch.randn(2, 3, 6, width, dtype=torch.float64) for width in (widths[0], widths[-1]))
    computed = memory_surprise(keys, values, weights)
    assert computed.shape == (2, 3, 6)
    for token in range(6):
        leaves = [weight.clone().requires_grad_() for weight in weights]
        at = slice(token, token + 1)
        (memory_mlp(keys[:, :, at], leaves) - values[:, :, at]).square().sum().backward()
        expected = sum(leaf.grad.square().sum((-1, -2)) for leaf in leaves).sqrt()
        torch.testing.assert_close(computed[:, :, token], expected)


def test_a_learned_association_has_no_surprise():
    key = torch.nn.functional.normalize(torch.randn(1, 1, 1, 4, dtype=torch.float64), dim=-1)
    value = torch.randn(1, 1, 1, 3, dtype=torch.float64)
    assert memory_surprise(key, value, (value.mT @ key,)).item() < 1e-12
