"""What a model holds while it watches a run, frame by frame, as numbers that a linear probe can read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from titan_neuro.models.forecaster import Forecaster
from titan_neuro.ops.neural_memory import MemoryState
from titan_neuro.ops.stream_state import StreamState
from titan_neuro.typing import FrameRun

# Numbers that stand for all weights of a memory: a random projection keeps angles to some per cent.
STATE_WIDTH = 512
_FRAMES_AT_A_TIME = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """One run as a model has watched it.

    Attributes
    ----------
    frame : numpy.ndarray
        float32 ``(time, width)``: the current frame alone, in the basis of the recall (all features where there is
        none).
    encoded : numpy.ndarray
        float32 ``(time, tokens * dim)``: the tokenizer's features, no memory.
    memory : numpy.ndarray
        float32 ``(time, ...)``: what the memories say at each frame: the backbone's output, averaged over the frame's
        tokens, and what is recalled of the frames to come, in the basis.
    state : numpy.ndarray
        float32 ``(len(state_frames), STATE_WIDTH)``: what the memories that learn at test time hold, the weights of all
        of them less those that they began with, in a random projection that is the same for all runs.
    state_frames : numpy.ndarray
        int ``(states,)``: the last frame that each state has read.
    """

    frame: np.ndarray
    encoded: np.ndarray
    memory: np.ndarray
    state: np.ndarray
    state_frames: np.ndarray


@torch.inference_mode()
def trace_run(model: Forecaster, run: FrameRun, *, state_every_frames: int = 8) -> Trace:
    """Let a model watch a run from its first frame to its last.

    Parameters
    ----------
    model : Forecaster
    run : FrameRun
    state_every_frames : int
        Frames from one reading of the state to the next.

    Returns
    -------
    Trace
        Causal: what is given at a frame depends on this and earlier frames.
    """
    model.eval()
    state = model.start()
    sketch = _Sketch(state)
    frame, encoded, memory, states, at = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor](), list[int]()
    for start in range(0, run.n_frames, state_every_frames):
        stop = min(start + state_every_frames, run.n_frames)
        block = run.read(start, stop).to(model.coefficients)[None]
        _, seen, linear = model.observe(block, state.linear)
        held, part = model.hold(seen, state.memory)
        state = type(state)(linear, part)
        frame.append((seen.frames if model.recall is not None else block)[0].cpu())
        encoded.append(seen.tokens[0].flatten(1).cpu())
        memory.append(held[0].cpu())
        states.append(sketch(state))
        at.append(stop - 1)
    parts = (torch.cat(values).float().numpy() for values in (frame, encoded, memory))
    names = ("frame", "encoded", "memory")
    return Trace(
        **dict(zip(names, parts, strict=True)), state=torch.stack(states).numpy(), state_frames=np.array(at, dtype=int)
    )


class _Sketch:
    """A count sketch (Charikar et al. 2002): each weight goes, with a random sign, to one of the places."""

    def __init__(self, first: StreamState) -> None:
        self._first = torch.cat([weights.flatten() for weights in memory_weights(first)] or [torch.zeros(0)]).cpu()
        generator = torch.Generator().manual_seed(0)
        self._places = torch.randint(STATE_WIDTH, self._first.shape, generator=generator)
        self._signs = torch.randint(2, self._first.shape, generator=generator).float().mul_(2).sub_(1)

    def __call__(self, state: StreamState) -> Tensor:
        weights = torch.cat([part.flatten() for part in memory_weights(state)] or [torch.zeros(0)]).cpu()
        changed = (weights - self._first).float() * self._signs
        return torch.zeros(STATE_WIDTH).index_add_(0, self._places, changed)


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


def time_polynomial(n_frames: int, degree: int = 3) -> np.ndarray:
    """Legendre polynomials of time, ``(time, degree + 1)``: what a clock alone would know."""
    return np.polynomial.legendre.legvander(np.linspace(-1, 1, n_frames), degree).astype(np.float32)
