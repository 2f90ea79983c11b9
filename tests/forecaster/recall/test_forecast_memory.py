"""The memory that learns to forecast at test time, against its definition in plain loops."""

import pytest
import torch

from titan_neuro.forecaster.recall.forecast_memory import ForecastMemory

SIZES = {"n_features": 5, "key_width": 4, "value_width": 3, "context_width": 6, "context_key_width": 2}
HORIZONS = (2, 5)
CHUNK = 4


def make(horizons=HORIZONS, dtype=torch.float64, chunk_time_points=CHUNK, **sizes):
    torch.manual_seed(0)
    layer = ForecastMemory(horizons=horizons, chunk_time_points=chunk_time_points, **{**SIZES, **sizes})
    layer.key_map.normal_(std=0.7)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.5)
    return layer.to(dtype)


def draw(n_time_points, n_horizons=2, batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    shapes = ((n_horizons, SIZES["n_features"]), (n_horizons, SIZES["value_width"]), (SIZES["context_width"],))
    return [torch.randn(batch, n_time_points, *shape, generator=generator, dtype=dtype) for shape in shapes]


def run(layer, parts, cuts=(), frozen=False):
    state, found = layer.init_state(len(parts[0])), []
    for pieces in zip(*(torch.tensor_split(part, cuts, dim=1) for part in parts), strict=True):
        read, state = layer(*pieces, state, frozen=frozen)
        found.append(read)
    return torch.cat(found, dim=1), state


def by_definition(layer, features, errors, context, horizons, frozen=False):
    """Equations 12 to 16 of Titans, one stream and one horizon at a time; the key waits for its value."""
    found = torch.zeros_like(errors)
    n_horizons = len(horizons)
    for item in range(len(features)):
        for index, horizon in enumerate(horizons):
            keys = []
            for feature, output in zip(features[item, :, index], context[item], strict=True):
                from_features = layer.key_scale[index] * (layer.key_map[index] @ feature)
                key = torch.cat([from_features, layer.context_map[index] @ output])
                keys.append(key / max(1.0, float(key.norm())))
            weights = layer.initial_weights[index]
            momentum, reference = torch.zeros_like(weights), weights
            for t, key in enumerate(keys):
                if not frozen:
                    if t % layer.chunk_time_points == 0:
                        reference = weights
                    gates = torch.sigmoid(layer.gates(context[item, t])).view(3, n_horizons)[:, index]
                    alpha, eta = gates[0], 0.9 * gates[1]
                    step = 1.5 / (2 * layer.chunk_time_points) * gates[2] * (1 - eta)
                    waited = keys[t - horizon] if t >= horizon else torch.zeros_like(key)
                    surprise = 2 * torch.outer(reference @ waited - errors[item, t, index], waited)
                    momentum = eta * momentum - step * surprise
                    weights = (1 - alpha) * weights + momentum
                found[item, t, index] = layer.reliability[index] * (weights @ key)
    return found


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("horizons", [(2, 5), (1, 3), (4,)])
@torch.no_grad()
def test_memory_equals_its_definition(horizons, frozen):
    layer, parts = make(horizons), draw(19, len(horizons))
    expected = by_definition(layer, *parts, horizons, frozen)
    torch.testing.assert_close(run(layer, parts, frozen=frozen)[0], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("horizon", HORIZONS)
@torch.no_grad()
def test_a_value_is_written_at_its_waiting_key(horizon):
    """One value, unlike 0, in an empty memory: what is held afterwards is that value times that key."""
    layer = make()
    layer.initial_weights.zero_()
    features, errors, context = draw(9)
    context.zero_()
    index, time_point = HORIZONS.index(horizon), 7
    errors[:, :time_point] = errors[:, time_point + 1 :] = 0
    _, state = run(layer, (features[:, : time_point + 1], errors[:, : time_point + 1], context[:, : time_point + 1]))
    key = torch.zeros(2, SIZES["key_width"] + SIZES["context_key_width"], dtype=torch.float64)
    key[:, : SIZES["key_width"]] = (
        features[:, time_point - horizon, index] @ layer.key_map[index].T * layer.key_scale[index]
    )
    key /= key.norm(dim=1, keepdim=True).clamp_min(1)
    held = state.memory.weights[0][:, index]
    product = errors[:, time_point, index, :, None] * key[:, None]
    share = (held * product).sum() / product.square().sum()
    assert share > 0
    torch.testing.assert_close(held, share * product)


@torch.no_grad()
def test_a_frozen_memory_writes_nothing():
    layer, parts = make(), draw(13)
    _, state = run(layer, parts)
    read, after = layer(*parts, state, frozen=True)
    assert torch.equal(after.memory.weights[0], state.memory.weights[0])
    assert torch.equal(after.memory.momentum[0], state.memory.momentum[0])
    assert torch.equal(layer(parts[0], 3 * parts[1], parts[2], state, frozen=True)[0], read)
    # The keys go on waiting: thawed, it writes what belongs together.
    assert torch.equal(after.pending, layer(*parts, state)[1].pending)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("cuts", [(4,), (1, 3, 10), tuple(range(1, 19))])
@torch.no_grad()
def test_a_stream_may_be_cut_anywhere(cuts, frozen):
    layer, parts = make(), draw(19)
    whole, expected = run(layer, parts, frozen=frozen)
    found, state = run(layer, parts, cuts, frozen)
    torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(state.memory.weights, expected.memory.weights, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(state.pending, expected.pending, rtol=0, atol=1e-14)


@pytest.mark.parametrize("time_point", [0, 3, 9, 17])
@torch.no_grad()
def test_later_time_points_change_no_output(time_point):
    layer, parts = make(dtype=torch.float32), draw(19, dtype=torch.float32)
    later = [part.clone() for part in parts]
    for part in later:
        part[:, time_point + 1 :] = 5 - part[:, time_point + 1 :]
    before, after = run(layer, parts)[0], run(layer, later)[0]
    assert torch.equal(before[:, : time_point + 1], after[:, : time_point + 1])
    assert not torch.isclose(before[:, time_point + 1 :], after[:, time_point + 1 :]).all(dim=-1).any()


@torch.no_grad()
def test_reset_empties_the_memory_of_one_stream():
    layer, parts = make(), draw(8 + 9)
    first, second = ([part[:, some] for part in parts] for some in (slice(8), slice(8, None)))
    _, state = run(layer, first)
    state = state.reset(torch.tensor([True, False]), layer.init_state(2))
    found, _ = layer(*second, state)
    torch.testing.assert_close(found[0], run(layer, second)[0][0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found[1], run(layer, parts)[0][1, 8:], rtol=1e-9, atol=1e-11)


def test_every_parameter_has_a_gradient():
    layer = make()
    run(layer, draw(19))[0].square().mean().backward()
    assert {name for name, _ in layer.named_parameters()} == {
        "key_scale", "context_map", "initial_weights", "reliability", "gates.weight", "gates.bias"
    }  # fmt: skip
    for name, parameter in layer.named_parameters():
        rows = parameter.grad.flatten(1) if parameter.ndim > 1 else parameter.grad[:, None]
        assert rows.abs().sum(dim=1).gt(0).all(), name


@torch.no_grad()
def test_set_step_sets_the_gates_of_one_horizon():
    layer = make()
    layer.gates.weight.zero_()
    before = layer.gates.bias.clone()
    layer.set_step(1, 0.3 * layer.largest_step, 0.02)
    gates = torch.sigmoid(layer.gates(torch.zeros(6, dtype=torch.float64))).view(3, 2)
    torch.testing.assert_close(gates[[0, 2], 1], torch.tensor([0.02, 0.3], dtype=torch.float64))
    assert torch.equal(layer.gates.bias.view(3, 2)[:, 0], before.view(3, 2)[:, 0])
    assert layer.largest_step == pytest.approx(1.5 / (2 * CHUNK))


@pytest.mark.parametrize("horizon", [1, 6])
@torch.no_grad()
def test_a_new_map_in_each_stream_is_learned(horizon):
    generator = torch.Generator().manual_seed(2)
    n_time_points, width = 400, 6
    layer = ForecastMemory(
        horizons=(horizon,), chunk_time_points=8, n_features=width, key_width=width, value_width=4, context_width=2,
        context_key_width=2,
    )  # fmt: skip
    layer.key_map[0] = torch.eye(width) * (0.7 / width) ** 0.5
    layer.set_step(0, 0.5 * layer.largest_step, 1e-4)
    features = torch.randn(3, n_time_points, 1, width, generator=generator)
    maps = torch.randn(3, 4, width, generator=generator) / width**0.5
    outcomes = torch.einsum("btkf,bdf->btkd", features, maps)
    errors = torch.zeros_like(outcomes)
    errors[:, horizon:] = outcomes[:, :-horizon] + 0.1 * torch.randn(outcomes[:, horizon:].shape, generator=generator)
    parts = (features, errors, torch.zeros(3, n_time_points, 2))
    # The output at a time point forecasts the outcome `horizon` time points later.
    left = (run(layer, parts)[0] - outcomes).square().mean(dim=(1, 2, 3)) / outcomes.square().mean(dim=(1, 2, 3))
    late = (run(layer, parts)[0] - outcomes)[:, 200:].square().mean() / outcomes.square().mean()
    assert (left < 0.4).all()
    assert late < 0.1
    # A frozen memory forecasts 0; shuffled outcomes can't be learned.
    assert not run(layer, parts, frozen=True)[0].any()
    shuffled = errors[:, torch.randperm(n_time_points, generator=generator)]
    misled = run(layer, (features, shuffled, parts[2]))[0]
    assert (misled * outcomes).mean() / outcomes.square().mean() < 0.1
