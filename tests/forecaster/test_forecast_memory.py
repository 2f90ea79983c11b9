"""The memory that learns to forecast at test time, against its definition in plain loops."""

import pytest
import torch
from memory_streams import KEY_WIDTH, N_FEATURES, VALUE_WIDTH, draw, run

from titan_neuro.forecaster.titan.forecast_memory import ExactForecastMemory

SIZES = {"n_features": N_FEATURES, "key_width": KEY_WIDTH, "value_width": VALUE_WIDTH}
HORIZONS = (2, 5)
CHUNK = 4


def make(horizons=HORIZONS, dtype=torch.float64, chunk_time_points=CHUNK, **sizes):
    torch.manual_seed(0)
    layer = ExactForecastMemory(horizons=horizons, chunk_time_points=chunk_time_points, **{**SIZES, **sizes})
    layer.key_map.normal_(std=0.7)
    with torch.no_grad():
        layer.reliability.normal_()
    return layer.to(dtype)


def by_definition(layer, features, errors, horizons, is_written=lambda time_point: True):
    """At each time point the ridge regression on all pairs whose value has come, one stream and horizon at a time."""
    found = torch.zeros_like(errors)
    for item in range(len(features)):
        for index, horizon in enumerate(horizons):
            keys = features[item, :, index] @ layer.key_map[index].T
            for t in range(len(keys)):
                pairs = [s for s in range(t - horizon + 1) if is_written(s + horizon)]
                known, values = keys[pairs], errors[item, [s + horizon for s in pairs], index]
                held = torch.linalg.solve(
                    known.T @ known + torch.eye(keys.shape[1], dtype=keys.dtype), known.T @ values
                )
                found[item, t, index] = layer.reliability[index] * (keys[t] @ held)
    return found


@pytest.mark.parametrize("n_time_points", [1, 19, 43])
@pytest.mark.parametrize("horizons", [(2, 5), (1, 3), (4,), (9, 20)])
@torch.no_grad()
def test_memory_equals_its_definition(horizons, n_time_points):
    layer, parts = make(horizons), draw(n_time_points, len(horizons))
    expected = by_definition(layer, *parts, horizons)
    torch.testing.assert_close(run(layer, parts)[0], expected, rtol=1e-8, atol=1e-10)


@torch.no_grad()
def test_a_memory_for_short_streams_says_the_same():
    layer, parts = make(), draw(43)
    short = layer.for_short_streams(KEY_WIDTH)
    torch.testing.assert_close(run(short, parts)[0], run(layer, parts)[0], rtol=1e-8, atol=1e-10)
    assert short.init_state(1).inverse.numel() < layer.init_state(1).inverse.numel()


@pytest.mark.parametrize("n_time_points", [3, 19, 40])
@pytest.mark.parametrize("is_short", [False, True])
@torch.no_grad()
def test_the_content_is_what_is_read(is_short, n_time_points):
    layer, parts = make(), draw(n_time_points + 1)
    layer = layer.for_short_streams(KEY_WIDTH) if is_short else layer
    _, state = run(layer, [part[:, :-1] for part in parts])
    # A frozen memory reads by what it holds, and by nothing that arrives.
    read, _ = layer(*(part[:, -1:] for part in parts), state, frozen=True)
    keys = torch.einsum("bkf,kdf->bkd", parts[0][:, -1], layer.key_map)
    expected = torch.einsum("bkd,bkdo->bko", keys, layer.content(state)) * layer.reliability
    torch.testing.assert_close(read[:, 0], expected, rtol=1e-8, atol=1e-10)
    assert n_time_points <= min(HORIZONS) or layer.content(state).any()


@torch.no_grad()
def test_a_frozen_memory_writes_nothing():
    layer, parts = make(), draw(40)
    before, frozen, after = ([part[:, some] for part in parts] for some in (slice(13), slice(13, 26), slice(26, None)))
    _, state = run(layer, before)
    read, thawed = layer(*frozen, state, frozen=True)
    # What arrives meanwhile is never written; keys whose value comes later are.
    found = torch.cat([read, layer(*after, thawed)[0]], dim=1)
    expected = by_definition(layer, *parts, HORIZONS, lambda time_point: not 13 <= time_point < 26)[:, 13:]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    assert torch.equal(layer(frozen[0], 3 * frozen[1], state, frozen=True)[0], read)
    assert not run(layer, parts, frozen=True)[0].any()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("cuts", [(4,), (1, 3, 10), tuple(range(1, 19))])
