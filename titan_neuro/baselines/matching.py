"""How alike the last frames of a run are to every stretch of the training subjects' films."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from titan_neuro.ops.films import Film

SURE_FRAMES = 20


@dataclass(frozen=True, eq=False)
class FilmLibrary:
    """Films side by side, with gaps between them that no window sees across.

    Attributes
    ----------
    keys : torch.Tensor
        float32, ``(moments, components)``: what is matched; zeros in the gaps.
    values : torch.Tensor
        float32, ``(moments, values)``: what is read off at a moment.
    film : torch.Tensor
        int64, ``(moments,)``: number of the film, -1 in the gaps.
    stimuli : tuple of str
        The films' names, by number.
    """

    keys: Tensor
    values: Tensor
    film: Tensor
    stimuli: tuple[str, ...]


def shelve(films: Sequence[Film], scale: Tensor, window: int) -> FilmLibrary:
    """Put films side by side.

    Parameters
    ----------
    films : sequence of Film
        Their frames hold the keys, then the values.
    scale : torch.Tensor
        Factor of each key, ``(components,)``.
    window : int
        Longest stretch to be compared; the gaps are one frame shorter.
    """
    frames = torch.cat([pad(film.frames, (0, 0, window - 1, 0)) for film in films])
    number = torch.cat(
        [pad(torch.full((len(film.frames),), i), (window - 1, 0), value=-1) for i, film in enumerate(films)]
    )
    keys, values = frames[:, : len(scale)] * scale, frames[:, len(scale) :].contiguous()
    return FilmLibrary(keys, values, number, tuple(film.stimulus for film in films))


def match(queries: Tensor, seen: Tensor, keys: Tensor, window: int) -> Tensor:
    """Compare the window that ends at each frame with the window that ends at each moment.

    The cosine between the two windows, over the frames that the run has had so far. Where these are fewer than
    `SURE_FRAMES` it counts for less, since few frames are alike by chance. A film's beginning gets no bonus for being
    as short of a past as a run that begins: that would betray the time since the run began.

    Parameters
    ----------
    queries : torch.Tensor
        ``(window - 1 + time, components)``: the frames, led by those before them; zeros where the run had not begun.
    seen : torch.Tensor
        ``(window - 1 + time,)``: 1, or 0 where the run had not begun.
    keys : torch.Tensor
        ``(moments, components)``.
    window : int
        Frames that are compared.

    Returns
    -------
    torch.Tensor
        ``(time, moments)``, between -1 and 1.
    """
    size = keys.square().sum(1)
    products = _sum_windows(queries @ keys.T, window)[window - 1 :]
    key_size = _sum_windows(seen[:, None] * size, window)[window - 1 :]
    query_size = _sum_windows(queries.square().sum(1, keepdim=True), window)[window - 1 :]
    n_seen = _sum_windows(seen[:, None], window)[window - 1 :]
    tiny = torch.finfo(products.dtype).tiny
    return (n_seen / SURE_FRAMES).clamp(max=1) * products / (query_size.sqrt() * key_size.sqrt()).clamp(min=tiny)


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
