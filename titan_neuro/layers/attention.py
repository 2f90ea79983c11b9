"""Attention inside one segment, over persistent tokens, what the memory recalls, and the segment itself."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from titan_neuro.errors import ConfigError
from titan_neuro.ops.stream_state import StreamState

# Slowest rotation: a turn in about 600 frames, more than any segment holds.
_ROTARY_BASE = 100.0


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


class SegmentAttention(nn.Module):
    """``Attn([persistent ; recalled ; segment])`` for the segment's tokens.

    Behrouz et al. 2025 (arXiv:2501.00663), equations 19, 22 and 23, but causal by frame: a token sees the persistent
    tokens, and, of the recalled and the segment's tokens, those of its own frame and of earlier ones. (In the paper all
    of what is recalled stands before the segment, so a token would see what was recalled for later ones.) Places are
    relative: rotary angles by the distance in frames (Su et al. 2021, arXiv:2104.09864); nothing tells where in the
    stream a segment lies.

    Parameters
    ----------
    dim : int
        Width of a token.
    n_heads : int
        Heads; ``dim / n_heads`` is a whole, even number.
    n_persistent : int
        Learned tokens that are always visible; 0 or more.
    segment_frames, tokens_per_frame : int
        Longest segment, and tokens of a frame.

    Raises
    ------
    ConfigError
        A width that can't be shared out to the heads.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(
        self, dim: int, *, n_heads: int, n_persistent: int, segment_frames: int, tokens_per_frame: int
    ) -> None:
        super().__init__()
        if dim % (2 * n_heads):
            raise ConfigError(f"n_heads: each head needs an even share of dim; found dim {dim} for {n_heads} heads.")
        self.n_heads, self.head_dim, self.tokens_per_frame = n_heads, dim // n_heads, tokens_per_frame
        self.persistent = nn.Parameter(torch.randn(n_persistent, dim))
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        n_pairs = self.head_dim // 2
        frame = torch.arange(segment_frames).repeat_interleave(tokens_per_frame)
        angles = torch.outer(frame, _ROTARY_BASE ** -(torch.arange(n_pairs) / n_pairs))
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)

    def init_cache(self, batch_size: int) -> AttentionCache:
        """The cache before a segment's first frame: no tokens."""
        empty = self.persistent.new_zeros(batch_size, self.n_heads, 2, 0, self.head_dim)
        return AttentionCache(empty, empty)

    def forward(
        self, segment: Float[Tensor, "B T D"], recalled: Float[Tensor, "B T D"], cache: AttentionCache
    ) -> tuple[Float[Tensor, "B T D"], AttentionCache]:
        """Attend from the next frames of the open segment.

        Parameters
        ----------
        segment, recalled : torch.Tensor
            ``(batch, tokens, dim)``: whole frames of the segment, and what the memory recalled for each token.
        cache : AttentionCache
            What the segment's frames before these left.

        Returns
        -------
        attended : torch.Tensor
            ``(batch, tokens, dim)``.
        cache : AttentionCache
            With the new frames' keys and values.
        """
        n_before = cache.keys.shape[3]
        stop = n_before + segment.shape[1]
        queries = self._rotate(self._heads(self.query(segment)), n_before, stop)
        new_keys, new_values = self._keys_and_values(torch.stack([recalled, segment], dim=1))
        keys = torch.cat([cache.keys, self._rotate(new_keys, n_before, stop)], dim=3)
        values = torch.cat([cache.values, new_values], dim=3)
        own_keys, own_values = (
            part.expand(len(segment), -1, -1, -1) for part in self._keys_and_values(self.persistent[None])
        )
        attended = F.scaled_dot_product_attention(
            queries,
            torch.cat([own_keys, keys.flatten(2, 3)], dim=2),
            torch.cat([own_values, values.flatten(2, 3)], dim=2),
            attn_mask=self._visible(n_before, stop),
        )
        return self.output(attended.transpose(1, 2).flatten(2)), AttentionCache(keys, values)

    def _heads(self, x: Tensor) -> Tensor:
        """``(batch, ..., tokens, dim)`` to ``(batch, heads, ..., tokens, head_dim)``."""
        return x.reshape(*x.shape[:-1], self.n_heads, self.head_dim).movedim(-2, 1)

    def _keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.key_value(x).chunk(2, dim=-1)
        return self._heads(keys), self._heads(values)

    def _rotate(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Turn pairs of numbers by their frame's angles; `start` and `stop` in tokens from the segment's start."""
        cosine, sine = self.cosine[start:stop].to(x.dtype), self.sine[start:stop].to(x.dtype)
        left, right = x.chunk(2, dim=-1)
        return torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1)

    def _visible(self, start: int, stop: int) -> Bool[Tensor, "tokens seen"]:
        frame = torch.arange(stop, device=self.cosine.device) // self.tokens_per_frame
        is_past = frame[start:, None] >= frame
        return torch.cat([is_past.new_ones(stop - start, len(self.persistent)), is_past, is_past], dim=1)
