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
HAS_BEEN = torch.tensor([[True] * N_TIME_POINTS, [False] * 3 + [True] * 2])


def turned(vector, time_point):
    """A head's vector, its pairs turned by the angles of a time point."""
    angles = time_point * 100.0 ** -(torch.arange(2, dtype=torch.float64) / 2)
    pairs = torch.complex(vector[:2], vector[2:]) * torch.exp(1j * angles)
    return torch.cat([pairs.real, pairs.imag])


@pytest.mark.parametrize("n_query_time_points", [1, 3, N_TIME_POINTS])
def test_it_is_its_equation(attention, windows, n_query_time_points):
    found = attention(windows, HAS_BEEN, n_query_time_points=n_query_time_points)
    assert found.shape == (2, n_query_time_points * TOKENS, DIM)
    for item in range(2):
        keys, values = attention.key_value(torch.cat([attention.persistent, windows[item]])).chunk(2, dim=-1)
        seen = [(place, 0) for place in range(3)]
        for time_point in range(N_TIME_POINTS):
            if HAS_BEEN[item, time_point]:
                seen += [(3 + time_point * TOKENS + token, time_point) for token in range(TOKENS)]
        for row in range(n_query_time_points * TOKENS):
            token = (N_TIME_POINTS - n_query_time_points) * TOKENS + row
            query, heads = attention.query(windows[item, token]), []
            for part in (slice(0, 4), slice(4, 8)):
                asked = turned(query[part], token // TOKENS)
                scores = torch.stack([asked @ turned(keys[place, part], time_point) for place, time_point in seen]) / 2
                heads.append(scores.softmax(0) @ values[[place for place, _ in seen], part])
            torch.testing.assert_close(found[item, row], attention.output(torch.cat(heads)), rtol=1e-10, atol=1e-12)


def test_frames_that_are_not_whole_are_refused(attention, windows):
    with pytest.raises(MismatchError, match=r"whole time points of 2 tokens, found \(2, 9, 8\)"):
        attention(windows[:, 1:], HAS_BEEN, n_query_time_points=1)
