"""Attention inside a segment, against torch's own attention and its promises."""

import pytest
import torch
import torch.nn.functional as F

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.titans.layers import SegmentAttention

TOKENS_PER_TIME_POINT, DIM, N_PERSISTENT = 2, 8, 3


@pytest.fixture
def attention():
    torch.manual_seed(0)
    return SegmentAttention(
        DIM, n_heads=2, n_persistent=N_PERSISTENT, tokens_per_time_point=TOKENS_PER_TIME_POINT
    ).double()


def tokens(n_time_points):
    return torch.randn(2, n_time_points * TOKENS_PER_TIME_POINT, DIM, dtype=torch.float64)


def test_one_time_point_gets_plain_attention(attention):
    segment, context = tokens(1), tokens(1)
    visible = torch.cat([attention.persistent.expand(2, -1, -1), context, segment], dim=1)
    keys, values = attention.key_value(visible).chunk(2, dim=-1)
    heads = [x.unflatten(-1, (2, -1)).transpose(1, 2) for x in (attention.query(segment), keys, values)]
    expected = attention.output(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(segment, context, attention.init_state(2))[0], expected)


def test_exactly_the_visible_tokens_matter(attention):
    segment, context = tokens(5), tokens(5)
    before = attention(segment, context, attention.init_state(2))[0]
    first = 3 * TOKENS_PER_TIME_POINT
    for place in (first, first + 1):
        for stream in (segment, context):
            changed = stream.clone()
            changed[:, place] += 1.0
            pair = (changed, context) if stream is segment else (segment, changed)
            after = attention(*pair, attention.init_state(2))[0]
            assert torch.equal(after[:, :first], before[:, :first])
            # Both tokens of the time point, and every later one, see it.
            assert (after[:, first:] != before[:, first:]).any(-1).all()


def test_persistent_tokens_are_always_visible(attention):
    segment, context = tokens(5), tokens(5)
    before = attention(segment, context, attention.init_state(2))[0]
    with torch.no_grad():
        attention.persistent[0] += 1.0
    after = attention(segment, context, attention.init_state(2))[0]
    assert (after != before).any(-1).all()


def test_scores_depend_on_distance_only(attention):
    """The same query and key, two time points apart, anywhere in the segment."""
    query, key = torch.randn(2, 1, 2, TOKENS_PER_TIME_POINT, 4, dtype=torch.float64)
    scores = [(attention._rotate(query, at + 2) * attention._rotate(key, at)).sum(-1) for at in range(4)]
    for score in scores[1:]:
        torch.testing.assert_close(score, scores[0], rtol=1e-12, atol=1e-12)


def test_longterm_tokens_are_visible_to_the_whole_segment(attention):
    segment, context, longterm = tokens(5), tokens(5), torch.randn(2, 3, DIM, dtype=torch.float64)
    before = attention(segment, context, attention.init_state(2), longterm=longterm)[0]
    longterm[:, 1] += 1.0
    after = attention(segment, context, attention.init_state(2), longterm=longterm)[0]
    assert (after != before).any(-1).all()


def test_without_causality_only_the_context_is_visible_ahead(attention):
    attention.causal = False
    segment, context, state = tokens(5), tokens(5), attention.init_state(2)
    before = attention(segment, context, state)[0]
    last = slice(4 * TOKENS_PER_TIME_POINT, None)
    other = context.clone()
    other[:, last] += 1.0
    assert (attention(segment, other, state)[0] != before).any(-1).all()
    segment[:, last] += 1.0
    assert torch.equal(attention(segment, context, state)[0][:, : last.start], before[:, : last.start])


@pytest.mark.parametrize("cuts", [[1] * 6, [2, 4], [5, 1]])
def test_a_segment_may_be_cut_anywhere(attention, cuts):
    segment, context = tokens(6), tokens(6)
    expected, expected_state = attention(segment, context, attention.init_state(2))
    lengths = [n * TOKENS_PER_TIME_POINT for n in cuts]
    state, outputs = attention.init_state(2), []
    for parts in zip(torch.split(segment, lengths, dim=1), torch.split(context, lengths, dim=1), strict=True):
        y, state = attention(*parts, state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=1), expected)
    torch.testing.assert_close(state.keys, expected_state.keys)


def test_no_persistent_tokens(attention):
    none = SegmentAttention(DIM, n_heads=2, n_persistent=0, tokens_per_time_point=TOKENS_PER_TIME_POINT)
    y, _ = none(tokens(2).float(), tokens(2).float(), none.init_state(2))
    assert y.isfinite().all()


def test_wrong_input_is_named(attention):
    with pytest.raises(MismatchError, match=r"whole time points of 2 tokens, found \(2, 3, 8\)"):
        attention(tokens(2)[:, :3], tokens(2)[:, :3], attention.init_state(2))


def test_heads_that_do_not_divide_dim_are_refused():
    with pytest.raises(ConfigError, match="found dim 6 for 2 heads"):
        SegmentAttention(6, n_heads=2, n_persistent=0, tokens_per_time_point=1)