@torch.no_grad()
def test_a_stream_may_be_cut_anywhere(cuts, frozen):
    layer, (start, parts) = make(), (draw(9), draw(19))
    _, state = run(layer, start)
    whole, expected = layer(*parts, state, frozen=frozen)
    found = []
    for pieces in zip(*(torch.tensor_split(part, cuts, dim=1) for part in parts), strict=True):
        read, state = layer(*pieces, state, frozen=frozen)
        found.append(read)
    torch.testing.assert_close(torch.cat(found, dim=1), whole, rtol=1e-8, atol=1e-10)
    assert state.position == expected.position
    for name in ("inverse", "weights", "keys"):
        torch.testing.assert_close(getattr(state, name), getattr(expected, name), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("time_point", [0, 3, 9, 17])
@torch.no_grad()
def test_later_time_points_change_no_output(time_point):
    layer, parts = make(dtype=torch.float32), draw(19, dtype=torch.float32)
    later = [part.clone() for part in parts]
    for part in later:
        part[:, time_point + 1 :] = 5 - part[:, time_point + 1 :]
    before, after = run(layer, parts)[0], run(layer, later)[0]
    assert torch.equal(before[:, : time_point + 1], after[:, : time_point + 1])
    # Nothing is forecast before the first value has come.
    first = max(time_point + 1, max(HORIZONS))
    assert not torch.isclose(before[:, first:], after[:, first:]).all(dim=-1).any()


@torch.no_grad()
def test_reset_empties_the_memory_of_one_stream():
    layer, parts = make(), draw(8 + 9)
    first, second = ([part[:, some] for part in parts] for some in (slice(8), slice(8, None)))
    _, state = run(layer, first)
    state = state.reset(torch.tensor([True, False]), layer.init_state(2))
    found, _ = layer(*second, state)
    torch.testing.assert_close(found[0], run(layer, second)[0][0], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found[1], run(layer, parts)[0][1, 8:], rtol=1e-8, atol=1e-10)


def test_the_state_does_not_grow():
    layer = make(dtype=torch.float32)
    short, long = (run(layer, draw(n, dtype=torch.float32))[1].state_dict() for n in (8, 800))
    assert short.pop("position") == long.pop("position") == 0
    assert {name: part.shape for name, part in short.items()} == {name: part.shape for name, part in long.items()}


@torch.no_grad()
def test_a_long_stream_stays_exact():
    """After 3,000 time points, what is held is still the ridge regression on all pairs."""
    layer, parts = make((3,), dtype=torch.float32), draw(3000, 1, batch=1, dtype=torch.float32)
    _, state = run(layer, parts, cuts=tuple(range(64, 3000, 64)))
    found, _ = layer(*draw(1, 1, batch=1, dtype=torch.float32), state)
    keys = (parts[0][0, :, 0] @ layer.key_map[0].T).double()
    known, values = keys[:2997], parts[1][0, 3:, 0].double()
    query = draw(1, 1, batch=1)[0][0, 0, 0] @ layer.key_map[0].T.double()
    # The value that comes with the query belongs to a key of the stream, too.
    late, value = keys[2997], draw(1, 1, batch=1)[1][0, 0, 0]
    known, values = torch.cat([known, late[None]]), torch.cat([values, value[None]])
    held = torch.linalg.solve(known.T @ known + torch.eye(4, dtype=torch.float64), known.T @ values)
    expected = layer.reliability[0].double() * (query @ held)
    torch.testing.assert_close(found[0, 0, 0].double(), expected, rtol=1e-3, atol=1e-5)


def test_reliability_alone_has_a_gradient():
    layer, parts = make(), draw(19)
    run(layer, parts)[0].square().mean().backward()
    assert [name for name, _ in layer.named_parameters()] == ["reliability"]
    assert layer.reliability.grad.abs().sum(dim=1).gt(0).all()


@pytest.mark.parametrize("horizon", [1, 6])
@torch.no_grad()
def test_a_new_map_in_each_stream_is_learned(horizon):
    generator = torch.Generator().manual_seed(2)
    n_time_points, width = 400, 6
    layer = ExactForecastMemory(
        horizons=(horizon,), chunk_time_points=8, n_features=width, key_width=width, value_width=4
    )
    layer.key_map[0] = torch.eye(width)
    features = torch.randn(3, n_time_points, 1, width, generator=generator)
    maps = torch.randn(3, 4, width, generator=generator) / width**0.5
    outcomes = torch.einsum("btkf,bdf->btkd", features, maps)
    errors = torch.zeros_like(outcomes)
    errors[:, horizon:] = outcomes[:, :-horizon] + 0.1 * torch.randn(outcomes[:, horizon:].shape, generator=generator)
    parts = (features, errors)
    # The output at a time point forecasts the outcome `horizon` time points later.
    left = (run(layer, parts)[0] - outcomes).square().mean(dim=(1, 2, 3)) / outcomes.square().mean(dim=(1, 2, 3))
    late = (run(layer, parts)[0] - outcomes)[:, 200:].square().mean() / outcomes.square().mean()
    assert (left < 0.1).all()
    assert late < 0.002
    # Shuffled outcomes can't be learned.
    shuffled = errors[:, torch.randperm(n_time_points, generator=generator)]
    misled = run(layer, (features, shuffled))[0]
    assert (misled * outcomes).mean() / outcomes.square().mean() < 0.1
