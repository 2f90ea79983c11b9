"""Sliding-window attention against attention written out in full, and its promises."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from titan_neuro.errors import MismatchError
from titan_neuro.titans.layers import WindowAttention

DIM, HEADS = 8, 2


def make(window_time_points, tokens_per_time_point=2, n_persistent=3):
    torch.manual_seed(0)
    sizes = {"n_heads": HEADS, "n_persistent": n_persistent, "tokens_per_time_point": tokens_per_time_point}
    return WindowAttention(DIM, window_time_points=window_time_points, **sizes).double()


def tokens(attention, n_time_points, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(
        2, n_time_points * attention.tokens_per_time_point, DIM, dtype=torch.float64, generator=generator
    )


def stream(attention, x, cuts):
    state, outputs = attention.init_state(len(x)), []
    for part in torch.split(x, [n * attention.tokens_per_time_point for n in cuts], dim=1):
        y, state = attention(part, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def written_out(attention, x):
    """Every token against every other: complex numbers turn by the distance in time points; a mask keeps the window."""

    def heads(rows):
        return rows.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def paired(rows):
        left, right = rows.chunk(2, dim=-1)
        return torch.complex(left, right)

    queries = heads(attention.query(x))
    keys, values = (heads(part) for part in attention.key_value(x).chunk(2, dim=-1))
    persistent = attention.key_value(attention.persistent[None]).chunk(2, dim=-1)
    persistent_keys, persistent_values = (heads(part).expand(len(x), -1, -1, -1) for part in persistent)
    time_point = torch.arange(x.shape[1]) // attention.tokens_per_time_point
    distance = time_point[:, None] - time_point
    n_pairs = DIM // HEADS // 2
    angles = distance[..., None] * 100.0 ** -(torch.arange(n_pairs).double() / n_pairs)
    turn = torch.polar(torch.ones_like(angles), angles)
    scores = torch.einsum("bhid,bhjd,ijd->bhij", paired(queries), paired(keys).conj(), turn).real
    scores = scores.masked_fill((distance < 0) | (distance >= attention.window_time_points), -torch.inf)
    scores = torch.cat([queries @ persistent_keys.mT, scores], dim=-1) / (DIM // HEADS) ** 0.5
    attended = scores.softmax(-1) @ torch.cat([persistent_values, values], dim=2)
    return attention.output(attended.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("n_time_points", [1, 2, 5, 6, 23])
@pytest.mark.parametrize("window_time_points", [1, 2, 5, 40])
@pytest.mark.parametrize(("tokens_per_time_point", "n_persistent"), [(1, 3), (2, 0), (3, 1)])
def test_it_equals_full_attention_with_a_mask(n_time_points, window_time_points, tokens_per_time_point, n_persistent):
    attention = make(window_time_points, tokens_per_time_point, n_persistent)
    x = tokens(attention, n_time_points).requires_grad_()
    weights = tokens(attention, n_time_points, seed=2)
    parameters = [x, *(p for p in attention.parameters() if p.numel())]
    expected, (result, _) = written_out(attention, x), stream(attention, x, [n_time_points])
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad((y * weights).sum(), parameters) for y in (expected, result)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("window_time_points", [1, 5, 40])
@pytest.mark.parametrize("cuts", [[1] * 23, [4, 19], [5, 5, 5, 8], [22, 1], [2, 1, 20]])
def test_a_stream_may_be_cut_anywhere(window_time_points, cuts):
    attention = make(window_time_points)
    x = tokens(attention, 23)
    expected, expected_state = stream(attention, x, [23])
    result, state = stream(attention, x, cuts)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(state.n_time_points, expected_state.n_time_points)
    torch.testing.assert_close((state.keys, state.values), (expected_state.keys, expected_state.values))


def test_exactly_the_visible_tokens_matter():
    attention = make(window_time_points=4)
    x = tokens(attention, 15)
    before, _ = stream(attention, x, [15])
    x[:, 6 * 2 + 1] += 1.0
    changed = (stream(attention, x, [15])[0] != before).any(-1).all(0)
    assert changed.nonzero().flatten().tolist() == list(range(6 * 2, 10 * 2))


def test_persistent_tokens_are_always_visible():
    attention = make(window_time_points=4)
    x = tokens(attention, 15)
    before, _ = stream(attention, x, [15])
    with torch.no_grad():
        attention.persistent[0] += 1.0
    assert (stream(attention, x, [15])[0] != before).any(-1).all()


def test_precision_does_not_depend_on_stream_length():
    """Bit for bit the same after a thousand time points as after a window."""
    attention = make(window_time_points=4).float()
    x = tokens(attention, 1004).float()
    late, _ = stream(attention, x, [1000, 1, 1, 1, 1])
    early, _ = stream(attention, x[:, -2 * 8 :], [4, 1, 1, 1, 1])
    assert torch.equal(late[:, -2:], early[:, -2:])


def test_streams_restart_independently():
    attention = make(window_time_points=4)
    x, after = tokens(attention, 7), tokens(attention, 6, seed=2)
    _, state = stream(attention, x, [7])
    mixed, _ = attention(after, state.reset(torch.tensor([True, False]), attention.init_state(2)))
    torch.testing.assert_close(mixed[0], stream(attention, after, [6])[0][0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mixed[1], stream(attention, torch.cat([x, after], 1), [13])[0][1, 14:])
    one, state = attention(after[:, :2], state.reset(torch.tensor([True, False]), attention.init_state(2)))
    assert state.n_time_points.tolist() == [1, 3]
    torch.testing.assert_close(one, mixed[:, :2], rtol=1e-12, atol=1e-12)


class _Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_memory_is_linear_in_the_tokens():
    attention, sizes = make(window_time_points=4), []
    for n_time_points in (64, 256):
        with torch.no_grad(), _Largest() as largest:
            _, state = stream(attention, tokens(attention, n_time_points), [n_time_points])
        sizes.append(largest.numel)
        assert state.keys.untyped_storage().nbytes() == state.keys.numel() * 8
    assert sizes[1] <= 4.1 * sizes[0]


def test_half_precision_keeps_one_type():
    attention = make(window_time_points=4).bfloat16()
    y, state = stream(attention, tokens(attention, 9).bfloat16(), [5, 4])
    assert y.dtype == state.keys.dtype == torch.bfloat16
    exact, _ = stream(attention.float(), tokens(attention, 9).float(), [9])
    torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05)


def test_wrong_input_is_named():
    attention = make(window_time_points=4)
    with pytest.raises(MismatchError, match=r"whole time points of 2 tokens, found \(2, 3, 8\)"):
        attention(tokens(attention, 2)[:, :3], attention.init_state(2))


def test_a_window_of_one_sees_itself_only():
    attention = make(window_time_points=1, tokens_per_time_point=1, n_persistent=0)
    x = tokens(attention, 5)
    _, values = attention.key_value(x).chunk(2, dim=-1)
    torch.testing.assert_close(stream(attention, x, [5])[0], F.linear(values, attention.output.weight))
