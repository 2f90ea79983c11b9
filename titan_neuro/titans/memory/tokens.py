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


def cut_at_chunks(n_tokens: int, position: int, chunk_size: int) -> list[tuple[int, int]]:
    """Cut a call into (number of chunks, their length): the rest of the open chunk, whole chunks, a last part.

    Parameters
    ----------
    n_tokens, position, chunk_size : int
        Tokens of the call, of the open chunk (0: none is open), and of a chunk.
    """
    head = min(n_tokens, chunk_size - position) if position else 0
    n_whole, rest = divmod(n_tokens - head, chunk_size)
    return [piece for piece in ((1, head), (n_whole, chunk_size), (1, rest)) if all(piece)]
