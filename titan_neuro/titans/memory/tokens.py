"""The six input streams of the memory as one value that can be cut in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Tokens(NamedTuple):
    """Queries, keys and values ``(..., tokens, dim)`` and gates ``(..., tokens)``, in the state's type."""

    queries: Float[Tensor, "*groups tokens key_dim"]
    keys: Float[Tensor, "*groups tokens key_dim"]
    values: Float[Tensor, "*groups tokens value_dim"]
    alpha: Float[Tensor, "*groups tokens"]
    eta: Float[Tensor, "*groups tokens"]
    theta: Float[Tensor, "*groups tokens"]

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return self.alpha.shape[-1]

    def slice(self, tokens: slice) -> Tokens:
        """Return a slice of the streams in time; each is ``(batch, heads, tokens, ...)``."""
        return Tokens(*(tensor[:, :, tokens] for tensor in self))

    def split(self, lengths: Sequence[int]) -> list[Tokens]:
        """Cut the streams into pieces of the given numbers of tokens."""
        vectors = [torch.split(tensor, list(lengths), dim=-2) for tensor in self[:3]]
        gates = [torch.split(tensor, list(lengths), dim=-1) for tensor in self[3:]]
        return [Tokens(*piece) for piece in zip(*vectors, *gates, strict=True)]
