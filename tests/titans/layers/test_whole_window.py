"""Attention over whole windows against its equation, one query at a time."""

import pytest
import torch

from titan_neuro.errors import MismatchError
from titan_neuro.titans.layers import WholeWindowAttention

DIM, N_TIME_POINTS, TOKENS = 8, 5, 2


@pytest.fixture
def attention():
    torch.manual_seed(0)
    return WholeWindowAttention(DIM, n_heads=2, n_persistent=3, tokens_per_time_point=TOKENS).double()


@pytest.fixture
def windows():
    return torch.randn(2, N_TIME_POINTS * TOKENS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# The first stream has its whole window, the second only two time points of it.
IS_VALID = torch.tensor([[True] * N_TIME_POINTS, [False] * 3 + [True] * 2])


def rotated(vector, time_point):
    """A head's vector, its pairs rotated by the angles of a time point."""
    angles = time_point * 100.0 ** -(torch.arange(2, dtype=torch.float64) / 2)
    pairs = torch.complex(vector[:2], vector[2:]) * torch.exp(1j * angles)
    return torch.cat([pairs.real, pairs.imag])


@pytest.mark.parametrize("n_query_time_points", [1, 3, N_TIME_POINTS])
def test_it_equals_its_equation(attention, windows, n_query_time_points):
    result = attention(windows, IS_VALID, n_query_time_points=n_query_time_points)
    assert result.shape == (2, n_query_time_points * TOKENS, DIM)
    for item in range(2):
        keys, values = attention.key_value(torch.cat([attention.persistent, windows[item]])).chunk(2, dim=-1)
        visible = [(index, 0) for index in range(3)]
        for time_point in range(N_TIME_POINTS):
            if IS_VALID[item, time_point]:
                visible += [(3 + time_point * TOKENS + token, time_point) for token in range(TOKENS)]
        for row in range(n_query_time_points * TOKENS):
            token = (N_TIME_POINTS - n_query_time_points) * TOKENS + row
            query, heads = attention.query(windows[item, token]), []
            for part in (slice(0, 4), slice(4, 8)):
                rotated_query = rotated(query[part], token // TOKENS)
                scores = (
                    torch.stack(
                        [rotated_query @ rotated(keys[index, part], time_point) for index, time_point in visible]
                    )
                    / 2
                )
                heads.append(scores.softmax(0) @ values[[index for index, _ in visible], part])
            torch.testing.assert_close(result[item, row], attention.output(torch.cat(heads)), rtol=1e-10, atol=1e-12)


def test_parts_of_time_points_are_refused(attention, windows):
    with pytest.raises(MismatchError, match=r"whole time points of 2 tokens, found \(2, 9, 8\)"):
        attention(windows[:, 1:], IS_VALID, n_query_time_points=1)
