"""Queries, keys and values of the memory: a linear map that also sees the last frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class CausalProjection(nn.Module):
    """A linear map, a causal depthwise convolution over frames, SiLU (Behrouz et al. 2025, section 4.4).

    The convolution runs over time: each token of a frame is mixed with the tokens at its own place in the frames
    before, not with its neighbours in the flattened order.

    Parameters
    ----------
    dim, out_dim : int
        Width of a token before and after.
    kernel_frames : int
        Frames that the convolution sees, its own included; 1 or more.
    tokens_per_frame : int
        Tokens of a frame.
    """

    def __init__(self, dim: int, out_dim: int, *, kernel_frames: int, tokens_per_frame: int) -> None:
        super().__init__()
        self.tokens_per_frame = tokens_per_frame
        self.linear = nn.Linear(dim, out_dim, bias=False)
        bound = kernel_frames**-0.5
        self.kernel = nn.Parameter(torch.empty(kernel_frames, out_dim).uniform_(-bound, bound))

    def init_tail(self, batch_size: int) -> Float[Tensor, "B K P E"]:
        """Zeros, as seen before the first frame: ``(batch, kernel_frames - 1, tokens_per_frame, out_dim)``."""
        n_frames, out_dim = self.kernel.shape
        return self.kernel.new_zeros(batch_size, n_frames - 1, self.tokens_per_frame, out_dim)

    def forward(
        self, x: Float[Tensor, "B T D"], tail: Float[Tensor, "B K P E"]
    ) -> tuple[Float[Tensor, "B T E"], Float[Tensor, "B K P E"]]:
        """Project whole frames.

        Parameters
        ----------
        x : torch.Tensor
            ``(batch, tokens, dim)``, tokens of a frame side by side.
        tail : torch.Tensor
            What the call before returned, or :meth:`init_tail`.

        Returns
        -------
        projected : torch.Tensor
            ``(batch, tokens, out_dim)``.
        tail : torch.Tensor
            The last frames, for the next call.
        """
        mapped: Tensor = self.linear(x)
        n_frames = mapped.shape[1] // self.tokens_per_frame
        frames = torch.cat([tail, mapped.view(len(x), n_frames, *tail.shape[2:])], dim=1)
        mixed = torch.zeros_like(frames[:, :n_frames])
        for lag, weight in enumerate(self.kernel):
            mixed = mixed + frames[:, lag : lag + n_frames] * weight
        # A copy, so that a state does not keep all frames of a call alive.
        return F.silu(mixed).flatten(1, 2), frames[:, n_frames:].clone()
