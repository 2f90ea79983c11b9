"""Settings of all probes."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from titan_neuro.probing.context_length import ContextLengthConfig
from titan_neuro.probing.decoding import DecodingConfig
from titan_neuro.probing.history_swap import HistorySwapConfig
from titan_neuro.probing.surprise import SurpriseConfig
from titan_neuro.probing.time_segment_matching import TimeSegmentMatchingConfig


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ProbeConfig:
    """One part for each probe, and what they share.

    Attributes
    ----------
    n_permutations : int
        Of each test; the exact set where that is smaller.
    context_length, history_swap, surprise, time_segment_matching, decoding
        Settings of the probe of this name; see the class.
    """

    n_permutations: Annotated[int, Field(ge=1)] = 10_000
    context_length: ContextLengthConfig = ContextLengthConfig()
    history_swap: HistorySwapConfig = HistorySwapConfig()
    surprise: SurpriseConfig = SurpriseConfig()
    time_segment_matching: TimeSegmentMatchingConfig = TimeSegmentMatchingConfig()
    decoding: DecodingConfig = DecodingConfig()
