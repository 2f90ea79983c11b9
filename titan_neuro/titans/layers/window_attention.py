"""Sliding-window attention over the last time points of a stream, and over persistent tokens."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from titan_neuro.titans.layers.heads import AttentionHeads
from titan_neuro.titans.stream_state import StreamState


@dataclasses.dataclass(frozen=True)
class WindowAttentionState(StreamState):
    """Keys and values of the last time points (a key-value cache), one time point fewer than a window holds.

    Attributes
    ----------
    keys, values : torch.Tensor
        ``(batch, heads, (window_time_points - 1) * tokens_per_time_point, head_dim)``; the keys are not rotated.
    n_time_points : torch.Tensor
        ``(batch,)``, int64: how many of these time points the stream has had; the last ones are valid.
    """

    keys: Float[Tensor, "B H T D"]
    values: Float[Tensor, "B H T D"]
    n_time_points: Int[Tensor, " B"]


class WindowAttention(AttentionHeads):
    """``SW-Attn([persistent ; x])``: a token sees the persistent tokens, its own time point and those just before.

    Behrouz et al. 2025 (arXiv:2501.00663), equations 27 and 31. Tokens of one time point see each other. Rotary angles
    are computed from positions inside a window, so that the millionth time point is as precise as the first. Persistent
    tokens have no position: they look the same from everywhere. A long call is cut into blocks of at most
    `window_time_points`, each with the window before it, so that the use of memory is linear in the number of tokens.

    Parameters
    ----------
    dim, n_heads, n_persistent, tokens_per_time_point : int
        See `AttentionHeads`.
    window_time_points : int
        Time points that a token sees, including its own; 1 or more.

    Raises
    ------
    ConfigError
        `dim` can't be divided among the heads.
    """

    def __init__(
        self, dim: int, *, n_heads: int, n_persistent: int, tokens_per_time_point: int, window_time_points: int
    ) -> None:
        super().__init__(dim, n_heads=n_heads, n_persistent=n_persistent, tokens_per_time_point=tokens_per_time_point)
        self.window_time_points = window_time_points

    def init_state(self, batch_size: int) -> WindowAttentionState:
        """State before the first time point: room for the time points of a window, none of which is valid yet."""
        n_tokens = (self.window_time_points - 1) * self.tokens_per_time_point
        empty = self.persistent.new_zeros(batch_size, self.n_heads, n_tokens, self.head_dim)
        return WindowAttentionState(empty, empty, torch.zeros(batch_size, dtype=torch.int64, device=empty.device))

    def forward(
        self, x: Float[Tensor, "B T D"], state: WindowAttentionState
    ) -> tuple[Float[Tensor, "B T D"], WindowAttentionState]:
        """Attend from the next time points of the streams.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``, whole time points.
        state : WindowAttentionState
            From the previous call, or `init_state`.

        Returns
        -------
        attended : torch.Tensor
            ``(batch, tokens, dim)``.
        state : WindowAttentionState

        Raises
        ------
        MismatchError
            Tokens of another width or type, or parts of time points.
        """
        self._check("x", x)
        n_before, n_time_points = self.window_time_points - 1, x.shape[1] // self.tokens_per_time_point
        block = min(self.window_time_points, n_time_points)
        n_blocks = -(-n_time_points // block)
        new_keys, new_values = self._keys_and_values(x)
        keys, values = torch.cat([state.keys, new_keys], dim=2), torch.cat([state.values, new_values], dim=2)
        queries = self._blocks(self._heads(self.query(x)), n_blocks, block, block)
        block_keys, block_values = (self._blocks(part, n_blocks, block, block + n_before) for part in (keys, values))
        persistent_keys, persistent_values = self._persistent_keys_and_values(len(queries))
        # Twice the width: one half scores keys that have a position, the other keys that have none.
        positioned = torch.cat([self._rotate(block_keys, 0), torch.zeros_like(block_keys)], dim=-1)
        unpositioned = torch.cat([torch.zeros_like(persistent_keys), persistent_keys], dim=-1)
        attended = F.scaled_dot_product_attention(
            torch.cat([self._rotate(queries, n_before), queries], dim=-1),
            torch.cat([unpositioned, positioned], dim=2),
            torch.cat([persistent_values, block_values], dim=2),
            attn_mask=self._visible(state.n_time_points, n_blocks, block),
            scale=self.head_dim**-0.5,
        )
        attended = attended.transpose(1, 2).reshape(len(x), -1, self.n_heads * self.head_dim)
        # Copies: a view would keep the keys and values of the whole call alive.
        first = keys.shape[2] - state.keys.shape[2]
        after = WindowAttentionState(
            keys[:, :, first:].clone(),
            values[:, :, first:].clone(),
            (state.n_time_points + n_time_points).clamp(max=n_before),
        )
        return self.output(attended[:, : x.shape[1]]), after

    def _blocks(self, x: Tensor, n_blocks: int, step: int, size: int) -> Float[Tensor, "blocks H tokens D"]:
        """Cut ``(batch, heads, tokens, head_dim)`` into blocks of `size` time points, `step` apart; zeros fill the
        last.
        """
        step, size = step * self.tokens_per_time_point, size * self.tokens_per_time_point
        x = F.pad(x, (0, 0, 0, (n_blocks - 1) * step + size - x.shape[2]))
        return x.unfold(2, size, step).permute(0, 2, 1, 4, 3).flatten(0, 1)

    def _visible(self, n_cached: Int[Tensor, " B"], n_blocks: int, block: int) -> Bool[Tensor, "blocks 1 tokens keys"]:
        """Which keys the tokens of each block see: the persistent ones, and the valid ones of their window."""
        n_before, device = self.window_time_points - 1, n_cached.device
        position = torch.arange(block + n_before, device=device)
        age = position[n_before:, None] - position
        in_window = (age >= 0) & (age <= n_before)
        first = torch.arange(n_blocks, device=device) * block
        is_valid = first[:, None] + position >= (n_before - n_cached)[:, None, None]
        time_points = in_window & is_valid[:, :, None]
        tokens = time_points.flatten(0, 1).repeat_interleave(self.tokens_per_time_point, 1)
        tokens = tokens.repeat_interleave(self.tokens_per_time_point, 2)
        return F.pad(tokens, (len(self.persistent), 0), value=True)[:, None]
