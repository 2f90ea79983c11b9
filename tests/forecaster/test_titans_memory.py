"""The forecast memory with the write rule of Titans, against its definition in plain loops."""

import dataclasses
import itertools

import pytest
import torch
from memory_streams import KEY_WIDTH, N_FEATURES, VALUE_WIDTH, draw, run

from titan_neuro.errors import MismatchError
from titan_neuro.forecaster.titan import LookaheadConfig
from titan_neuro.forecaster.titan.config import TitansRuleConfig
from titan_neuro.forecaster.titan.forecast_memory import ForecastMemoryFit
from titan_neuro.forecaster.titan.titans_memory import TitansForecastMemory

HORIZONS = (2, 5)
CHUNK = 4


def make(horizons=HORIZONS, dtype=torch.float64, chunk_time_points=CHUNK, **config):
    torch.manual_seed(0)
    layer = TitansForecastMemory(
        TitansRuleConfig(**{"key_width": KEY_WIDTH, **config}),
        horizons=horizons,
        n_features=N_FEATURES,
        value_width=VALUE_WIDTH,
        chunk_time_points=chunk_time_points,
    )
    layer.key_map.normal_(std=0.7)
    layer.gates.normal_()
    layer.error_scale.uniform_(0.5, 2)
    layer.initial_weights.add_(0.3 * torch.randn(layer.initial_weights.shape))
    with torch.no_grad():
        layer.reliability.normal_()
    return layer.to(dtype)


def respond(weights, key):
    for layer, weight in enumerate(weights):
        key = weight @ (torch.nn.functional.silu(key) if layer else key)
    return key


def by_definition(layer, features, errors, is_written=lambda time_point: True):
    """One stream, horizon and time point after the other; also the norm of each gradient."""
    config, chunk = layer.config, layer.chunk_time_points
    found, surprise = torch.zeros_like(errors), torch.zeros(errors.shape[:3], dtype=errors.dtype)
    widths = [layer.key_map.shape[1]] + [2 * layer.key_map.shape[1]] * (config.depth - 1) + [VALUE_WIDTH]
    for item, (index, horizon) in itertools.product(range(len(features)), enumerate(layer.horizons)):
        keys = features[item, :, index] @ layer.key_map[index].T
        alpha, eta, step = torch.sigmoid(layer.gates[:, index])
        eta, flat, weights = config.max_momentum * eta, layer.initial_weights[index], []
        for d_in, d_out in itertools.pairwise(widths):
            weights.append(flat[: d_in * d_out].view(d_out, d_in))
            flat = flat[d_in * d_out :]
        momentum, n_written = [torch.zeros_like(weight) for weight in weights], 0
        for t in range(len(keys)):
            if is_written(t):
                if n_written % chunk == 0:
                    reference = weights
                key = keys[t - horizon] if t >= horizon else torch.zeros_like(keys[0])
                value = errors[item, t, index] / layer.error_scale[index]
                loss = lambda weights, key=key, value=value: (respond(weights, key) - value).square().sum()  # noqa: E731
                gradients = torch.func.grad(loss)(reference)
                surprise[item, t, index] = torch.cat([part.flatten() for part in gradients]).norm()
                if config.max_delta_norm is not None:
                    assert config.depth == 1
                    delta = 2 * (respond(reference, key) - value)
                    gradients = [part * min(1, config.max_delta_norm / delta.norm()) for part in gradients]
                theta = config.max_step * step * (1 - eta) / (2 * (1 + chunk * key @ key))
                momentum = [eta * s - theta * part for s, part in zip(momentum, gradients, strict=True)]
                weights = [(1 - alpha) * weight + s for weight, s in zip(weights, momentum, strict=True)]
                n_written += 1
            found[item, t, index] = layer.reliability[index] * layer.error_scale[index] * respond(weights, keys[t])
    return found, surprise * layer.error_scale


@pytest.mark.parametrize("n_time_points", [1, 19, 43])
@pytest.mark.parametrize(
    ("horizons", "config"),
    [
        ((2, 5), {"max_delta_norm": 1.5}),
        ((1, 3), {"max_delta_norm": None}),
        ((9, 20), {"max_step": 0.5, "max_momentum": 0.5}),
        ((4,), {"depth": 2, "max_delta_norm": None}),
        ((4,), {"depth": 3, "max_delta_norm": None}),
    ],
)
@torch.no_grad()
def test_memory_equals_its_definition(horizons, config, n_time_points):
    layer, parts = make(horizons, **config), draw(n_time_points, len(horizons))
    expected, surprise = by_definition(layer, *parts)
    torch.testing.assert_close(run(layer, parts)[0], expected, rtol=1e-8, atol=1e-10)
    read, found, _ = layer.learn_and_record(*parts, layer.init_state(2))
    torch.testing.assert_close(read * layer.reliability, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found, surprise.square().sum(dim=2).sqrt(), rtol=1e-8, atol=1e-10)


