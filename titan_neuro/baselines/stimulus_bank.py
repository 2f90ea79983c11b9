"""How alike the last time points of a run are to every stretch of the training subjects' stimuli."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from titan_neuro.linear.stimulus_average import StimulusAverage

# Time points of history from which on a match counts in full.
SURE_TIME_POINTS = 20


@dataclass(frozen=True, eq=False)
class StimulusBank:
    """StimulusAverages side by side, with gaps between them that no window sees across.

    Attributes
    ----------
    keys : torch.Tensor
        float32, ``(statistics, components)``: what is matched; zeros in the gaps.
    values : torch.Tensor
        float32, ``(statistics, values)``: what is read off at a moment.
    stimulus : torch.Tensor
        int64, ``(statistics,)``: number of the stimulus, -1 in the gaps.
    stimuli : tuple of str
        The stimuli' names, by number.
    """

    keys: Tensor
    values: Tensor
    stimulus: Tensor
    stimuli: tuple[str, ...]


def concatenate(stimuli: Sequence[StimulusAverage], scale: Tensor, window: int) -> StimulusBank:
    """Put stimuli side by side.

    Parameters
    ----------
    stimuli : sequence of StimulusAverage
        Their time points hold the keys, then the values.
    scale : torch.Tensor
        Factor of each key, ``(components,)``.
    window : int
        Longest stretch to be compared; the gaps are one time point shorter.

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
    return StimulusBank(keys, values, number, tuple(stimulus.stimulus for stimulus in stimuli))


def match(queries: Tensor, seen: Tensor, keys: Tensor, window: int) -> Tensor:
    """Compare the window that ends at each time point with the window that ends at each moment.

    The cosine between the two windows, over the time points that the run has had so far. Where these are fewer than
    `SURE_TIME_POINTS` it counts for less, since few time points are alike by chance. A stimulus's beginning gets no
    bonus for being as short of a past as a run that begins: that would betray the time since the run began.

    Parameters
    ----------
    queries : torch.Tensor
        ``(window - 1 + time, components)``: the time points, led by those before them; zeros where the run had not
        begun.
    seen : torch.Tensor
        ``(window - 1 + time,)``: 1, or 0 where the run had not begun.
    keys : torch.Tensor
        ``(statistics, components)``.
    window : int
        Time points that are compared.

    Returns
    -------
    torch.Tensor
        ``(time, statistics)``, between -1 and 1.
    """
    size = keys.square().sum(1)
    products = _sum_windows(queries @ keys.T, window)[window - 1 :]
    key_size = _sum_windows(seen[:, None] * size, window)[window - 1 :]
    query_size = _sum_windows(queries.square().sum(1, keepdim=True), window)[window - 1 :]
    n_seen = _sum_windows(seen[:, None], window)[window - 1 :]
    tiny = torch.finfo(products.dtype).tiny
    return (n_seen / SURE_TIME_POINTS).clamp(max=1) * products / (query_size.sqrt() * key_size.sqrt()).clamp(min=tiny)


def _sum_windows(table: Tensor, window: int) -> Tensor:
    """Sum `window` entries up along each diagonal (along the column, where there is only one), by doubling.

    Entry ``[t, j]`` is the sum of ``table[t - w, j - w]`` over ``0 <= w < window``. Rows before the ``window``-th are
    incomplete.
    """
    one_column = table.shape[1] == 1
    total, covered, power, size = torch.zeros_like(table), 0, table, 1
    while True:
        if window & size:
            total = total + _move(power, covered, one_column)
            covered += size
        if covered == window:
            return total
        power = power + _move(power, size, one_column)
        size *= 2


def _move(table: Tensor, steps: int, one_column: bool) -> Tensor:
    n_rows, n_columns = table.shape
    if one_column:
        return pad(table, (0, 0, steps, 0))[:n_rows]
    return pad(table, (steps, 0, steps, 0))[:n_rows, :n_columns]
