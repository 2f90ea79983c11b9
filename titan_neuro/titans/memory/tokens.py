"""The six streams that the memory reads, as one value that can be cut in time."""

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
        """Length of the streams."""
        return self.alpha.shape[-1]

    def at(self, place: slice) -> Tokens:
        """A stretch of the streams, ``(batch, heads, tokens, ...)`` each."""
        return Tokens(*(tensor[:, :, place] for tensor in self))

    def split(self, lengths: Sequence[int]) -> list[Tokens]:
        """The streams cut into pieces of the given lengths."""
        vectors = [torch.split(tensor, list(lengths), dim=-2) for tensor in self[:3]]
        gates = [torch.split(tensor, list(lengths), dim=-1) for tensor in self[3:]]
        return [Tokens(*piece) for piece in zip(*vectors, *gates, strict=True)]
