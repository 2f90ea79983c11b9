"""Modules that differ in a part and share all else, for ablations and for short streams."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def with_parts(module: AnyModule, **parts: nn.Module | None) -> AnyModule:
    """Return a module with other parts; all that is not replaced is shared, not copied.

    Parameters
    ----------
    module : torch.nn.Module
    **parts : torch.nn.Module or None
        By the names of those that they replace.
    """
    other = copy.copy(module)
    # A shallow copy shares the dictionary of the parts, too.
    other._modules = dict(module._modules)
    for name, part in parts.items():
        setattr(other, name, part)
    return other
