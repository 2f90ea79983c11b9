"""What every attention over time points shares: heads, persistent tokens, and positions relative in time."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from titan_neuro.errors import ConfigError
from titan_neuro.titans.layers.checks import check_tokens

# The slowest rotation turns once in about 600 time points: more than any segment or window holds.
_ROTARY_BASE = 100.0


class AttentionHeads(nn.Module):
    """Base of the attention layers: projections, persistent tokens, rotation of queries and keys.

    Positions are relative: rotary angles are proportional to the distance in time points (Su et al. 2021,
    arXiv:2104.09864).

    Parameters
    ----------
    dim : int
        Width of a token.
    n_heads : int
        Heads; ``dim / n_heads`` must be an even integer.
    n_persistent : int
        Learned tokens that are always visible (equation 19 of arXiv:2501.00663); 0 or more.
    tokens_per_time_point : int
        Tokens of a time point.

    Raises
    ------
    ConfigError
        `dim` can't be divided among the heads.
    """

    def __init__(self, dim: int, *, n_heads: int, n_persistent: int, tokens_per_time_point: int) -> None:
        super().__init__()
        if dim % (2 * n_heads):
            raise ConfigError(f"n_heads: each head needs an even part of dim; found dim {dim} for {n_heads} heads.")
        self.n_heads, self.head_dim, self.tokens_per_time_point = n_heads, dim // n_heads, tokens_per_time_point
        self.persistent = nn.Parameter(torch.randn(n_persistent, dim))
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def _check(self, name: str, x: Tensor) -> None:
        check_tokens(
            name,
            x,
            dim=self.n_heads * self.head_dim,
            tokens_per_time_point=self.tokens_per_time_point,
            dtype=self.persistent.dtype,
        )

    def _heads(self, x: Tensor) -> Tensor:
        """``(batch, ..., tokens, dim)`` to ``(batch, heads, ..., tokens, head_dim)``."""
        return x.reshape(*x.shape[:-1], self.n_heads, self.head_dim).movedim(-2, 1)

    def _keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.key_value(x).chunk(2, dim=-1)
        return self._heads(keys), self._heads(values)

    def _persistent_keys_and_values(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the persistent tokens, ``(batch, heads, persistent, head_dim)`` each."""
        keys, values = self._keys_and_values(self.persistent[None])
        return keys.expand(batch_size, -1, -1, -1), values.expand(batch_size, -1, -1, -1)

    def _merge_heads(self, attended: Tensor) -> Tensor:
        """``(batch, heads, tokens, head_dim)`` to the output, ``(batch, tokens, dim)``."""
        output: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return output

    def _rotate(self, x: Float[Tensor, "*rest tokens D"], start: int) -> Float[Tensor, "*rest tokens D"]:
        """Rotate pairs of features by the angles of their time points, of which the first has the index `start`."""
        # Computed in each call: a table stored with the weights would be rounded to the type they are cast to.
        dtype = torch.promote_types(x.dtype, torch.float32)
        n_pairs, n_time_points = self.head_dim // 2, x.shape[-2] // self.tokens_per_time_point
        speed = _ROTARY_BASE ** -(torch.arange(n_pairs, device=x.device, dtype=dtype) / n_pairs)
        time_point = torch.arange(start, start + n_time_points, device=x.device, dtype=dtype)
        angles = time_point.repeat_interleave(self.tokens_per_time_point)[:, None] * speed
        cosine, sine = angles.cos(), angles.sin()
        left, right = x.chunk(2, dim=-1)
        return torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1).to(x.dtype)
