"""What every state of a stream can do: be cut from its graph, moved, saved, and begin anew for some items."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from titan_neuro.errors import MismatchError

# Not `Self`: beartype, by which the tests check shapes method by method, knows it in decorated classes alone.
AnyState = TypeVar("AnyState", bound="StreamState")


@dataclasses.dataclass(frozen=True)
class StreamState:
    """Base of all streaming states: frozen dataclasses of tensors (batch first), tuples, integers and more states."""

    @property
    def batch_size(self) -> int:
        """Number of streams: the first length of its tensors."""
        return next(len(tensor) for tensor in _tensors(self))

    def detach(self: AnyState) -> AnyState:
        """The same state without its autograd history."""
        return self._map(torch.Tensor.detach)

    def to(self: AnyState, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> AnyState:
        """The state on another device, or in another floating-point type.

        Parameters
        ----------
        device : torch.device or str, optional
            Where the tensors shall be; by default where they are.
        dtype : torch.dtype, optional
            Type of the floating-point tensors; by default the one they have. Counts and flags keep theirs.
        """
        return self._map(lambda tensor: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None))

    def select(self: AnyState, items: Int[Tensor, " chosen"]) -> AnyState:
        """The state of some streams of the batch, in this order; `items` lie on the device of the state."""
        return self._map(lambda tensor: tensor[items])

    def join(self: AnyState, others: Sequence[AnyState]) -> AnyState:
        """The streams of several states, those of this one first.

        Raises
        ------
        MismatchError
            The states are of another kind, or their streams stand elsewhere inside a chunk or segment.
        """
        values = {}
        for field in dataclasses.fields(self):
            parts = [getattr(state, field.name) for state in (self, *others)]
            values[field.name] = _joined(f"{type(self).__name__}.{field.name}", parts)
        return dataclasses.replace(self, **values)

    def reset(self: AnyState, is_start: Bool[Tensor, " batch"], fresh: AnyState) -> AnyState:
        """Begin anew for some items of the batch.

        Parameters
        ----------
        is_start : torch.Tensor
            bool, ``(batch,)``: the items whose stream starts with the next call.
        fresh : StreamState
            The state before the first token, of the same model and batch size.

        Returns
        -------
        StreamState
            `fresh` where `is_start`, the state itself elsewhere.

        Raises
        ------
        MismatchError
            The stream stands inside a chunk or segment. All items share the place inside it, so an item can begin
            anew only where a chunk and a segment begin.
        """
        values = {
            field.name: _merge(
                f"{type(self).__name__}.{field.name}", is_start, getattr(fresh, field.name), getattr(self, field.name)
            )
            for field in dataclasses.fields(self)
        }
        return dataclasses.replace(self, **values)

    def state_dict(self) -> dict[str, Any]:
        """The state as nested dictionaries, tuples, numbers and tensors without history.

        ``torch.save`` writes it, and ``torch.load`` reads it with ``weights_only=True``.
        """
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def load_state_dict(self: AnyState, saved: Mapping[str, Any]) -> AnyState:
        """The state that was saved; this one, of the same model, says how it is put together.

        Parameters
        ----------
        saved : mapping
            What :meth:`state_dict` returned. Tensors go to the device of this state's own.

        Raises
        ------
        MismatchError
            Another kind of state, or one of another number of parts.
        """
        return dataclasses.replace(self, **_filled(type(self).__name__, self, saved))

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


def _joined(name: str, parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, StreamState):
        return first.join(parts[1:])
    if isinstance(first, tuple):
        return tuple(_joined(name, items) for items in zip(*parts, strict=True))
    if any(part != first for part in parts):
        raise MismatchError(f"{name}: streams that are joined must share it, found {', '.join(map(str, parts))}.")
    return first


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, StreamState):
        return value.state_dict()
    return tuple(_plain(item) for item in value) if isinstance(value, tuple) else value


def _filled(name: str, own: StreamState, saved: Any) -> dict[str, Any]:
    fields = [field.name for field in dataclasses.fields(own)]
    if not isinstance(saved, Mapping) or sorted(saved) != sorted(fields):
        found = ", ".join(sorted(saved)) if isinstance(saved, Mapping) else type(saved).__name__
        raise MismatchError(f"{name}: expected the parts {', '.join(sorted(fields))}, found {found}.")
    return {field: _restored(f"{name}.{field}", getattr(own, field), saved[field]) for field in fields}


def _restored(name: str, own: Any, saved: Any) -> Any:
    if isinstance(own, StreamState):
        return dataclasses.replace(own, **_filled(name, own, saved))
    if isinstance(own, tuple):
        if not isinstance(saved, tuple) or len(saved) != len(own):
            found = f"{len(saved)}" if isinstance(saved, tuple) else type(saved).__name__
            raise MismatchError(f"{name}: expected {len(own)} parts, found {found}.")
        return tuple(_restored(f"{name}[{i}]", *pair) for i, pair in enumerate(zip(own, saved, strict=True)))
    if isinstance(own, Tensor) != isinstance(saved, Tensor):
        raise MismatchError(f"{name}: expected {type(own).__name__}, found {type(saved).__name__}.")
    return saved.to(own.device) if isinstance(own, Tensor) else saved


def _merge(name: str, is_start: Tensor, fresh: Any, own: Any) -> Any:
    if isinstance(own, StreamState):
        return own.reset(is_start, fresh)
    if isinstance(own, tuple):
        return tuple(_merge(name, is_start, *pair) for pair in zip(fresh, own, strict=True))
    if isinstance(own, Tensor):
        if own.shape != fresh.shape or is_start.shape != own.shape[:1]:
            raise MismatchError(
                f"{name}: a stream of shape {tuple(own.shape)} can't begin anew from a fresh state of shape "
                f"{tuple(fresh.shape)} and flags of shape {tuple(is_start.shape)}.",
                "Take the fresh state from the same model, with the same batch size, and one flag per item.",
            )
        flags = is_start.to(own.device).view(-1, *[1] * (own.ndim - 1))
        return torch.where(flags, fresh, own)
    if own != fresh:
        raise MismatchError(
            f"{name}: expected {fresh}, as at the start of a stream, found {own}.",
            "Items of a batch share their place inside a chunk and a segment: begin anew where both begin.",
        )
    return own
