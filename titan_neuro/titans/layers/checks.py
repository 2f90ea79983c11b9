"""What every layer and model requires of its tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from titan_neuro.errors import MismatchError


def check_tokens(name: str, x: Tensor, *, dim: int, tokens_per_time_point: int, dtype: torch.dtype) -> None:
    """Require whole time points of tokens of the right width and type.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    x : torch.Tensor
        The tokens; right is ``(batch, tokens, dim)`` with at least one time point.
    dim : int
        Width of a token.
    tokens_per_time_point : int
        Tokens of a time point.
    dtype : torch.dtype
        Type of the weights. Tokens must have it too, except under autocast, which converts them.

    Raises
    ------
    MismatchError
        Another rank, width or type, or a part of a time point.
    """
    if not isinstance(x, Tensor):
        raise MismatchError(f"{name}: expected a torch.Tensor (batch, tokens, {dim}), found {type(x).__name__}.")
    if x.ndim != 3 or x.shape[2] != dim or not x.shape[1] or x.shape[1] % tokens_per_time_point:
        raise MismatchError(
            f"{name}: expected (batch, tokens, {dim}) with whole time points of {tokens_per_time_point} tokens, found "
            f"{tuple(x.shape)}."
        )
    if x.dtype != dtype and not (x.is_floating_point() and torch.is_autocast_enabled(x.device.type)):
        raise MismatchError(
            f"{name}: expected {dtype}, the type of the weights, found {x.dtype}.",
            "Convert the tokens with x.to(...), or the model with model.to(...).",
        )
