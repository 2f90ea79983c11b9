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
    values : torch.Tensor
        float32, ``(positions, values)``: what is read at a stimulus position.
    stimulus : torch.Tensor
        int64, ``(positions,)``: number of the stimulus, -1 in the gaps.
    stimuli : tuple of str
        Names of the stimuli, by number.
    """

    keys: Tensor
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
    return StimulusBank(keys, values, number, tuple(stimulus.stimulus for stimulus in stimuli))


def match_windows(queries: Tensor, is_recorded: Tensor, keys: Tensor, window: int) -> Tensor:
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
    keys : torch.Tensor
        ``(positions, components)``.
    window : int
        Length of the windows, in time points.

    Returns
    -------
    torch.Tensor
        ``(time, positions)``, between -1 and 1.
    """
    power = keys.square().sum(1)
    products = _sum_windows(queries @ keys.T, window)[window - 1 :]
    key_power = _sum_windows(is_recorded[:, None] * power, window)[window - 1 :]
    query_power = _sum_windows(queries.square().sum(1, keepdim=True), window)[window - 1 :]
    n_recorded = _sum_windows(is_recorded[:, None], window)[window - 1 :]
    norms = (query_power.sqrt() * key_power.sqrt()).clamp(min=torch.finfo(products.dtype).tiny)
    return (n_recorded / FULL_MATCH_TIME_POINTS).clamp(max=1) * products / norms


def _sum_windows(table: Tensor, window: int) -> Tensor:
    """Sum `window` entries along each diagonal (along the column, where there is only one), by doubling.

    Entry ``[t, j]`` is the sum of ``table[t - w, j - w]`` over ``0 <= w < window``. Rows before the ``window``-th are
    incomplete.
    """
    one_column = table.shape[1] == 1
    total, covered, power, size = torch.zeros_like(table), 0, table, 1
    while True:
        if window & size:
            total = total + _shift(power, covered, one_column)
            covered += size
        if covered == window:
            return total
        power = power + _shift(power, size, one_column)
        size *= 2


def _shift(table: Tensor, steps: int, one_column: bool) -> Tensor:
    n_rows, n_columns = table.shape
    if one_column:
        return pad(table, (0, 0, steps, 0))[:n_rows]
    return pad(table, (steps, 0, steps, 0))[:n_rows, :n_columns]
