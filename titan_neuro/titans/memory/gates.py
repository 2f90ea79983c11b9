"""The coefficients of a chunk's start and tokens in its weights, which depend on the gates alone (README.md).

Products of consecutive gates are computed by recurrence: logarithms and divisions would fail at gates of 0.
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
    start : torch.Tensor
        ``(chunks, length, 2)``: ``b_t`` and ``m_t``, of the chunk's first weights and momentum in ``W_t``.
    token : torch.Tensor
        ``(chunks, length, length)``: ``c[t, i]``, of the write of token ``i`` in ``W_t``.
    transition : torch.Tensor
        ``(chunks, 2, 2)``: of the first weights and momentum (last axis) in the last weights and momentum.
    write : torch.Tensor
        ``(chunks, length, 2)``: of the write of token ``i`` in the last weights and in the last momentum.
    """

    start: Float[Tensor, "chunks length 2"]
    token: Float[Tensor, "chunks length length"]
    transition: Float[Tensor, "chunks 2 2"]
    write: Float[Tensor, "chunks length 2"]


class GateProducts(NamedTuple):
    """Products of consecutive gates; time is the first axis, so that the recurrence works on contiguous rows.

    Attributes
    ----------
    retention, eta, theta : torch.Tensor
        ``1 - alpha_t``, ``eta_t``, ``theta_t``; ``(length, chunks)``.
    weights : torch.Tensor
        ``b_t``, ``(length, chunks)``.
    in_momentum, in_weights : torch.Tensor
        ``(length, chunks, length)``: ``[t, :, i]`` is the coefficient in ``S_t`` of what token ``i`` adds to the
        momentum (``E`` of the README), and the coefficient in ``W_t`` (``A E``).
    """

    retention: Tensor
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
        saved: list[Tensor] | None = None,
    ) -> GateProducts:
        """Run the recurrences over the tokens, for all chunks at once; `saved` results are used where given."""
        retention, eta, theta = (gate.mT.contiguous() for gate in (1 - alpha, eta, theta))
        if saved is not None:
            return cls(retention, eta, theta, *saved)
        length, n_chunks = retention.shape
        in_momentum = retention.new_zeros(length, n_chunks, length)
        in_momentum.diagonal(dim1=0, dim2=2).fill_(1.0)
        in_weights = in_momentum.clone()
        momentum_rows, weight_rows = in_momentum.unbind(0), in_weights.unbind(0)
        retention_at, eta_at = retention.unsqueeze(-1).unbind(0), eta.unsqueeze(-1).unbind(0)
        for t in range(1, length):
            momentum_rows[t].addcmul_(eta_at[t], momentum_rows[t - 1])
            torch.addcmul(momentum_rows[t], retention_at[t], weight_rows[t - 1], out=weight_rows[t])
        return cls(retention, eta, theta, retention.cumprod(0), in_momentum, in_weights)

    def saved_for_backward(self) -> list[Tensor]:
        """Return what `of` accepts as `saved`."""
        return [self.weights, self.in_momentum, self.in_weights]

    def coefficients(self) -> Coefficients:
        """Return the coefficients for reading and writing."""
        theta = self.theta.mT
        token = (self.in_weights.transpose(0, 1) * theta.unsqueeze(1)).contiguous()
        # After the first gate the first momentum acts like the write of the first token with a step of 1.
        start = torch.stack([self.weights.mT, (self.eta[0] * self.in_weights[:, :, 0]).mT], dim=-1)
        transition = start.new_zeros(len(start), 2, 2)
        transition[:, 0] = start[:, -1]
        torch.mul(self.eta[0], self.in_momentum[-1, :, 0], out=transition[:, 1, 1])
        write = torch.stack([token[:, -1], self.in_momentum[-1] * theta], dim=-1)
        return Coefficients(start, token, transition, write)

    def backward(self, gradient: Coefficients) -> tuple[Tensor, Tensor, Tensor]:
        """Return gradients by `alpha`, `eta` and `theta`, ``(chunks, length)`` each, from those by the coefficients."""
        d_weights, d_momentum = (part.mT.clone() for part in gradient.start.unbind(-1))
        d_weights[-1] += gradient.transition[:, 0, 0]
        d_momentum[-1] += gradient.transition[:, 0, 1]
        d_carry = gradient.transition[:, 1, 1]
        d_last, d_last_momentum = gradient.write.unbind(-1)
        d_token = gradient.token.transpose(0, 1)
        d_theta = (d_token * self.in_weights).sum(0)
        d_theta += d_last * self.in_weights[-1] + d_last_momentum * self.in_momentum[-1]
        # Rows of the recurrences, from the last to the first.
        d_rows = (d_token * self.theta.mT).contiguous()
        d_rows[-1] += d_last * self.theta.mT
        d_rows[:, :, 0] += d_momentum * self.eta[0]
        d_momentum_rows = torch.empty_like(d_rows)
        torch.addcmul(d_rows[-1], d_last_momentum, self.theta.mT, out=d_momentum_rows[-1])
        d_momentum_rows[-1, :, 0] += d_carry * self.eta[0]
        rows, momentum_rows, d_weight_rows = d_rows.unbind(0), d_momentum_rows.unbind(0), d_weights.unbind(0)
        retention_at, eta_at = self.retention.unbind(0), self.eta.unsqueeze(-1).unbind(0)
        for t in range(len(rows) - 2, -1, -1):
            rows[t].addcmul_(retention_at[t + 1].unsqueeze(-1), rows[t + 1])
            torch.addcmul(rows[t], eta_at[t + 1], momentum_rows[t + 1], out=momentum_rows[t])
            d_weight_rows[t].addcmul_(retention_at[t + 1], d_weight_rows[t + 1])
        d_alpha, d_eta = -d_weights, torch.empty_like(self.eta)
        d_alpha[1:] *= self.weights[:-1]
        d_alpha[1:] -= (d_rows[1:] * self.in_weights[:-1]).sum(-1)
        d_eta[0] = (d_momentum * self.in_weights[:, :, 0]).sum(0)
        d_eta[0] += d_carry * self.in_momentum[-1, :, 0]
        d_eta[1:] = (d_momentum_rows[1:] * self.in_momentum[:-1]).sum(-1)
        return d_alpha.mT, d_eta.mT, d_theta
