"""Attention inside one segment, over persistent tokens, what the memory recalls, and the segment itself."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from titan_neuro.titans.layers.heads import AttentionHeads
from titan_neuro.titans.stream_state import StreamState


@dataclasses.dataclass(frozen=True)
class AttentionCache(StreamState):
    """Keys and values of the segment that is open.

    Attributes
    ----------
    keys, values : torch.Tensor
        ``(batch, heads, 2, tokens, head_dim)``: of what the memory recalled, and of the segment's own tokens.
    """

    keys: Float[Tensor, "B H 2 T D"]
    values: Float[Tensor, "B H 2 T D"]


class SegmentAttention(AttentionHeads):
    """``Attn([persistent ; long-term ; recalled ; segment])`` for the segment's tokens.

    Behrouz et al. 2025 (arXiv:2501.00663), equations 19, 22 and 23, but causal by time point: a token sees the
    persistent and the long-term tokens, and, of the recalled and the segment's tokens, those of its own time point and
    of earlier ones. (In the paper all of what is recalled stands before the segment, so a token would see what was
    recalled for later ones.) Angles count from the segment's start, where the tokens in front stand too; nothing tells
    where in the stream a segment lies.

    Parameters
    ----------
    dim, n_heads, n_persistent, tokens_per_time_point : int
        See `AttentionHeads`.
    causal : bool
        False is the paper's reading: all of what was recalled for the segment is visible to each of its tokens. For
        whole segments alone.

    Raises
    ------
    ConfigError
        A width that can't be shared out to the heads.
    """

    def __init__(
        self, dim: int, *, n_heads: int, n_persistent: int, tokens_per_time_point: int, causal: bool = True
    ) -> None:
        super().__init__(dim, n_heads=n_heads, n_persistent=n_persistent, tokens_per_time_point=tokens_per_time_point)
        self.causal = causal

    def init_cache(self, batch_size: int) -> AttentionCache:
        """The cache before a segment's first time point: no tokens."""
        empty = self.persistent.new_zeros(batch_size, self.n_heads, 2, 0, self.head_dim)
        return AttentionCache(empty, empty)

    def forward(
        self,
        segment: Float[Tensor, "B T D"],
        recalled: Float[Tensor, "B T D"],
        cache: AttentionCache,
        *,
        longterm: Float[Tensor, "B N D"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], AttentionCache]:
        """Attend from the next time points of the open segment.

        Parameters
        ----------
        segment, recalled : torch.Tensor
            ``(batch, tokens, dim)``: whole time points of the segment, and what the memory recalled for each token.
        cache : AttentionCache
            What the segment's time points before these left.
        longterm : torch.Tensor, optional
            ``(batch, longterm, dim)``: what stands in front of the segment, beside the persistent tokens.

        Returns
        -------
        attended : torch.Tensor
            ``(batch, tokens, dim)``.
        cache : AttentionCache
            With the new time points' keys and values.

        Raises
        ------
        MismatchError
            Tokens of another width, or time points that are not whole.
        """
        self._check(segment)
        n_before = cache.keys.shape[3]
        start = n_before // self.tokens_per_time_point
        queries = self._rotate(self._heads(self.query(segment)), start)
        new_keys, new_values = self._keys_and_values(torch.stack([recalled, segment], dim=1))
        keys = torch.cat([cache.keys, self._rotate(new_keys, start)], dim=3)
        values = torch.cat([cache.values, new_values], dim=3)
        front_keys, front_values = (
            part.expand(len(segment), -1, -1, -1) for part in self._keys_and_values(self.persistent[None])
        )
        if longterm is not None:
            own_keys, own_values = self._keys_and_values(longterm)
            front_keys, front_values = torch.cat([front_keys, own_keys], 2), torch.cat([front_values, own_values], 2)
        attended = F.scaled_dot_product_attention(
            queries,
            torch.cat([front_keys, keys.flatten(2, 3)], dim=2),
            torch.cat([front_values, values.flatten(2, 3)], dim=2),
            attn_mask=self._visible(front_keys.shape[2], n_before, keys.shape[3]),
        )
        return self.output(attended.transpose(1, 2).flatten(2)), AttentionCache(keys, values)

    def _visible(self, n_front: int, start: int, stop: int) -> Bool[Tensor, "tokens seen"]:
        """Which keys the tokens from `start` to `stop` of the segment see."""
        time_point = torch.arange(stop, device=self.persistent.device) // self.tokens_per_time_point
        is_past = time_point[start:, None] >= time_point
        of_recalled = is_past if self.causal else torch.ones_like(is_past)
        return torch.cat([is_past.new_ones(stop - start, n_front), of_recalled, is_past], dim=1)
