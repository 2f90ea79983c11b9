"""Probes of what the memory contains: one module a probe, listed in `titan_neuro.probing.registry`.

Everything but the registry is loaded when it is first used: `PROBES` can be listed without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from titan_neuro.probing.registry import PROBES, ProbeEntry, ProbeSettings

if TYPE_CHECKING:
    from titan_neuro.probing.config import ProbeConfig
    from titan_neuro.probing.tools.results import Probe, ProbedFold, ProbeResults, ProbeSetup
    from titan_neuro.probing.tools.untrained import untrained_like

_MODULES = {
    "Probe": "tools.results",
    "ProbeConfig": "config",
    "ProbeResults": "tools.results",
    "ProbeSetup": "tools.results",
    "ProbedFold": "tools.results",
    "untrained_like": "tools.untrained",
}

__all__ = [
    "PROBES",
    "Probe",
    "ProbeConfig",
    "ProbeEntry",
    "ProbeResults",
    "ProbeSettings",
    "ProbeSetup",
    "ProbedFold",
    "untrained_like",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
