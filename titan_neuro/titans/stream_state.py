"""What the state of every stream can do: detach, move, select, join, restart, save and load."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from titan_neuro.errors import MismatchError

# Not `Self`: beartype, which checks shapes in the tests, supports it in decorated classes only.
AnyState = TypeVar("AnyState", bound="StreamState")


@dataclasses.dataclass(frozen=True)
class StreamState:
    """Base of all streaming states: frozen dataclasses of tensors (batch first), tuples, integers and other states."""

    @property
    def batch_size(self) -> int:
        """Number of streams: the first dimension of its tensors."""
        return next(len(tensor) for tensor in _tensors(self))

    def detach(self: AnyState) -> AnyState:
        """Return the same state without its autograd graph."""
        return self._map(torch.Tensor.detach)

    def to(self: AnyState, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> AnyState:
        """Return the state on another device, or in another floating-point type.

        Parameters
        ----------
        device : torch.device or str, optional
            New device of the tensors; by default unchanged.
        dtype : torch.dtype, optional
            New type of the floating-point tensors; by default unchanged. Integers and booleans keep their types.
        """
        return self._map(lambda tensor: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None))

    def in_full_precision(self: AnyState) -> AnyState:
        """Return the state with float32 in place of float16 and bfloat16; other types stay."""
        half = (torch.float16, torch.bfloat16)
        return self._map(lambda tensor: tensor.float() if tensor.dtype in half else tensor)

    def select(self: AnyState, items: Int[Tensor, " chosen"]) -> AnyState:
        """Return the state of some streams of the batch.

        Parameters
        ----------
        items : torch.Tensor
            int64, ``(chosen,)``: indices of the streams, in the new order, on the device of the state.
        """
        return self._map(lambda tensor: tensor[items])

    def join(self: AnyState, others: Sequence[AnyState]) -> AnyState:
        """Concatenate the streams of several states, those of this one first.

        Raises
        ------
        MismatchError
            The states differ in kind, or in their position inside a chunk or segment.
        """
        values = {}
        for field in dataclasses.fields(self):
            parts = [getattr(state, field.name) for state in (self, *others)]
            values[field.name] = _join(f"{type(self).__name__}.{field.name}", parts)
        return dataclasses.replace(self, **values)

    def reset(self: AnyState, is_start: Bool[Tensor, " batch"], initial: AnyState) -> AnyState:
        """Restart some streams of the batch.

        Parameters
        ----------
        is_start : torch.Tensor
            bool, ``(batch,)``: True for the streams whose first time point comes next.
        initial : StreamState
            The initial state of the same model, for the same batch size.

        Returns
        -------
        StreamState
            `initial` where `is_start`, this state elsewhere.

        Raises
        ------
        MismatchError
            The streams are inside a chunk or segment. All streams of a batch share the position inside it, so one of
            them can be restarted only where a chunk and a segment start.
        """
        values = {
            field.name: _merge(
                f"{type(self).__name__}.{field.name}", is_start, getattr(initial, field.name), getattr(self, field.name)
            )
            for field in dataclasses.fields(self)
        }
        return dataclasses.replace(self, **values)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as nested dictionaries, tuples, numbers and detached tensors.

        ``torch.save`` writes it; ``torch.load`` reads it with ``weights_only=True``.
        """
        return {field.name: _as_plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def load_state_dict(self: AnyState, saved: Mapping[str, Any]) -> AnyState:
        """Return the saved state; this one, of the same model, provides the structure.

        Parameters
        ----------
        saved : mapping
            What `state_dict` returned. Its tensors are moved to the device of this state.

        Raises
        ------
        MismatchError
            A state of another kind or structure.
        """
        return dataclasses.replace(self, **_restore_fields(type(self).__name__, self, saved))

    def _map(self: AnyState, function: Callable[[Tensor], Tensor]) -> AnyState:
        values = {field.name: _apply(function, getattr(self, field.name)) for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **values)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, StreamState):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _tensors(item)


def _apply(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, StreamState):
        return value._map(function)
    if isinstance(value, tuple):
        return tuple(_apply(function, item) for item in value)
    return value


def _join(name: str, parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, StreamState):
        return first.join(parts[1:])
    if isinstance(first, tuple):
        return tuple(_join(name, items) for items in zip(*parts, strict=True))
    if any(part != first for part in parts):
        raise MismatchError(f"{name}: streams that are joined must share it, found {', '.join(map(str, parts))}.")
    return first


def _as_plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, StreamState):
        return value.state_dict()
    return tuple(_as_plain(item) for item in value) if isinstance(value, tuple) else value


def _restore_fields(name: str, structure: StreamState, saved: Any) -> dict[str, Any]:
    fields = [field.name for field in dataclasses.fields(structure)]
    if not isinstance(saved, Mapping) or sorted(saved) != sorted(fields):
        found = ", ".join(sorted(saved)) if isinstance(saved, Mapping) else type(saved).__name__
        raise MismatchError(f"{name}: expected the parts {', '.join(sorted(fields))}, found {found}.")
    return {field: _restore(f"{name}.{field}", getattr(structure, field), saved[field]) for field in fields}


def _restore(name: str, structure: Any, saved: Any) -> Any:
    if isinstance(structure, StreamState):
        return dataclasses.replace(structure, **_restore_fields(name, structure, saved))
    if isinstance(structure, tuple):
        if not isinstance(saved, tuple) or len(saved) != len(structure):
            found = f"{len(saved)}" if isinstance(saved, tuple) else type(saved).__name__
            raise MismatchError(f"{name}: expected {len(structure)} parts, found {found}.")
        return tuple(_restore(f"{name}[{i}]", *pair) for i, pair in enumerate(zip(structure, saved, strict=True)))
    if isinstance(structure, Tensor) != isinstance(saved, Tensor):
        raise MismatchError(f"{name}: expected {type(structure).__name__}, found {type(saved).__name__}.")
    return saved.to(structure.device) if isinstance(structure, Tensor) else saved


def _merge(name: str, is_start: Tensor, initial: Any, current: Any) -> Any:
    if isinstance(current, StreamState):
        return current.reset(is_start, initial)
    if isinstance(current, tuple):
        return tuple(_merge(name, is_start, *pair) for pair in zip(initial, current, strict=True))
    if isinstance(current, Tensor):
        if current.shape != initial.shape or is_start.shape != current.shape[:1]:
            raise MismatchError(
                f"{name}: a stream of shape {tuple(current.shape)} can't be restarted from an initial state of shape "
                f"{tuple(initial.shape)} and flags of shape {tuple(is_start.shape)}.",
                "Take the initial state from the same model, with the same batch size, and one flag per stream.",
            )
        flags = is_start.to(current.device).view(-1, *[1] * (current.ndim - 1))
        return torch.where(flags, initial, current)
    if current != initial:
        raise MismatchError(
            f"{name}: expected {initial}, as at the start of a stream, found {current}.",
            "The streams of a batch share the position inside a chunk and a segment: restart them where both start.",
        )
    return current
