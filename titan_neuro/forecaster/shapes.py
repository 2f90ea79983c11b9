"""Checks of what users pass to a forecaster: rank, number of features, dtype; one clear error for each."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from titan_neuro.errors import ConfigError, MismatchError

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
        Of the model's weights, which the series must have. Under ``torch.autocast`` all but float64 pass.

    Raises
    ------
    MismatchError
        Another rank, number of features or dtype; no time point.
    """
    shape = f"({'batch, ' if is_batch else ''}time, {n_features})"
    if series.ndim != (3 if is_batch else 2) or series.shape[-1] != n_features:
        hint = _RUNS_HINT if is_batch else _RUN_HINT
        if series.shape[-1:] != (n_features,):
            hint = f"The last dimension is that of the features: {n_features} voxels inside the mask, or parcels."
        raise MismatchError(f"{caller}: expected time points {shape}, found {tuple(series.shape)}.", hint)
    if not series.numel():
        raise MismatchError(f"{caller}: expected at least one time point {shape}, found {tuple(series.shape)}.")
    is_cast = series.dtype != torch.float64 and torch.is_autocast_enabled(series.device.type)
    if not series.is_floating_point() or not (dtype in (None, series.dtype) or is_cast):
        raise MismatchError(
            f"{caller}: expected {dtype or 'floating-point'} time points {shape}, found {series.dtype}.",
            f"Convert them, for example by series.to({dtype or torch.float32}).",
        )


def as_tensor(series: Tensor | np.ndarray, like: Tensor, *, caller: str) -> Tensor:
    """Copy a floating-point numpy array to a tensor of the type and device of `like`; return a tensor as it is.

    Raises
    ------
    MismatchError
        Something else.
    """
    if isinstance(series, Tensor):
        return series
    if not isinstance(series, np.ndarray) or series.dtype.kind != "f":
        found = f"an array of {series.dtype}" if isinstance(series, np.ndarray) else type(series).__name__
        raise MismatchError(
            f"{caller}: expected time points as a floating-point tensor or numpy array, found {found}.",
            "Convert them, for example by numpy.asarray(series, dtype='float32').",
        )
    return torch.from_numpy(np.array(series, dtype=np.float64 if like.dtype == torch.float64 else np.float32)).to(like)


def require_size(name: str, size: int) -> None:
    """Raise unless `size`, the value of `name`, is a whole number of at least 1.

    Raises
    ------
    ConfigError
        It isn't.
    """
    if not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 1:
        raise ConfigError(f"{name}: expected a whole number of at least 1, found {size!r}.")


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
