"""What a model holds while it watches a run, time point by time point, as numbers that a linear probe can read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from titan_neuro.forecaster.forecaster import Forecaster
from titan_neuro.titans.memory import MemoryState
from titan_neuro.titans.stream_state import StreamState
from titan_neuro.typing import RunData

# Numbers that stand for all weights of a memory: a random projection keeps angles to some per cent.
STATE_WIDTH = 512
_FRAMES_AT_A_TIME = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """One run as a model has watched it.

    Attributes
    ----------
    time_point : numpy.ndarray
        float32 ``(time, width)``: the current time point alone, in the basis of the recall (all features where there is
        none).
    encoded : numpy.ndarray
        float32 ``(time, tokens * dim)``: the tokenizer's features, no memory.
    memory : numpy.ndarray
        float32 ``(time, ...)``: what the memories say at each time point: the backbone's output, averaged over the time
        point's tokens, and what is recalled of the time points to come, in the basis.
    state : numpy.ndarray
        float32 ``(len(state_time_points), STATE_WIDTH)``: what the memories that learn at test time hold, the weights
        of all of them less those that they began with, in a random projection that is the same for all runs.
    state_time_points : numpy.ndarray
        int ``(states,)``: the last time point that each state has read.
    """

    time_point: np.ndarray
    encoded: np.ndarray
    memory: np.ndarray
    state: np.ndarray
    state_time_points: np.ndarray


@torch.inference_mode()
def trace_run(
    model: Forecaster,
    run: RunData,
    *,
    state_every_time_points: int = 8,
    first_time_point: int = 0,
    count_from: int = 0,
    held_out_index: Tensor | None = None,
    width: int | None = None,
) -> Trace:
    """Let a model watch a run from its first time point, or a later one, to its last.

    Parameters
    ----------
    model : Forecaster
    run : RunData
    state_every_time_points : int
        Time points from one reading of the state to the next.
    first_time_point : int
        The first time point that the model is shown; what is given at each time point begins there, and
        `state_time_points` go on counting from the run's first.
    count_from : int
        A time point before which a reading of the state falls, so that runs in which a stimulus begins at different
        time points are read at the same moments of it.
    held_out_index : torch.Tensor, optional
        Of :meth:`Forecaster.held_out_index`, for a run that the model was fitted on.
    width : int, optional
        What is wider than this, time point by time point, is projected at random onto so many numbers, as the state is:
        memory grows with the run's length, and not with the number of voxels.

    Returns
    -------
    Trace
        Causal: what is given at a time point depends on this and earlier time points.
    """
    model.eval()
    state, sketch = model.init_state(), _WeightSketch(model.init_state())
    observation_state, held_state = state.observation, state.memory
    parts: tuple[list[Tensor], ...] = ([], [], [])
    states, at = list[Tensor](), list[int]()
    narrow = [_narrowed(width, seed) for seed in (1, 2, 3)]
    for start, stop in _blocks(
        first_time_point,
        run.n_time_points,
        max(_FRAMES_AT_A_TIME // state_every_time_points, 1),
        count_from,
        state_every_time_points,
    ):
        block = run.read(start, stop).to(model.linear_skip.coefficients)[None]
        _, seen, observation_state = model.observe(block, observation_state)
        found: list[Tensor] = []
        for begin, end in _blocks(start, stop, 1, count_from, state_every_time_points):
            held, held_state = model.features(
                seen.at(slice(begin - start, end - start)), held_state, held_out_index=held_out_index
            )
            found.append(held[0])
            states.append(sketch(held_state))
            at.append(end - 1)
        series = (seen.series if model.recall is not None else block)[0]
        for into, values, project in zip(
            parts, (series, seen.tokens[0].flatten(1), torch.cat(found)), narrow, strict=True
        ):
            into.append(project(values.float().cpu()))
    time_point, encoded, memory = (torch.cat(values).numpy() for values in parts)
    return Trace(
        time_point=time_point,
        encoded=encoded,
        memory=memory,
        state=torch.stack(states).numpy(),
        state_time_points=np.array(at, dtype=int),
    )


def _blocks(start: int, stop: int, at_a_time: int, count_from: int, every: int) -> Iterator[tuple[int, int]]:
    """Stretches of `at_a_time` times `every` time points, the first maybe shorter: they end where a state is due."""
    size = at_a_time * every
    while start < stop:
        end = min(start + size - (start - count_from) % every, stop)
        yield start, end
        start = end


def count_sketch(values: Tensor, places: Tensor, signs: Tensor, width: int) -> Tensor:
    """Project onto `width` numbers: each number goes, with a random sign, to one of the places.

    Inner products are kept up to an error of about ``1 / sqrt(width)`` of the norms (Charikar et al. 2002), at a cost
    that does not grow with `width`.

    Parameters
    ----------
    values : torch.Tensor
        ``(..., n)``.
    places, signs : torch.Tensor
        ``(n,)``: integers below `width`, and -1 or 1; see :func:`drawn`.
    width : int
    """
    return values.new_zeros(*values.shape[:-1], width).index_add_(-1, places, values * signs)


def drawn(n: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Places and signs of a :func:`count_sketch` of `n` numbers; the same wherever they are drawn."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(width, (n,), generator=generator)
    return places, torch.randint(2, (n,), generator=generator).float().mul_(2).sub_(1)


def _narrowed(width: int | None, seed: int) -> Callable[[Tensor], Tensor]:
    """A projection onto `width` numbers of what is wider, drawn when the first values come."""
    known: list[tuple[Tensor, Tensor]] = []

    def project(values: Tensor) -> Tensor:
        if width is None or values.shape[-1] <= width:
            return values
        if not known:
            known.append(drawn(values.shape[-1], width, seed))
        return count_sketch(values, *known[0], width)

    return project


class _WeightSketch:
    """What the weights of all memories have become, less what they began with, on `STATE_WIDTH` numbers."""

    def __init__(self, first: StreamState) -> None:
        self._first = self._flat(first)
        self._drawn = drawn(len(self._first), STATE_WIDTH)

    @staticmethod
    def _flat(state: StreamState) -> Tensor:
        return torch.cat([part.flatten() for part in memory_weights(state)] or [torch.zeros(0)]).float().cpu()

    def __call__(self, state: StreamState) -> Tensor:
        return count_sketch(self._flat(state) - self._first, *self._drawn, STATE_WIDTH)


def memory_weights(state: object) -> Iterator[Tensor]:
    """Weights of every memory that learns at test time, wherever it lies in a state."""
    if isinstance(state, MemoryState):
        yield from state.weights
    elif isinstance(state, StreamState):
        for value in vars(state).values():
            yield from memory_weights(value)
    elif isinstance(state, tuple):
        for value in state:
            yield from memory_weights(value)


def time_polynomial(n_time_points: int, degree: int = 3) -> np.ndarray:
    """Legendre polynomials of time, ``(time, degree + 1)``: what a clock alone would know."""
    return np.polynomial.legendre.legvander(np.linspace(-1, 1, n_time_points), degree).astype(np.float32)
