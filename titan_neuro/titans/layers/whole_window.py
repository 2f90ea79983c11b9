"""Attention over a window that stands by itself: nothing of what lies before it gets in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from titan_neuro.titans.layers.heads import AttentionHeads


class WholeWindowAttention(AttentionHeads):
    """``Attn([persistent ; window])``: every token of a window sees every other, and the persistent tokens.

    Angles count from the window's first time point, where the persistent tokens stand too: places are relative to the
    window's last time point, wherever in a stream it lies.

    Parameters
    ----------
    dim, n_heads, n_persistent, tokens_per_time_point : int
        See `AttentionHeads`.

    Raises
    ------
    ConfigError
        A width that can't be shared out to the heads.
    """

    def forward(
        self, windows: Float[Tensor, "N T D"], has_been: Bool[Tensor, "N W"], *, n_asking: int
    ) -> Float[Tensor, "N Q D"]:
        """Attend from the last time points of each window.

        Parameters
        ----------
        windows : torch.Tensor
            ``(windows, tokens, dim)``, whole time points.
        has_been : torch.Tensor
            bool, ``(windows, time_points)``: time points before a stream's first have not been, and nobody sees them.
        n_asking : int
            Number of last time points whose tokens ask.

        Returns
        -------
        attended : torch.Tensor
            ``(windows, n_asking * tokens_per_time_point, dim)``.

        Raises
        ------
        MismatchError
            Tokens of another width, or time points that are not whole.
        """
        self._check(windows)
        n_tokens, n_time_points = n_asking * self.tokens_per_time_point, has_been.shape[1]
        asking = windows[:, windows.shape[1] - n_tokens :]
        queries = self._rotate(self._heads(self.query(asking)), n_time_points - n_asking)
        keys, values = self._keys_and_values(windows)
        own_keys, own_values = (
            part.expand(len(windows), -1, -1, -1) for part in self._keys_and_values(self.persistent[None])
        )
        visible = F.pad(
            has_been.repeat_interleave(self.tokens_per_time_point, 1), (len(self.persistent), 0), value=True
        )
        attended = F.scaled_dot_product_attention(
            queries,
            torch.cat([own_keys, self._rotate(keys, 0)], dim=2),
            torch.cat([own_values, values], dim=2),
            attn_mask=visible[:, None, None],
        )
        projected: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return projected
