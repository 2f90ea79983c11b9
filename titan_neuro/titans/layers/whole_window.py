"""Attention inside windows that are independent of everything before them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from titan_neuro.titans.layers.heads import AttentionHeads


class WholeWindowAttention(AttentionHeads):
    """``Attn([persistent ; window])``: every token of a window sees every other, and the persistent tokens.

    Rotary angles count from the window's first time point, where the persistent tokens are placed too. So positions are
    relative to the window, wherever in a stream it lies.

    Parameters
    ----------
    dim, n_heads, n_persistent, tokens_per_time_point : int
        See `AttentionHeads`.

    Raises
    ------
    ConfigError
        `dim` can't be divided among the heads.
    """

    def forward(
        self, windows: Float[Tensor, "N T D"], is_valid: Bool[Tensor, "N W"], *, n_query_time_points: int
    ) -> Float[Tensor, "N Q D"]:
        """Attend from the last time points of each window.

        Parameters
        ----------
        windows : torch.Tensor
            ``(windows, tokens, dim)``, whole time points.
        is_valid : torch.Tensor
            bool, ``(windows, time_points)``: False where a time point precedes the stream; it is not attended to.
        n_query_time_points : int
            Number of last time points whose tokens are the queries.

        Returns
        -------
        torch.Tensor
            ``(windows, n_query_time_points * tokens_per_time_point, dim)``.

        Raises
        ------
        MismatchError
            Tokens of another width or type, or parts of time points.
        """
        self._check("windows", windows)
        n_tokens, n_time_points = n_query_time_points * self.tokens_per_time_point, is_valid.shape[1]
        query_tokens = windows[:, windows.shape[1] - n_tokens :]
        queries = self._rotate(self._heads(self.query(query_tokens)), n_time_points - n_query_time_points)
        keys, values = self._keys_and_values(windows)
        persistent_keys, persistent_values = self._persistent_keys_and_values(len(windows))
        visible = F.pad(
            is_valid.repeat_interleave(self.tokens_per_time_point, 1), (len(self.persistent), 0), value=True
        )
        attended = F.scaled_dot_product_attention(
            queries,
            torch.cat([persistent_keys, self._rotate(keys, 0)], dim=2),
            torch.cat([persistent_values, values], dim=2),
            attn_mask=visible[:, None, None],
        )
        return self._merge_heads(attended)
