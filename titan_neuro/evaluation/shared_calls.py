"""Rows of one model share its parts, and read the same time points: what one row has computed serves the others."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from titan_neuro.titans.stream_state import StreamState

# Calls that are remembered: a row reads a block in a few pieces, and the next row comes after that. Of large ones
# fewer: with so many features blocks are short, and read in one piece or two.
_N_CALLS, _N_LARGE_CALLS, _LARGE_BYTES = 12, 3, 2**26


@contextlib.contextmanager
def shared_calls(methods: Iterable[tuple[object, str]]) -> Iterator[None]:
    """Answer a call of a method that was just made with the same arguments by what it returned then.

    The answers are equal bit for bit. Outputs and states are shared between the callers, none of whom may change them
    in place. Calls for a single time point are not remembered: rollouts read their own forecasts, each its own.

    Parameters
    ----------
    methods : iterable of (object, str)
        Each the object and the name of its method, such as a module and ``forward``. The first argument is
        ``(..., time, features)``; they compute without randomness and without gradients.
    """
    shared = list({(id(owner), name): (owner, name) for owner, name in methods}.values())
    for owner, name in shared:
        # Not a subclass or a wrapper: all models that hold the object are to find the calls of the others.
        vars(owner)[name] = _Remembering(getattr(owner, name))
    try:
        yield
    finally:
        for owner, name in shared:
            del vars(owner)[name]


class _Remembering:
    """A function that returns what it returned before, for arguments of one of its last calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._calls: deque[tuple[Any, Any]] = deque(maxlen=_N_CALLS)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args[0].shape[-2] == 1:
            return self._function(*args, **kwargs)
        arguments = (args, tuple(sorted(kwargs.items())))
        for before, returned in reversed(self._calls):
            if _are_equal(before, arguments):
                return returned
        returned = self._function(*args, **kwargs)
        self._calls.append((arguments, returned))
        largest = max(leaf.nbytes for leaf in (*args, *_flat(returned)) if isinstance(leaf, Tensor))
        while largest > _LARGE_BYTES and len(self._calls) > _N_LARGE_CALLS:
            self._calls.popleft()
        return returned


def _flat(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _are_equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, StreamState):
        return _are_equal(tuple(vars(one).values()), tuple(vars(other).values()))
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_are_equal, one, other))
    return bool(one == other)
