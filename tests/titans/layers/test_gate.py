"""The gate, against its formula."""

import torch

from titan_neuro.titans.layers import NonlinearGate


def test_it_equals_its_formula():
    torch.manual_seed(0)
    gate = NonlinearGate(6)
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter)
    a, b = torch.randn(2, 2, 3, 6)

    def side(x, norm, shift):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + shift

    expected = side(a, gate.norm_a, gate.shift_a) * side(b, gate.norm_b, gate.shift_b)
    torch.testing.assert_close(gate(a, b), expected)


def test_it_ignores_the_scale_of_its_inputs():
    gate = NonlinearGate(6)
    a, b = torch.randn(2, 2, 3, 6)
    torch.testing.assert_close(gate(100 * a, b), gate(a, 30 * b), rtol=1e-3, atol=1e-3)


def test_each_side_passes_where_the_other_is_zero():
    gate = NonlinearGate(6)
    x, silence = torch.randn(2, 3, 6), torch.zeros(2, 3, 6)
    torch.testing.assert_close(gate(x, silence), 1 + gate.norm_a(x))
    torch.testing.assert_close(gate(silence, x), 1 + gate.norm_b(x))
