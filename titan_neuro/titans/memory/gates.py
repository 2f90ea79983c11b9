"""What the gates of a chunk make of its start and of its tokens: coefficients that the memory's content has no part in.

README.md, "What depends on what". Products of consecutive gates are built by recurrence: no logs, which a gate of 0 has
not, and no division, which its derivative can't bear.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Coefficients(NamedTuple):
    """Coefficients of a batch of equally long chunks.

    Attributes
    ----------
    shares : torch.Tensor
        ``(chunks, length, 2)``: ``b_t`` and ``m_t``, the shares of the chunk's first weights and momentum in ``W_t``.
    token : torch.Tensor
        ``c[t, i]``, ``(chunks, length, length)``: share of what token ``i`` writes in ``W_t``.
    transition : torch.Tensor
        ``(chunks, 2, 2)``: shares of the first weights and momentum (last axis) in the last ones.
    write : torch.Tensor
        ``(chunks, length, 2)``: share of what token ``i`` writes in the last weights and in the last momentum.
    """

    shares: Float[Tensor, "chunks length 2"]
    token: Float[Tensor, "chunks length length"]
    transition: Float[Tensor, "chunks 2 2"]
    write: Float[Tensor, "chunks length 2"]


class GateProducts(NamedTuple):
    """Products of consecutive gates; time comes first, so that a step of the recurrence works on contiguous rows.

    Attributes
    ----------
    keep, eta, theta : torch.Tensor
        ``1 - alpha_t``, ``eta_t``, ``theta_t``; ``(length, chunks)``.
    weights : torch.Tensor
        ``b_t``, ``(length, chunks)``.
    in_momentum, in_weights : torch.Tensor
        ``(length, chunks, length)``: ``[t, :, i]`` is what is left in ``S_t`` of 1 that entered the momentum at token
        ``i`` (``E`` of the README), and what it has added to ``W_t`` by then (``A E``).
    """

    keep: Tensor
    eta: Tensor
    theta: Tensor
    weights: Tensor
    in_momentum: Tensor
    in_weights: Tensor

    @classmethod
    def of(
        cls,
        alpha: Float[Tensor, "chunks length"],
        eta: Float[Tensor, "chunks length"],
        theta: Float[Tensor, "chunks length"],
        kept: list[Tensor] | None = None,
    ) -> GateProducts:
        """Run the recurrences over the tokens, for all chunks at once, unless their results were kept."""
        keep, eta, theta = (gate.mT.contiguous() for gate in (1 - alpha, eta, theta))
        if kept is not None:
            return cls(keep, eta, theta, *kept)
        length, n_chunks = keep.shape
        in_momentum = keep.new_zeros(length, n_chunks, length)
        in_momentum.diagonal(dim1=0, dim2=2).fill_(1.0)
        in_weights = in_momentum.clone()
        momentum_rows, weight_rows = in_momentum.unbind(0), in_weights.unbind(0)
        keep_at, eta_at = keep.unsqueeze(-1).unbind(0), eta.unsqueeze(-1).unbind(0)
        for t in range(1, length):
            momentum_rows[t].addcmul_(eta_at[t], momentum_rows[t - 1])
            torch.addcmul(momentum_rows[t], keep_at[t], weight_rows[t - 1], out=weight_rows[t])
        return cls(keep, eta, theta, keep.cumprod(0), in_momentum, in_weights)

    def kept_for_backward(self) -> list[Tensor]:
        """What a second call of `of` needs not compute again."""
        return [self.weights, self.in_momentum, self.in_weights]

    def coefficients(self) -> Coefficients:
        """The coefficients that reading and writing need."""
        theta = self.theta.mT
        token = (self.in_weights.transpose(0, 1) * theta.unsqueeze(1)).contiguous()
        # The first momentum passes the first gate and is then what a first token's step of 1 would be.
        shares = torch.stack([self.weights.mT, (self.eta[0] * self.in_weights[:, :, 0]).mT], dim=-1)
        transition = shares.new_zeros(len(shares), 2, 2)
        transition[:, 0] = shares[:, -1]
        torch.mul(self.eta[0], self.in_momentum[-1, :, 0], out=transition[:, 1, 1])
        write = torch.stack([token[:, -1], self.in_momentum[-1] * theta], dim=-1)
        return Coefficients(shares, token, transition, write)

    def backward(self, gradient: Coefficients) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients by `alpha`, `eta` and `theta`, ``(chunks, length)`` each, from those by the coefficients."""
        by_weights, by_momentum = (part.mT.clone() for part in gradient.shares.unbind(-1))
        by_weights[-1] += gradient.transition[:, 0, 0]
        by_momentum[-1] += gradient.transition[:, 0, 1]
        by_carried = gradient.transition[:, 1, 1]
        by_last, by_last_momentum = gradient.write.unbind(-1)
        by_token = gradient.token.transpose(0, 1)
        by_theta = (by_token * self.in_weights).sum(0)
        by_theta += by_last * self.in_weights[-1] + by_last_momentum * self.in_momentum[-1]
        # Rows of the recurrences, from the last to the first.
        by_rows = (by_token * self.theta.mT).contiguous()
        by_rows[-1] += by_last * self.theta.mT
        by_rows[:, :, 0] += by_momentum * self.eta[0]
        by_momentum_rows = torch.empty_like(by_rows)
        torch.addcmul(by_rows[-1], by_last_momentum, self.theta.mT, out=by_momentum_rows[-1])
        by_momentum_rows[-1, :, 0] += by_carried * self.eta[0]
        rows, momentum_rows, starts = by_rows.unbind(0), by_momentum_rows.unbind(0), by_weights.unbind(0)
        keep_at, eta_at = self.keep.unbind(0), self.eta.unsqueeze(-1).unbind(0)
        for t in range(len(rows) - 2, -1, -1):
            rows[t].addcmul_(keep_at[t + 1].unsqueeze(-1), rows[t + 1])
            torch.addcmul(rows[t], eta_at[t + 1], momentum_rows[t + 1], out=momentum_rows[t])
            starts[t].addcmul_(keep_at[t + 1], starts[t + 1])
        by_alpha, by_eta = -by_weights, torch.empty_like(self.eta)
        by_alpha[1:] *= self.weights[:-1]
        by_alpha[1:] -= (by_rows[1:] * self.in_weights[:-1]).sum(-1)
        by_eta[0] = (by_momentum * self.in_weights[:, :, 0]).sum(0)
        by_eta[0] += by_carried * self.in_momentum[-1, :, 0]
        by_eta[1:] = (by_momentum_rows[1:] * self.in_momentum[:-1]).sum(-1)
        return by_alpha.mT, by_eta.mT, by_theta
