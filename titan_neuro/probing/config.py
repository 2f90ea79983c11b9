"""Settings of all probes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar, cast

from pydantic import Field

from titan_neuro.probing.registry import PROBES, ProbeSettings, settings_field
from titan_neuro.settings import settings

if TYPE_CHECKING:
    from titan_neuro.probing.probe_settings import RecallConfig, RecallTasks
    from titan_neuro.probing.tools.results import Probe, ProbeSetup

_Config = TypeVar("_Config")


def _add_probe_settings(config: type[_Config]) -> type[_Config]:
    """Add a field for the settings of each probe of the registry."""
    for name, entry in PROBES.items():
        config_class = entry.load_config_class()
        config.__annotations__[settings_field(name)] = config_class
        setattr(config, settings_field(name), config_class())
    return config


@settings
@_add_probe_settings
class ProbeConfig:
    """Settings that all probes share, and one field for each probe: ``history_swap`` for ``history-swap``.

    Attributes
    ----------
    n_permutations : int
        Permutations of each test; the exact set where that is smaller.
    """

    n_permutations: Annotated[int, Field(ge=1)] = 10_000

    @property
    def tasks(self) -> RecallTasks | None:
        """Tasks of watching and of retelling; None where the study has no retelling."""
        return cast("RecallConfig", self.settings("recall")).tasks

    def settings(self, name: str) -> ProbeSettings:
        """Return the settings of the probe of this name (``context-length``, ...)."""
        return cast("ProbeSettings", getattr(self, settings_field(name)))

    def build(self, name: str, setup: ProbeSetup) -> Probe:
        """Return the probe of this name (``context-length``, ...) with its settings."""
        return self.settings(name).build(setup)
