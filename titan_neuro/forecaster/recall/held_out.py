"""What was fitted without some of the training runs, for streams that read those runs."""

from __future__ import annotations

from torch import Tensor


def select(fitted: Tensor, without: Tensor, index: Tensor | None) -> Tensor:
    """Take, for each stream, what was fitted on all or what was fitted without one part.

    Parameters
    ----------
    fitted : torch.Tensor
        ``(...)``: from all training runs.
    without : torch.Tensor
        ``(parts, ...)``: from all but those of each part.
    index : torch.Tensor, optional
        int ``(batch,)``: the part that a stream belongs to, or -1.

    Returns
    -------
    torch.Tensor
        ``(batch, ...)``, or ``(1, ...)`` where no part is left out at all.
    """
    if index is None or not len(without):
        return fitted[None]
    picked = without[index.clamp_min(0)]
    picked[index < 0] = fitted
    return picked