@torch.no_grad()
def test_a_frozen_memory_writes_nothing():
    layer, parts = make(), draw(40)
    before, frozen, after = ([part[:, some] for part in parts] for some in (slice(13), slice(13, 26), slice(26, None)))
    _, state = run(layer, before)
    read, thawed = layer(*frozen, state, frozen=True)
    # What arrives meanwhile is never written; keys whose value comes later are.
    found = torch.cat([read, layer(*after, thawed)[0]], dim=1)
    expected, _ = by_definition(layer, *parts, lambda time_point: not 13 <= time_point < 26)
    torch.testing.assert_close(found, expected[:, 13:], rtol=1e-8, atol=1e-10)
    assert torch.equal(layer(frozen[0], 3 * frozen[1], state, frozen=True)[0], read)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("cuts", [(4,), (1, 3, 10), tuple(range(1, 19))])
@torch.no_grad()
def test_a_stream_may_be_cut_anywhere(cuts, frozen):
    layer, (start, parts) = make(), (draw(9), draw(19))
    _, state = run(layer, start)
    whole, expected = layer(*parts, state, frozen=frozen)
    surprise, found, surprises = layer.learn_and_record(*parts, state)[1], [], []
    for pieces in zip(*(torch.tensor_split(part, cuts, dim=1) for part in parts), strict=True):
        surprises.append(layer.learn_and_record(*pieces, state)[1])
        read, state = layer(*pieces, state, frozen=frozen)
        found.append(read)
    torch.testing.assert_close(torch.cat(found, dim=1), whole, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(state.memory.weights, expected.memory.weights, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(state.waiting, expected.waiting, rtol=1e-8, atol=1e-10)
    if not frozen:
        torch.testing.assert_close(torch.cat(surprises, dim=1), surprise, rtol=1e-8, atol=1e-10)


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
    torch.testing.assert_close(found[0], run(layer, second)[0][0], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found[1], run(layer, parts)[0][1, 8:], rtol=1e-8, atol=1e-10)


@torch.no_grad()
def test_a_long_wild_stream_stays_bounded():
    """Keys of any length, the same for minutes, and errors that jump."""
    layer = make(dtype=torch.float32, max_step=2.0)
    layer.gates[0] = -9.0
    layer.gates[1:] = 9.0
    generator = torch.Generator().manual_seed(3)
    features, errors = draw(1, dtype=torch.float32)
    features = 10 ** torch.randn(2, 60, 1, 1, generator=generator) * features
    features = features.repeat_interleave(100, dim=1)
    errors = 100 * torch.randn(2, 6000, 2, VALUE_WIDTH, generator=generator)
    short, state = run(layer, [features, errors])
    long, later = layer(features, errors, state)
    assert short.isfinite().all()
    assert long.isfinite().all()
    assert [part.shape for part in later.memory.weights] == [part.shape for part in state.memory.weights]


@pytest.mark.parametrize("depth", [1, 2])
def test_all_that_is_fitted_has_a_gradient(depth):
    layer, parts = make(depth=depth), draw(19)
    fitted = {name: getattr(layer, name).requires_grad_() for name in ("key_map", "gates", "initial_weights")}
    run(layer, parts)[0].square().mean().backward()
    assert [name for name, _ in layer.named_parameters()] == ["reliability"]
    for name, values in {**fitted, "reliability": layer.reliability}.items():
        assert values.grad.isfinite().all()
        assert values.grad.flatten(1).abs().sum(dim=1).gt(0).all(), name


def test_a_fit_of_another_rule_is_refused():
    layer, deep = make(), make(depth=2)
    with pytest.raises(MismatchError, match=r"expected initial weights \(2, 12\), found ForecastMemoryFit"):
        layer.load(ForecastMemoryFit(layer.key_map, layer.reliability))
    with pytest.raises(MismatchError, match=r"expected initial weights \(2, 12\), found \(2, 56\)"):
        layer.load(deep.fitted())
    other = TitansForecastMemory(
        layer.config, horizons=HORIZONS, n_features=N_FEATURES, value_width=VALUE_WIDTH, chunk_time_points=CHUNK
    ).double()
    other.load(layer.fitted())
    parts = draw(19)
    assert torch.equal(run(other, parts)[0], run(layer, parts)[0])


def test_the_rule_chooses_the_memory():
    config = LookaheadConfig(n_components=2, n_lags=1, rule="titans", titans=TitansRuleConfig(key_width=3))
    memory = config.build(horizons=(1, 3), width=4)
    assert isinstance(memory.associations, TitansForecastMemory)
    assert memory.associations.key_map.shape[1] == 3
    exact = dataclasses.replace(config, rule="exact").build(horizons=(1, 3), width=4)
    assert not isinstance(exact.associations, TitansForecastMemory)
