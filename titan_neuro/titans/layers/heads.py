"""What every attention over time points has: heads, persistent tokens, and places told by distance in time points."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from titan_neuro.errors import ConfigError, MismatchError

# Slowest rotation: a turn in about 600 time points, more than any segment or window holds.
_ROTARY_BASE = 100.0


class AttentionHeads(nn.Module):
    """Base of the attentions: the projections, the persistent tokens and the rotation of queries and keys.

    Places are relative: rotary angles by the distance in time points (Su et al. 2021, arXiv:2104.09864).

    Parameters
    ----------
    dim : int
        Width of a token.
    n_heads : int
        Heads; ``dim / n_heads`` is a whole, even number.
    n_persistent : int
        Learned tokens that are always visible (equation 19 of arXiv:2501.00663); 0 or more.
    tokens_per_time_point : int
        Tokens of a time point.

    Raises
    ------
    ConfigError
        A width that can't be shared out to the heads.
    """

    def __init__(self, dim: int, *, n_heads: int, n_persistent: int, tokens_per_time_point: int) -> None:
        super().__init__()
        if dim % (2 * n_heads):
            raise ConfigError(f"n_heads: each head needs an even share of dim; found dim {dim} for {n_heads} heads.")
        self.n_heads, self.head_dim, self.tokens_per_time_point = n_heads, dim // n_heads, tokens_per_time_point
        self.persistent = nn.Parameter(torch.randn(n_persistent, dim))
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def _check(self, x: Tensor) -> None:
        dim = self.persistent.shape[1]
        if x.shape[-1] != dim or not x.shape[1] or x.shape[1] % self.tokens_per_time_point:
            raise MismatchError(
                f"x: expected (batch, tokens, {dim}) with whole time points of {self.tokens_per_time_point} tokens, "
                f"found {tuple(x.shape)}."
            )

    def _heads(self, x: Tensor) -> Tensor:
        """``(batch, ..., tokens, dim)`` to ``(batch, heads, ..., tokens, head_dim)``."""
        return x.reshape(*x.shape[:-1], self.n_heads, self.head_dim).movedim(-2, 1)

    def _keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.key_value(x).chunk(2, dim=-1)
        return self._heads(keys), self._heads(values)

    def _rotate(self, x: Float[Tensor, "*rest tokens D"], start: int) -> Float[Tensor, "*rest tokens D"]:
        """Turn pairs of numbers by the angles of their time points, the first of which is time point `start`."""
        # Made anew in each call: a table kept with the weights would be rounded to the type that they are cast to.
        dtype = torch.promote_types(x.dtype, torch.float32)
        n_pairs, n_time_points = self.head_dim // 2, x.shape[-2] // self.tokens_per_time_point
        speed = _ROTARY_BASE ** -(torch.arange(n_pairs, device=x.device, dtype=dtype) / n_pairs)
        time_point = torch.arange(start, start + n_time_points, device=x.device, dtype=dtype)
        angles = time_point.repeat_interleave(self.tokens_per_time_point)[:, None] * speed
        cosine, sine = angles.cos(), angles.sin()
        left, right = x.chunk(2, dim=-1)
        return torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1).to(x.dtype)
