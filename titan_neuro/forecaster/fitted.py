"""Records of what was fitted in closed form, and how modules load them.

A record is a frozen dataclass of tensors with the names of the module's buffers. Tensors whose name ends in
``_without`` hold what was fitted without a part of the training runs (leave-one-out), stacked along their first
dimension. They are never saved with the module's weights: who loads a file has no training run to leave out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from titan_neuro.errors import MismatchError

LEAVE_ONE_OUT_SUFFIX = "_without"


@dataclasses.dataclass(frozen=True, eq=False)
class FitRecord:
    """Base of all records: frozen dataclasses of tensors, and of more records."""

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, those of an inner record as ``record.name``."""
        tensors = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                tensors[field.name] = value
            elif isinstance(value, FitRecord):
                tensors.update({f"{field.name}.{name}": tensor for name, tensor in value.tensors().items()})
        return tensors


def require_shapes(caller: str, hint: str, *parts: tuple[str, Tensor, Tensor]) -> None:
    """Refuse a fit of other sizes, before any of it is loaded.

    Parameters
    ----------
    caller : str
        Class and method, for the message.
    hint : str
        What to do.
    *parts : (str, torch.Tensor, torch.Tensor)
        Name, what was fitted, and what it is to be copied to.

    Raises
    ------
    MismatchError
        Two shapes differ.
    """
    for name, found, current in parts:
        if found.shape != current.shape:
            raise MismatchError(f"{caller}: expected {name} {tuple(current.shape)}, found {tuple(found.shape)}.", hint)


def load_buffers(module: nn.Module, record: FitRecord) -> None:
    """Replace the buffers of a module by the tensors of a record that have their names.

    Parameters
    ----------
    module : torch.nn.Module
        Its buffers keep their device and dtype, and take the shapes of the record.
    record : FitRecord
        Leave-one-out tensors, which are large, are shared with it where device and dtype allow; others are copied.
    """
    for field in dataclasses.fields(record):
        value = getattr(record, field.name).detach().to(getattr(module, field.name))
        setattr(module, field.name, value if field.name.endswith(LEAVE_ONE_OUT_SUFFIX) else value.clone())


def resize_buffers(module: nn.Module, names: Sequence[str], state_dict: Mapping[str, Tensor], prefix: str) -> None:
    """Give buffers the shapes of the saved ones, which depend on the training runs; for ``_load_from_state_dict``.

    A buffer whose last dimension differs keeps its shape, so that PyTorch reports the mismatch.
    """
    for name in names:
        saved, current = state_dict.get(prefix + name), getattr(module, name)
        if (
            saved is not None
            and saved.ndim == current.ndim
            and (saved.ndim < 2 or saved.shape[-1] == current.shape[-1])
        ):
            setattr(module, name, current.new_empty(saved.shape))


def select_fit(fitted: Tensor, fitted_without: Tensor, index: Tensor | None) -> Tensor:
    """Select, for each stream, what was fitted on all training runs or without a part of them.

    Parameters
    ----------
    fitted : torch.Tensor
        ``(...)``: from all training runs.
    fitted_without : torch.Tensor
        ``(parts, ...)``: without the runs of each part.
    index : torch.Tensor, optional
        int ``(batch,)``: the part that a stream belongs to, or -1.

    Returns
    -------
    torch.Tensor
        ``(batch, ...)``, or ``(1, ...)`` where no stream leaves anything out.
    """
    if index is None or not len(fitted_without):
        return fitted[None]
    selected = fitted_without[index.clamp_min(0)]
    selected[index < 0] = fitted
    return selected


def times_fit(values: Tensor, fitted: Tensor) -> Tensor:
    """Multiply each stream's values by what was fitted for it.

    Where one fit serves all streams, they are rows of one product: a batched product would copy the fit for each of
    them, which for a time point of each takes many times as long.

    Parameters
    ----------
    values : torch.Tensor
        ``(batch, ..., rows, inputs)``.
    fitted : torch.Tensor
        ``(batch, ..., inputs, outputs)`` or ``(1, ..., inputs, outputs)``, from :func:`select_fit`; sizes between the
        first and the last two are broadcast.

    Returns
    -------
    torch.Tensor
        ``(batch, ..., rows, outputs)``.
    """
    if len(fitted) == len(values):
        return values @ fitted
    joined = values.movedim(0, -3).flatten(-3, -2) @ fitted[0]
    split: Tensor = joined.view(*joined.shape[:-2], len(values), values.shape[-2], joined.shape[-1])
    return split.movedim(-3, 0)
