"""Meta-training: gradients teach the memory that looks ahead how to learn from the stream of a new person."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from titan_neuro.forecaster.fit.memory_runs import Example, run_memory
from titan_neuro.forecaster.titan.titans_memory import TitansForecastMemory, TitansMemoryFit
from titan_neuro.linear.lead_time import at_target_time

# Neighboring components that are rotated among themselves.
_BLOCK = 8
_STREAMS_PER_STEP = 4
# Time points of a stream, at most.
_STREAM_TIME_POINTS = 800
# Standard deviation of the logarithm of a stream's gain.
_LOG_GAIN = 0.1
# Fraction of the streams from which the stimulus is taken: a stimulus that nobody knows, and rest, are learned, too.
_WITHOUT_STIMULUS = 1 / 3
# Of Adam; each column of the key map is in units of its root mean square.
_RATES = {"key_map": 0.05, "gates": 0.1, "initial_weights": 1e-4}
# The validation subjects are read after so many steps; training ends where they gained nothing for so many times.
_STEPS_PER_VALIDATION, _PATIENCE = 10, 3


class Stream(NamedTuple):
    """A training run as it is changed for one step.

    Attributes
    ----------
    example : Example
    start : int
        Time point at which the memory begins, empty.
    n_time_points : int
        Time points that it reads.
    gain : float
        Factor of all that is read.
    key_rotation, value_rotation : torch.Tensor
        Orthogonal, ``(components, components)`` for all kinds of key features alike, and ``(width, width)`` for the
        errors.
    """

    example: Example
    start: int
    n_time_points: int
    gain: float
    key_rotation: Tensor
    value_rotation: Tensor

    @classmethod
    def unchanged(cls, example: Example) -> Stream:
        """The whole run as it is."""
        n_components, width = example.memory.directions.shape
        return cls(example, 0, len(example.run.series), 1.0, torch.eye(n_components), torch.eye(width))

    @classmethod
    def draw(cls, example: Example, generator: torch.Generator) -> Stream:
        """A part of the run in other components."""
        n_components, width = example.memory.directions.shape
        n_time_points = min(len(example.run.series), _STREAM_TIME_POINTS)
        start = int(torch.randint(len(example.run.series) - n_time_points + 1, (), generator=generator))
        gain = float((_LOG_GAIN * torch.randn((), generator=generator)).exp())
        rotations = _draw_rotation(n_components, generator), _draw_rotation(width, generator)
        return cls(example, start, n_time_points, gain, *rotations)


def stream_loss(stream: Stream) -> Tensor:
    """Squared error that the memory leaves, as a fraction of the linear skip's; mean over lead times."""
    memory, run = stream.example.memory, stream.example.run
    associations = memory.associations
    turned = copy.copy(memory)
    # Key features are linear in the directions: rotating these rotates all kinds of features.
    turned._buffers = {**memory._buffers, "directions": stream.key_rotation @ memory.directions}
    part = slice(stream.start, stream.start + stream.n_time_points)
    features = stream.gain * stream.example._replace(memory=turned).features()[part]
    missed = stream.example.missed()
    errors = stream.gain * missed[part] @ stream.value_rotation
    read, _ = associations.learn(features[None], errors[None], associations.init_state(1))
    corrections = read[0] @ stream.value_rotation.T / stream.gain * associations.reliability
    left = missed[part] - at_target_time(corrections, memory.horizons)
    before, after = (each[run.scored[part]].square().sum(dim=(0, 2)) for each in (run.errors[part], left))
    return (after / before.clamp_min(1e-12)).mean()


