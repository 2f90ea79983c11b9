"""What a model contains at each time point of a run, as numbers that a linear decoder can read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from titan_neuro.forecaster import Forecaster
from titan_neuro.forecaster.state import MemoriesState
from titan_neuro.probing.tools.untrained import untrained_name
from titan_neuro.titans.memory import MemoryState
from titan_neuro.titans.stream_state import StreamState
from titan_neuro.typing import RunData

# Names of what is read from a model, the same in all tables; those of the last line are controls without a memory.
MEMORY_OUTPUT, MEMORY_WEIGHTS = "memory output", "memory weights"
UNTRAINED_OUTPUT, UNTRAINED_WEIGHTS = untrained_name(MEMORY_OUTPUT), untrained_name(MEMORY_WEIGHTS)
ACTIVITY_PATTERN, TOKENS, TIME_POLYNOMIAL = "current activity pattern", "tokenizer output", "polynomial of time"

# Width of the random projection of all weights of the memories: it keeps cosines to within a few percent.
WEIGHTS_WIDTH = 512
_BLOCK_TIME_POINTS = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """What a model contains while it reads one run.

    Attributes
    ----------
    activity : numpy.ndarray
        float32 ``(time, width)``: the activity pattern of the time point alone, in the basis of the recall (all
        features where the model has no recall).
    tokens : numpy.ndarray
        float32 ``(time, tokens * dim)``: output of the tokenizer, without any memory.
    memory_output : numpy.ndarray
        float32 ``(time, width)``: what recall and memory forecast of later time points, in the basis, and before it the
        output of the backbone's blocks, averaged over the tokens of a time point, where they enter forecasts.
    memory_weights : numpy.ndarray
        float32 ``(readings, WEIGHTS_WIDTH)``: weights of all memories that learn at test time, and enter forecasts,
        less their initial weights, in a random projection that is the same for all runs.
    weights_time_points : numpy.ndarray
        int ``(readings,)``: the last time point that the memories had read at each reading of their weights.
    """

    activity: np.ndarray
    tokens: np.ndarray
    memory_output: np.ndarray
    memory_weights: np.ndarray
    weights_time_points: np.ndarray


@torch.inference_mode()
def trace_run(
    model: Forecaster,
    run: RunData,
    *,
    weights_every_time_points: int = 8,
    first_time_point: int = 0,
    count_from: int = 0,
    held_out_index: Tensor | None = None,
    width: int | None = None,
) -> Trace:
    """Trace a model while it reads a run, from `first_time_point` to the last.

    Parameters
    ----------
    model : Forecaster
    run : RunData
    weights_every_time_points : int
        Time points from one reading of the memory weights to the next.
    first_time_point : int
        First time point that the model reads, with an empty memory; the trace begins there. `weights_time_points` are
        counted from the run's first time point all the same.
    count_from : int
        Weights are read just before this time point, and every `weights_every_time_points` before and after it: runs
        in which a stimulus begins at different time points are read at the same time points of the stimulus.
    held_out_index : torch.Tensor, optional
        From :meth:`Forecaster.held_out_index`, for a run that the model was fitted on.
    width : int, optional
        Wider features are projected at random onto so many numbers, as the weights are: memory then grows with the
        length of the run, not with the number of voxels.

    Returns
    -------
    Trace
        Causal: what stands at a time point depends on this and earlier time points.
    """
    projections = [_projection_to(width, seed) for seed in (1, 2, 3)]
    parts: tuple[list[Tensor], ...] = ([], [], [])
    weights, time_points = list[Tensor](), list[int]()
    blocks = _trace_blocks(model.eval(), run, first_time_point, count_from, weights_every_time_points, held_out_index)
    for features, weights_of_block, time_points_of_block in blocks:
        for part, values, project in zip(parts, features, projections, strict=True):
            part.append(project(values.float().cpu()))
        weights += weights_of_block
        time_points += time_points_of_block
    activity, tokens, memory_output = (torch.cat(part).numpy() for part in parts)
    return Trace(
        activity=activity,
        tokens=tokens,
        memory_output=memory_output,
        memory_weights=torch.stack(weights).numpy(),
        weights_time_points=np.array(time_points, dtype=int),
    )


def _trace_blocks(
    model: Forecaster, run: RunData, start: int, count_from: int, every: int, held_out_index: Tensor | None
) -> Iterator[tuple[tuple[Tensor, Tensor, Tensor], list[Tensor], list[int]]]:
    """Yield for each block: activity, tokens and memory output; sketches of the weights, and their time points."""
    state, sketch = model.init_state(), _WeightSketch(model)
    observation_state, memory_state = state.observation, state.memory
    length = max(_BLOCK_TIME_POINTS // every, 1) * every
    for first, stop in _blocks(start, run.n_time_points, length, count_from, every):
        series = run.read(first, stop).to(model.linear_skip.coefficients)[None]
        _, observed, observation_state = model.observe(series, observation_state)
        outputs, weights, time_points = list[Tensor](), list[Tensor](), list[int]()
        for begin, end in _blocks(first, stop, every, count_from, every):
            output, memory_state = model.features(
                observed.at(slice(begin - first, end - first)), memory_state, held_out_index=held_out_index
            )
            outputs.append(output[0])
            weights.append(sketch(memory_state))
            time_points.append(end - 1)
        activity = (observed.series if model.components is not None else series)[0]
        yield (activity, observed.tokens[0].flatten(1), torch.cat(outputs)), weights, time_points


def _blocks(start: int, stop: int, length: int, count_from: int, every: int) -> Iterator[tuple[int, int]]:
    """Cut ``start <= t < stop`` into blocks that end where weights are read; `length` is a multiple of `every`.

    The first block may be shorter, so that all others begin a multiple of `every` time points from `count_from`.
    """
    while start < stop:
        end = min(start + length - (start - count_from) % every, stop)
        yield start, end
        start = end


def count_sketch(values: Tensor, places: Tensor, signs: Tensor, width: int) -> Tensor:
    """Project onto `width` numbers: each value is added, with a random sign, to one of them.

    Inner products are preserved up to an error of about ``1 / sqrt(width)`` of the norms (Charikar et al. 2002), at a
    cost that does not grow with `width`.

    Parameters
    ----------
    values : torch.Tensor
        ``(..., n)``.
    places, signs : torch.Tensor
        ``(n,)``: integers below `width`, and -1 or 1; see :func:`draw_sketch`.
    width : int

    Returns
    -------
    torch.Tensor
        ``(..., width)``.
    """
    return values.new_zeros(*values.shape[:-1], width).index_add_(-1, places, values * signs)


def draw_sketch(n: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw places and signs of a :func:`count_sketch` of `n` values: ``(n,)`` each, the same in every process."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(width, (n,), generator=generator)
    return places, torch.randint(2, (n,), generator=generator).float().mul_(2).sub_(1)


def _projection_to(width: int | None, seed: int) -> Callable[[Tensor], Tensor]:
    """Make a random projection of wider values onto `width` numbers; it is drawn at the first call."""
    sketch: list[tuple[Tensor, Tensor]] = []

    def project(values: Tensor) -> Tensor:
        if width is None or values.shape[-1] <= width:
            return values
        if not sketch:
            sketch.append(draw_sketch(values.shape[-1], width, seed))
        return count_sketch(values, *sketch[0], width)

    return project


class _WeightSketch:
    """Sketch of the weights of all memories of a model that enter its forecasts, less the initial ones."""

    def __init__(self, model: Forecaster) -> None:
        self._memory, self._are_blocks_idle = model.backbone.memory, model.blocks_are_idle
        self._initial = self._flat(model.init_state().memory)
        self._sketch = draw_sketch(len(self._initial), WEIGHTS_WIDTH)

    def _flat(self, state: MemoriesState) -> Tensor:
        parts = [] if self._are_blocks_idle else list(_weights_of_blocks(state.backbone.stack))
        if self._memory is not None:
            parts += [self._memory.associations.content(one.associations) for one in state.backbone.memory]
        return torch.cat([part.flatten() for part in parts] or [torch.zeros(0)]).float().cpu()

    def __call__(self, state: MemoriesState) -> Tensor:
        """Return the sketch, ``(WEIGHTS_WIDTH,)``."""
        return count_sketch(self._flat(state) - self._initial, *self._sketch, WEIGHTS_WIDTH)


def _weights_of_blocks(state: object) -> Iterator[Tensor]:
    """Yield the weights of every memory of the blocks, at any depth of their state."""
    if isinstance(state, MemoryState):
        yield from state.weights
    elif isinstance(state, StreamState):
        for value in vars(state).values():
            yield from _weights_of_blocks(value)
    elif isinstance(state, tuple):
        for value in state:
            yield from _weights_of_blocks(value)


def time_polynomial(n_time_points: int, degree: int = 3) -> np.ndarray:
    """Legendre polynomials of time, float32 ``(time, degree + 1)``: they contain the time and nothing else."""
    return np.polynomial.legendre.legvander(np.linspace(-1, 1, n_time_points), degree).astype(np.float32)
