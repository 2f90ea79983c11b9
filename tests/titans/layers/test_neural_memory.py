"""The memory as a layer: causal, streaming, bounded, and bounded in its step."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.titans.layers import NeuralMemoryConfig
from titan_neuro.titans.memory import memory_read

TOKENS_PER_TIME_POINT, DIM = 3, 8


@pytest.fixture(params=[1, 2])
def layer(request):
    torch.manual_seed(0)
    config = NeuralMemoryConfig(n_heads=2, depth=request.param, chunk_time_points=4)
    return config.build(dim=DIM, tokens_per_time_point=TOKENS_PER_TIME_POINT).double()


def time_points(n_time_points, batch=2, dtype=torch.float64):
    return torch.randn(batch, n_time_points * TOKENS_PER_TIME_POINT, DIM, dtype=dtype)


def test_the_backends_agree(layer):
    x = time_points(11)
    expected = NeuralMemoryConfig(n_heads=2, depth=layer.config.depth, chunk_time_points=4, backend="naive")
    naive = expected.build(dim=DIM, tokens_per_time_point=TOKENS_PER_TIME_POINT).double()
    naive.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x)[0], naive(x)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cuts", [[5, 6], [1] * 11, [4, 4, 3], [2, 9]])
def test_a_stream_may_be_cut_anywhere(layer, cuts):
    x = time_points(11)
    expected, expected_state = layer(x)
    state, outputs = None, []
    for part in torch.split(x, [n * TOKENS_PER_TIME_POINT for n in cuts], dim=1):
        y, state = layer(part, state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=1), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state.memory.weights, expected_state.memory.weights, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state.key_value_tail, expected_state.key_value_tail, rtol=0, atol=1e-14)


def test_the_convolution_runs_over_time_points(layer):
    x = time_points(6)
    before = layer.query(x, layer.query.init_state(2))[0]
    x[:, 2 * TOKENS_PER_TIME_POINT + 1] += 1.0
    changed = (layer.query(x, layer.query.init_state(2))[0] != before).any(-1).all(0).nonzero().flatten().tolist()
    assert changed == [time_point * TOKENS_PER_TIME_POINT + 1 for time_point in (2, 3, 4, 5)]


def test_later_time_points_and_other_items_change_nothing(layer):
    layer, x = layer.float(), time_points(20, dtype=torch.float32)
    before = layer(x)[0].detach()
    later = x.clone()
    later[:, 9 * TOKENS_PER_TIME_POINT :] = 5.0
    assert torch.equal(layer(later)[0][:, : 9 * TOKENS_PER_TIME_POINT], before[:, : 9 * TOKENS_PER_TIME_POINT])
    other = x.clone()
    other[0] = 5.0
    assert torch.equal(layer(other)[0][1], before[1])


def test_reading_writes_nothing(layer):
    x = time_points(8)
    _, state = layer(x)
    tail = layer.query.init_state(2)
    first, after = layer.read(x, state.memory, tail)
    torch.testing.assert_close(layer.read(x, state.memory, tail)[0], first, rtol=0, atol=0)
    halves = torch.chunk(x, 2, dim=1)
    start, tail = layer.read(halves[0], state.memory, tail)
    end, tail = layer.read(halves[1], state.memory, tail)
    torch.testing.assert_close(torch.cat([start, end], dim=1), first)
    torch.testing.assert_close(tail, after)


def test_every_parameter_learns(layer):
    y, state = layer(time_points(9))
    (y.square().mean() + state.memory.weights[0].square().mean()).backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("bias", [-40.0, 40.0])
def test_the_step_is_bounded_for_all_gates(layer, bias):
    with torch.no_grad():
        layer.gates.bias.fill_(bias)
    alpha, eta, theta = layer.gate_values(time_points(5))
    assert alpha.min() >= 0 and alpha.max() <= 1
    assert eta.max() <= layer.config.max_momentum
    # All tokens of a chunk at one key of length 1: together they may undo no more than max_step of the error.
    undone = 2 * layer.chunk_size * theta / (1 - eta)
    assert undone.min() >= 0
    assert undone.max() <= layer.config.max_step * (1 + 1e-9)


def test_one_repeated_time_point_is_learned_without_overshoot(layer):
    """The hardest case for the step: all keys alike, the gates wide open, nothing forgotten."""
    with torch.no_grad():
        layer.gates.weight.zero_()
        layer.gates.bias.copy_(torch.tensor([-40.0, -40.0, -40.0, -40.0, 40.0, 40.0]))
    x = time_points(1).repeat(1, 4, 1)
    _, state = layer(x)
    mixed, _ = layer.key_value(x, state.key_value_tail)
    keys, values = (layer._heads(part) for part in mixed.chunk(2, dim=-1))
    keys, errors = F.normalize(keys, dim=-1), []
    for _ in range(40):
        errors.append((memory_read(keys, state.memory) - values).square().sum(dim=(2, 3)))
        _, state = layer(x, state)
    assert all((later <= earlier * (1 + 1e-6)).all() for earlier, later in itertools.pairwise(errors))
    assert (errors[-1] < 0.3 * errors[0]).all()


def test_zero_input_has_finite_gradients(layer):
    x = torch.zeros(2, 6 * TOKENS_PER_TIME_POINT, DIM, dtype=torch.float64, requires_grad=True)
    layer(x)[0].sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_autocast_runs_and_leaves_the_state_in_float32(layer):
    layer, x = layer.float(), time_points(9, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = layer(x)
    assert {w.dtype for w in (*state.memory.weights, *state.memory.momentum)} == {torch.float32}
    torch.testing.assert_close(y.float(), layer(x)[0], rtol=0.1, atol=0.1)


def test_wrong_input_is_named(layer):
    with pytest.raises(MismatchError, match=r"whole time points of 3 tokens, found \(2, 10, 8\)"):
        layer(torch.zeros(2, 10, DIM, dtype=torch.float64))
    with pytest.raises(MismatchError, match=r"\(batch, tokens, 8\)"):
        layer(torch.zeros(2, 9, 7, dtype=torch.float64))
    with pytest.raises(ConfigError, match="found dim 7 for 2 heads"):
        NeuralMemoryConfig(n_heads=2).build(dim=7, tokens_per_time_point=1)