def meta_train(examples: Sequence[Example]) -> TitansMemoryFit:
    """Train key map, gates and initial weights by gradients through the learning of the memory.

    The loss is the squared error that the memory leaves at each lead time in runs that it reads from empty. Each run is
    read with what was fitted without its subject. It is another one in each step: its components are rotated at random
    in blocks of neighboring ones, alike in all kinds of key features and otherwise in the errors, so that only how to
    learn can be learned, and not what these subjects have in common; it has a random gain; and from some the stimulus
    is taken. One fold of subjects is for validation. The result is what served them best, which may be the start. The
    reliability is no matter of gradients: each time it is what the training runs as they are give in closed form.

    Parameters
    ----------
    examples : sequence of Example
        Runs of all training subjects, with one memory of the rule ``titans``, which is loaded with its start and stays
        as it is.

    Returns
    -------
    TitansMemoryFit
    """
    learner = _Learner(examples)
    config, last = learner.associations.config, max(one.run.fold for one in examples)
    training = [one for one in learner.examples if one.run.fold < last]
    validation = [one for one in learner.examples if one.run.fold == last]
    if not training or not config.n_steps:
        return learner.associations.fitted()
    generator = torch.Generator().manual_seed(config.seed)
    best, least, n_waited = learner.associations.fitted(), math.inf, -1
    for step in range(config.n_steps + 1):
        if step % _STEPS_PER_VALIDATION == 0 or step == config.n_steps:
            learner.estimate_reliability(training)
            loss, n_waited = _validate(validation), n_waited + 1
            if loss < least:
                best, least, n_waited = learner.associations.fitted(), loss, 0
            if n_waited == _PATIENCE or step == config.n_steps:
                break
        learner.step([_draw(training, generator) for _ in range(_STREAMS_PER_STEP)], 1 - step / config.n_steps)
    learner.associations.load(best)
    learner.estimate_reliability(learner.examples)
    return learner.associations.fitted()


class _Learner:
    """A copy of the memory, and what gradients change of it."""

    def __init__(self, examples: Sequence[Example]) -> None:
        memory = copy.deepcopy(examples[0].memory)
        self.examples = [one._replace(memory=memory) for one in examples]
        self.associations = cast("TitansForecastMemory", memory.associations)
        key_map = self.associations.key_map
        self._units = key_map.square().mean(dim=1, keepdim=True).sqrt()
        self._in_units = (key_map / self._units.clamp_min(1e-12)).requires_grad_()
        leaves = {"key_map": self._in_units}
        leaves |= {name: getattr(self.associations, name).requires_grad_() for name in _RATES if name != "key_map"}
        self._optimizer = torch.optim.Adam([{"params": [leaves[name]], "name": name} for name in _RATES])

    def step(self, streams: Sequence[Stream], rate: float) -> None:
        """Take one step against the mean loss of some streams, at this fraction of the full rates."""
        for stream in streams:
            with torch.enable_grad():
                self.associations.key_map = self._in_units * self._units
                torch.autograd.backward(stream_loss(stream) / len(streams))
        for group in self._optimizer.param_groups:
            group["lr"] = rate * _RATES[group["name"]]
        self._optimizer.step()
        self._optimizer.zero_grad()
        with torch.no_grad():
            self.associations.key_map = self._in_units * self._units

    @torch.no_grad()
    def estimate_reliability(self, examples: Sequence[Example]) -> None:
        """Set the reliability to what these runs as they are say."""
        reliability = self.associations.reliability.fill_(1)
        reliability.copy_(run_memory(self.associations, examples).reliability())


def _draw(examples: Sequence[Example], generator: torch.Generator) -> Stream:
    """Draw a run, and how it is changed."""
    example = examples[int(torch.randint(len(examples), (), generator=generator))]
    if float(torch.rand((), generator=generator)) < _WITHOUT_STIMULUS:
        example = example.without_stimulus()
    return Stream.draw(example, generator)


def _draw_rotation(size: int, generator: torch.Generator) -> Tensor:
    """Draw rotations of blocks of neighboring components, ``(size, size)``."""
    rotation = torch.zeros(size, size)
    for first in range(0, size, _BLOCK):
        block = slice(first, min(first + _BLOCK, size))
        n = block.stop - first
        rotation[block, block] = torch.linalg.qr(torch.randn(n, n, generator=generator)).Q
    return rotation


@torch.no_grad()
def _validate(examples: Sequence[Example]) -> float:
    """Mean loss of whole runs as they are, with their stimulus and without it."""
    losses = [
        weight * float(stream_loss(Stream.unchanged(one)))
        for example in examples
        for weight, one in (
            (1 - _WITHOUT_STIMULUS, example),
            (_WITHOUT_STIMULUS, example.without_stimulus()),
        )
    ]
    return sum(losses) / len(examples)
