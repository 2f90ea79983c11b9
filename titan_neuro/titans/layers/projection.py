"""Queries, keys and values of the memory: a linear map, and a convolution over the last time points."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class CausalProjection(nn.Module):
    """A linear map, a causal depthwise convolution over time points, SiLU (Behrouz et al. 2025, section 4.4).

    The convolution runs over time: it mixes each token with the tokens at the same index of the preceding time points,
    not with its neighbors in the flattened order.

    Parameters
    ----------
    dim, out_dim : int
        Width of a token before and after.
    kernel_time_points : int
        Time points that the convolution sees, including its own; 1 or more.
    tokens_per_time_point : int
        Tokens of a time point.
    """

    def __init__(self, dim: int, out_dim: int, *, kernel_time_points: int, tokens_per_time_point: int) -> None:
        super().__init__()
        self.tokens_per_time_point = tokens_per_time_point
        self.linear = nn.Linear(dim, out_dim, bias=False)
        bound = kernel_time_points**-0.5
        self.kernel = nn.Parameter(torch.empty(kernel_time_points, out_dim).uniform_(-bound, bound))

    def init_state(self, batch_size: int) -> Float[Tensor, "B K P E"]:
        """State before the first time point: zeros, ``(batch, kernel_time_points - 1, tokens_per_time_point,
        out_dim)``.
        """
        n_time_points, out_dim = self.kernel.shape
        return self.kernel.new_zeros(batch_size, n_time_points - 1, self.tokens_per_time_point, out_dim)

    def forward(
        self, x: Float[Tensor, "B T D"], tail: Float[Tensor, "B K P E"]
    ) -> tuple[Float[Tensor, "B T E"], Float[Tensor, "B K P E"]]:
        """Project whole time points.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``; the tokens of a time point are adjacent.
        tail : torch.Tensor
            The mapped tokens of the last time points, ``(batch, kernel_time_points - 1, tokens_per_time_point,
            out_dim)``: from the previous call, or `init_state`.

        Returns
        -------
        projected : torch.Tensor
            ``(batch, tokens, out_dim)``.
        tail : torch.Tensor
            For the next call.
        """
        mapped: Tensor = self.linear(x)
        n_time_points = mapped.shape[1] // self.tokens_per_time_point
        time_points = torch.cat([tail, mapped.view(len(x), n_time_points, *tail.shape[2:])], dim=1)
        mixed = torch.zeros_like(time_points[:, :n_time_points])
        for lag, weight in enumerate(self.kernel):
            mixed = mixed + time_points[:, lag : lag + n_time_points] * weight
        # A copy, so that a state does not keep all time points of a call alive.
        return F.silu(mixed).flatten(1, 2), time_points[:, n_time_points:].clone()
