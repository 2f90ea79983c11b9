"""What the memory holds: one module a probe."""

from titan_neuro.probing.config import ProbeConfig
from titan_neuro.probing.context_length import ContextLengthConfig, ContextLengthProbe
from titan_neuro.probing.decoding import DecodingConfig, DecodingProbe
from titan_neuro.probing.history_swap import HistorySwapConfig, HistorySwapProbe
from titan_neuro.probing.surprise import SurpriseConfig, SurpriseProbe
from titan_neuro.probing.time_segment_matching import TimeSegmentMatchingConfig, TimeSegmentMatchingProbe
from titan_neuro.probing.tools.results import Probe, ProbeContext, ProbedFold, ProbeResults
from titan_neuro.probing.tools.untrained import untrained_like

# Every probe, and what it asks.
PROBES = {
    "context-length": "how far back it reaches",
    "history-swap": "what is lost when what came before is swapped",
    "surprise": "whether it is surprised where one event of the stimulus ends and the next begins",
    "time-segment-matching": "whether it knows the time point of the stimulus",
    "decoding": "what events and annotations can be read from it",
}

__all__ = [
    "PROBES",
    "ContextLengthConfig",
    "ContextLengthProbe",
    "DecodingConfig",
    "DecodingProbe",
    "HistorySwapConfig",
    "HistorySwapProbe",
    "Probe",
    "ProbeConfig",
    "ProbeContext",
    "ProbeResults",
    "ProbedFold",
    "SurpriseConfig",
    "SurpriseProbe",
    "TimeSegmentMatchingConfig",
    "TimeSegmentMatchingProbe",
    "make_probe",
    "untrained_like",
]


def make_probe(name: str, config: ProbeConfig, metadata: ProbeContext) -> Probe:
    """Make the probe of this name (``context-length``, ...) with its settings."""
    made: dict[str, type[Probe]] = {
        "context-length": ContextLengthProbe,
        "history-swap": HistorySwapProbe,
        "surprise": SurpriseProbe,
        "time-segment-matching": TimeSegmentMatchingProbe,
        "decoding": DecodingProbe,
    }
    return made[name](getattr(config, name.replace("-", "_")), metadata)  # type: ignore[call-arg]
