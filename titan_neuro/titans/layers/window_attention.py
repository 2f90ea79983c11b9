"""Attention over the last time points of a stream, and over persistent tokens."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from titan_neuro.titans.layers.heads import AttentionHeads
from titan_neuro.titans.stream_state import StreamState


@dataclasses.dataclass(frozen=True)
class WindowCache(StreamState):
    """Keys and values of the last time points, as many as a window holds beside the time point that looks back.

    Attributes
    ----------
    keys, values : torch.Tensor
        ``(batch, heads, (window_time_points - 1) * tokens_per_time_point, head_dim)``; the keys are not rotated.
    n_time_points : torch.Tensor
        ``(batch,)``, int64: how many of these time points there have been, counted from the last.
    """

    keys: Float[Tensor, "B H T D"]
    values: Float[Tensor, "B H T D"]
    n_time_points: Int[Tensor, " B"]


class WindowAttention(AttentionHeads):
    """``SW-Attn([persistent ; x])``: each time point sees the persistent tokens, itself, and the time points just
    before it.

    Behrouz et al. 2025 (arXiv:2501.00663), equations 27 and 31. Tokens of one time point see each other. Angles are
    those of the distance in time points, made from places inside a window: the millionth time point is as precise as
    the first. Persistent tokens have no place: they are the same from everywhere. A long call is cut into blocks of at
    most `window_time_points`, each with the window before it, so that memory grows with the tokens, not with their
    square.

    Parameters
    ----------
    dim, n_heads, n_persistent, tokens_per_time_point : int
        See `AttentionHeads`.
    window_time_points : int
        Time points that a token sees, its own included; 1 or more.

    Raises
    ------
    ConfigError
        A width that can't be shared out to the heads.
    """

    def __init__(
        self, dim: int, *, n_heads: int, n_persistent: int, tokens_per_time_point: int, window_time_points: int
    ) -> None:
        super().__init__(dim, n_heads=n_heads, n_persistent=n_persistent, tokens_per_time_point=tokens_per_time_point)
        self.window_time_points = window_time_points

    def init_cache(self, batch_size: int) -> WindowCache:
        """The cache before the first time point: room for the time points of a window, none of which has been."""
        n_tokens = (self.window_time_points - 1) * self.tokens_per_time_point
        empty = self.persistent.new_zeros(batch_size, self.n_heads, n_tokens, self.head_dim)
        return WindowCache(empty, empty, torch.zeros(batch_size, dtype=torch.int64, device=empty.device))

    def forward(self, x: Float[Tensor, "B T D"], cache: WindowCache) -> tuple[Float[Tensor, "B T D"], WindowCache]:
        """Attend from the next time points of the streams.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``, whole time points.
        cache : WindowCache
            What the call before returned, or :meth:`init_cache`.

        Returns
        -------
        attended : torch.Tensor
            ``(batch, tokens, dim)``.
        cache : WindowCache

        Raises
        ------
        MismatchError
            Tokens of another width, or time points that are not whole.
        """
        self._check(x)
        before, n_time_points = self.window_time_points - 1, x.shape[1] // self.tokens_per_time_point
        block = min(self.window_time_points, n_time_points)
        n_blocks = -(-n_time_points // block)
        new_keys, new_values = self._keys_and_values(x)
        keys, values = torch.cat([cache.keys, new_keys], dim=2), torch.cat([cache.values, new_values], dim=2)
        queries = self._blocks(self._heads(self.query(x)), n_blocks, block, block)
        seen_keys, seen_values = (self._blocks(part, n_blocks, block, block + before) for part in (keys, values))
        own_keys, own_values = (
            part.expand(len(queries), -1, -1, -1) for part in self._keys_and_values(self.persistent[None])
        )
        # Twice the width: one half scores what has a place, the other what has none.
        placed = torch.cat([self._rotate(seen_keys, 0), torch.zeros_like(seen_keys)], dim=-1)
        placeless = torch.cat([torch.zeros_like(own_keys), own_keys], dim=-1)
        attended = F.scaled_dot_product_attention(
            torch.cat([self._rotate(queries, before), queries], dim=-1),
            torch.cat([placeless, placed], dim=2),
            torch.cat([own_values, seen_values], dim=2),
            attn_mask=self._visible(cache.n_time_points, n_blocks, block),
            scale=self.head_dim**-0.5,
        )
        attended = attended.transpose(1, 2).reshape(len(x), -1, self.n_heads * self.head_dim)
        # Copies: a view would keep the keys and values of the whole call alive.
        kept = keys.shape[2] - cache.keys.shape[2]
        after = WindowCache(
            keys[:, :, kept:].clone(),
            values[:, :, kept:].clone(),
            (cache.n_time_points + n_time_points).clamp(max=before),
        )
        return self.output(attended[:, : x.shape[1]]), after

    def _blocks(self, x: Tensor, n_blocks: int, step: int, size: int) -> Float[Tensor, "blocks H tokens D"]:
        """Cut ``(batch, heads, tokens, head_dim)`` into blocks of `size` time points, `step` apart; zeros fill the
        last.
        """
        step, size = step * self.tokens_per_time_point, size * self.tokens_per_time_point
        x = F.pad(x, (0, 0, 0, (n_blocks - 1) * step + size - x.shape[2]))
        return x.unfold(2, size, step).permute(0, 2, 1, 4, 3).flatten(0, 1)

    def _visible(self, n_cached: Int[Tensor, " B"], n_blocks: int, block: int) -> Bool[Tensor, "blocks 1 tokens seen"]:
        """Which keys the tokens of each block see: the persistent ones, and those of their window that have been."""
        before, device = self.window_time_points - 1, n_cached.device
        place = torch.arange(block + before, device=device)
        age = place[before:, None] - place
        in_window = (age >= 0) & (age <= before)
        first = torch.arange(n_blocks, device=device) * block
        has_been = first[:, None] + place >= (before - n_cached)[:, None, None]
        time_points = in_window & has_been[:, :, None]
        tokens = time_points.flatten(0, 1).repeat_interleave(self.tokens_per_time_point, 1)
        tokens = tokens.repeat_interleave(self.tokens_per_time_point, 2)
        return F.pad(tokens, (len(self.persistent), 0), value=True)[:, None]
