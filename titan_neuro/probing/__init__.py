"""What the memory holds: one module a probe."""

from titan_neuro.probing.config import ProbeConfig
from titan_neuro.probing.context_length import ContextLengthConfig, ContextLengthProbe
from titan_neuro.probing.decoding import DecodingConfig, DecodingProbe
from titan_neuro.probing.findings import Findings, Probe, ProbedFold, ProbeFacts
from titan_neuro.probing.untrained import untrained_like

__all__ = [
    "ContextLengthConfig",
    "ContextLengthProbe",
    "DecodingConfig",
    "DecodingProbe",
    "Findings",
    "Probe",
    "ProbeConfig",
    "ProbeFacts",
    "ProbedFold",
    "make_probe",
    "untrained_like",
]


def make_probe(name: str, config: ProbeConfig, facts: ProbeFacts) -> Probe:
    """Make the probe of this name (``context-length``, ...) with its settings."""
    made: dict[str, type[Probe]] = {"context-length": ContextLengthProbe, "decoding": DecodingProbe}
    return made[name](getattr(config, name.replace("-", "_")), facts)  # type: ignore[call-arg]
