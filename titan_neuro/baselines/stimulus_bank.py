"""How well the last time points of a run match every window of the training subjects' stimuli."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from titan_neuro.linear.stimulus_average import StimulusAverage

# A match counts in full from so many time points of history on.
FULL_MATCH_TIME_POINTS = 20


@dataclass(frozen=True, eq=False)
class StimulusBank:
    """Stimuli one after another, with gaps between them so that no window covers two.

    Attributes
    ----------
    keys : torch.Tensor
        float32, ``(positions, components)``: what is matched; zeros in the gaps.
    key_norms : torch.Tensor
        float32, ``(window, positions)``: norm of the last ``n + 1`` keys up to each position, in row ``n``. It is what
        every run is divided by, and takes as long as the matches themselves.
    values : torch.Tensor
        float32, ``(positions, values)``: what is read at a stimulus position.
    stimulus : torch.Tensor
        int64, ``(positions,)``: number of the stimulus, -1 in the gaps.
    stimuli : tuple of str
        Names of the stimuli, by number.
    """

    keys: Tensor
    key_norms: Tensor
    values: Tensor
    stimulus: Tensor
    stimuli: tuple[str, ...]


def concatenate(stimuli: Sequence[StimulusAverage], scale: Tensor, window: int) -> StimulusBank:
    """Concatenate stimuli.

    Parameters
    ----------
    stimuli : sequence of StimulusAverage
        Their features are first the keys, then the values.
    scale : torch.Tensor
        Factor of each key, ``(components,)``.
    window : int
        Longest window that will be matched, in time points; the gaps are one time point shorter.

    Returns
    -------
    StimulusBank
        The stimuli in the order given, each with a gap before it.
    """
    series = torch.cat([pad(stimulus.series, (0, 0, window - 1, 0)) for stimulus in stimuli])
    number = torch.cat(
        [pad(torch.full((len(stimulus.series),), i), (window - 1, 0), value=-1) for i, stimulus in enumerate(stimuli)]
    )
    keys, values = series[:, : len(scale)] * scale, series[:, len(scale) :].contiguous()
    is_recorded = pad(torch.ones(window), (window - 1, 0))
    key_norms = _sum_windows(is_recorded[:, None] * keys.square().sum(1), window).sqrt()
    return StimulusBank(keys, key_norms, values, number, tuple(stimulus.stimulus for stimulus in stimuli))


def match_windows(queries: Tensor, is_recorded: Tensor, bank: StimulusBank) -> Tensor:
    """Compare the window that ends at each time point with the window that ends at each stimulus position.

    The match is the cosine between the two windows, over the time points that the run has had so far. With fewer than
    `FULL_MATCH_TIME_POINTS` of them it is scaled down in proportion, since short windows match by chance. The beginning
    of a stimulus gets no advantage at the beginning of a run: that would reveal the time since the run began.

    Parameters
    ----------
    queries : torch.Tensor
        ``(window - 1 + time, components)``: the time points, preceded by earlier ones; zeros before the run.
    is_recorded : torch.Tensor
        ``(window - 1 + time,)``: 1, or 0 before the run.
    bank : StimulusBank
        Its window is matched.

    Returns
    -------
    torch.Tensor
        ``(time, positions)``, between -1 and 1.
    """
    window = len(bank.key_norms)
    products = _sum_windows(queries @ bank.keys.T, window)
    query_power = _sum_windows(queries.square().sum(1, keepdim=True), window)
    n_recorded = _sum_windows(is_recorded[:, None], window)
    # In a run that has lasted for a window, all rows are the same.
    rows = slice(-1, None) if bool(n_recorded[0] == window) else n_recorded[:, 0].long() - 1
    norms = (query_power.sqrt() * bank.key_norms[rows]).clamp_(min=torch.finfo(products.dtype).tiny)
    return products.mul_((n_recorded / FULL_MATCH_TIME_POINTS).clamp(max=1)).div_(norms)


def _sum_windows(table: Tensor, window: int) -> Tensor:
    """Sum `window` entries along each diagonal (along the column, where there is only one), by doubling.

    Row ``i`` of the result is the row ``t = i + window - 1`` of the table: its entry ``j`` is the sum of
    ``table[t - w, j - w]`` over ``0 <= w < window``. Earlier rows are incomplete and left out.
    """
    is_diagonal = table.shape[1] > 1
    total = table.new_zeros(len(table) - window + 1, table.shape[1])
    # Row i of `power` is the row i + size - 1 of the table, with the sums of `size` entries.
    covered, power, size = 0, table, 1
    while True:
        if window & size:
            _add_shifted(total, power[window - covered - size :], covered * is_diagonal)
            covered += size
        if covered == window:
            return total
        doubled = power[size:].clone()
        _add_shifted(doubled, power, size * is_diagonal)
        power, size = doubled, 2 * size


def _add_shifted(target: Tensor, table: Tensor, steps: int) -> None:
    """Add the first rows of `table` to `target`, in place, each entry `steps` columns to the right."""
    target[:, steps:] += table[: len(target), : max(target.shape[1] - steps, 0)]
