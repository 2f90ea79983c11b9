"""The registry of probes. To add a probe: write its module and its settings, and add an entry to `PROBES`.

This module imports neither torch nor pandas, so that the command line can list the probes at once.
"""

from __future__ import annotations

import importlib
from dataclasses import Field, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

if TYPE_CHECKING:
    from titan_neuro.probing.tools.results import Probe, ProbeSetup


class ProbeSettings(Protocol):
    """Settings of one probe: a frozen dataclass, every field of which has a default."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def build(self, setup: ProbeSetup) -> Probe:
        """Return the probe with these settings."""
        ...


@dataclass(frozen=True)
class ProbeEntry:
    """One probe of the registry.

    Attributes
    ----------
    question : str
        What the probe asks, as one clause: "how far back ...".
    config_class : str
        ``module:class`` of its settings, which keep the protocol of `ProbeSettings`.
    """

    question: str
    config_class: str

    def load_config_class(self) -> type[ProbeSettings]:
        """Return the class of its settings."""
        module, name = self.config_class.split(":")
        return cast("type[ProbeSettings]", getattr(importlib.import_module(module), name))


# By name, in the order in which they are run.
PROBES = {
    "context-length": ProbeEntry(
        "how far back the memory reaches", "titan_neuro.probing.probe_settings:ContextLengthConfig"
    ),
    "history-swap": ProbeEntry(
        "how much skill is lost when the earlier history is swapped",
        "titan_neuro.probing.probe_settings:HistorySwapConfig",
    ),
    "surprise": ProbeEntry(
        "whether the memory is more surprised at event boundaries than elsewhere",
        "titan_neuro.probing.probe_settings:SurpriseConfig",
    ),
    "time-segment-matching": ProbeEntry(
        "whether the memory identifies the time point of the stimulus",
        "titan_neuro.probing.probe_settings:TimeSegmentMatchingConfig",
    ),
    "decoding": ProbeEntry(
        "which events and annotations can be decoded from the memory",
        "titan_neuro.probing.probe_settings:DecodingConfig",
    ),
    "recall": ProbeEntry(
        "whether scenes are reinstated when they are retold, and what tells retold from forgotten ones",
        "titan_neuro.probing.probe_settings:RecallConfig",
    ),
}


def settings_field(name: str) -> str:
    """Return the field of the settings of a probe: ``history_swap`` for ``history-swap``."""
    return name.replace("-", "_")
