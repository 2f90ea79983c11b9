"""Attention inside one segment: over persistent tokens, the memory's context, and the segment itself."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from titan_neuro.titans.layers.heads import AttentionHeads
from titan_neuro.titans.stream_state import StreamState


@dataclasses.dataclass(frozen=True)
class SegmentAttentionState(StreamState):
    """Keys and values of the open segment (a key-value cache).

    Attributes
    ----------
    keys, values : torch.Tensor
        ``(batch, heads, 2, tokens, head_dim)``: those of the context (index 0) and of the segment's tokens (1).
    """

    keys: Float[Tensor, "B H 2 T D"]
    values: Float[Tensor, "B H 2 T D"]


class SegmentAttention(AttentionHeads):
    """``Attn([persistent ; long-term ; context ; segment])`` for the segment's tokens.

    Behrouz et al. 2025 (arXiv:2501.00663), equations 19, 22 and 23, made causal: a token sees all persistent and
    long-term tokens and, of the context and the segment, those of its own and of earlier time points. (In the paper the
    whole context precedes the segment, so that a token would see the context of later tokens.) Rotary angles count from
    the segment's start, where the persistent and long-term tokens are placed too: the segment's position in the stream
    is unknown to the layer.

    Parameters
    ----------
    dim, n_heads, n_persistent, tokens_per_time_point : int
        See `AttentionHeads`.
    causal : bool
        False follows the paper: the whole context is visible to every token of the segment. For whole segments only.

    Raises
    ------
    ConfigError
        `dim` can't be divided among the heads.
    """

    def __init__(
        self, dim: int, *, n_heads: int, n_persistent: int, tokens_per_time_point: int, causal: bool = True
    ) -> None:
        super().__init__(dim, n_heads=n_heads, n_persistent=n_persistent, tokens_per_time_point=tokens_per_time_point)
        self.causal = causal

    def init_state(self, batch_size: int) -> SegmentAttentionState:
        """State before a segment's first time point: no tokens."""
        empty = self.persistent.new_zeros(batch_size, self.n_heads, 2, 0, self.head_dim)
        return SegmentAttentionState(empty, empty)

    def forward(
        self,
        segment: Float[Tensor, "B T D"],
        context: Float[Tensor, "B T D"],
        state: SegmentAttentionState,
        *,
        longterm: Float[Tensor, "B N D"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], SegmentAttentionState]:
        """Attend from the next time points of the open segment.

        Parameters
        ----------
        segment : torch.Tensor
            ``(batch, tokens, dim)``: whole time points of the segment.
        context : torch.Tensor
            ``(batch, tokens, dim)``: what the memory returned for each of these tokens.
        state : SegmentAttentionState
            From the previous call for this segment, or `init_state`.
        longterm : torch.Tensor, optional
            ``(batch, longterm, dim)``: more tokens that the whole segment sees.

        Returns
        -------
        attended : torch.Tensor
            ``(batch, tokens, dim)``.
        state : SegmentAttentionState
            Extended by the new time points.

        Raises
        ------
        MismatchError
            Tokens of another width or type, or parts of time points.
        """
        self._check("segment", segment)
        n_before = state.keys.shape[3]
        start = n_before // self.tokens_per_time_point
        queries = self._rotate(self._heads(self.query(segment)), start)
        new_keys, new_values = self._keys_and_values(torch.stack([context, segment], dim=1))
        keys = torch.cat([state.keys, self._rotate(new_keys, start)], dim=3)
        values = torch.cat([state.values, new_values], dim=3)
        front_keys, front_values = self._persistent_keys_and_values(len(segment))
        if longterm is not None:
            longterm_keys, longterm_values = self._keys_and_values(longterm)
            front_keys = torch.cat([front_keys, longterm_keys], dim=2)
            front_values = torch.cat([front_values, longterm_values], dim=2)
        attended = F.scaled_dot_product_attention(
            queries,
            torch.cat([front_keys, keys.flatten(2, 3)], dim=2),
            torch.cat([front_values, values.flatten(2, 3)], dim=2),
            attn_mask=self._visible(front_keys.shape[2], n_before, keys.shape[3]),
        )
        return self._merge_heads(attended), SegmentAttentionState(keys, values)

    def _visible(self, n_front: int, start: int, stop: int) -> Bool[Tensor, "tokens keys"]:
        """Which keys the segment's tokens `start` to `stop` see."""
        time_point = torch.arange(stop, device=self.persistent.device) // self.tokens_per_time_point
        is_past = time_point[start:, None] >= time_point
        of_context = is_past if self.causal else torch.ones_like(is_past)
        return torch.cat([is_past.new_ones(stop - start, n_front), of_context, is_past], dim=1)
