"""Checks of what users pass to a forecaster: rank, number of features, dtype; one clear error for each."""

from __future__ import annotations

import torch
from torch import Tensor

from titan_neuro.errors import MismatchError

_RUNS_HINT = "One run has a batch of one: series[None]."
_RUN_HINT = "Pass one run; `forward` reads a batch of runs."


def require_series(
    series: Tensor, n_features: int, *, caller: str, is_batch: bool = True, dtype: torch.dtype | None = None
) -> None:
    """Raise unless `series` are time points that a model of `n_features` features can read.

    Parameters
    ----------
    series : torch.Tensor
        Expected: ``(batch, time, features)``, or ``(time, features)`` where not `is_batch`.
    n_features : int
        Voxels inside the mask, or parcels.
    caller : str
        Class and method, for the message.
    is_batch : bool
        Whether the first dimension is the batch.
    dtype : torch.dtype, optional
        Of the model's weights: float64 series need float64 weights. Lower precisions pass, for mixed precision.

    Raises
    ------
    MismatchError
        Another rank, number of features or dtype.
    """
    shape = f"({'batch, ' if is_batch else ''}time, {n_features})"
    if series.ndim != (3 if is_batch else 2) or series.shape[-1] != n_features:
        hint = _RUNS_HINT if is_batch else _RUN_HINT
        if series.shape[-1:] != (n_features,):
            hint = f"The last dimension is that of the features: {n_features} voxels inside the mask, or parcels."
        raise MismatchError(f"{caller}: expected time points {shape}, found {tuple(series.shape)}.", hint)
    too_wide = series.dtype == torch.float64 and dtype not in (None, torch.float64)
    if not series.is_floating_point() or too_wide:
        raise MismatchError(
            f"{caller}: expected {dtype or 'floating-point'} time points {shape}, found {series.dtype}.",
            f"Convert them, for example by series.to({dtype or torch.float32}).",
        )


def require_tokens(tokens: Tensor, n_tokens: int, dim: int, *, caller: str) -> None:
    """Raise unless `tokens` are floating-point ``(batch, time, n_tokens, dim)``.

    Raises
    ------
    MismatchError
        Another rank, number of tokens, width or dtype.
    """
    expected = f"(batch, time, {n_tokens}, {dim})"
    if tokens.ndim != 4 or tokens.shape[2:] != (n_tokens, dim):
        raise MismatchError(
            f"{caller}: expected tokens {expected}, found {tuple(tokens.shape)}.",
            "Pass the output of the tokenizer or backbone, one row of tokens for each time point.",
        )
    if not tokens.is_floating_point():
        raise MismatchError(f"{caller}: expected floating-point tokens {expected}, found {tokens.dtype}.")
