"""Settings of the decoders; no torch is imported here, so that settings are checked at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from titan_neuro.settings import settings


@settings
class LowRankConfig:
    """Forecasts as sums of spatial patterns, for volumes and parcels.

    Attributes
    ----------
    rank : int
        Number of patterns, shared by all horizons.
    """

    kind: Literal["low-rank"] = "low-rank"
    rank: Annotated[int, Field(ge=1)] = 16


@settings
class UpsamplingConfig:
    """Forecasts as maps, upsampled from the grid of the tokens to the voxels; for volumes alone.

    Attributes
    ----------
    channels : int
        Number of maps at every stage.
    """

    kind: Literal["upsampling"] = "upsampling"
    channels: Annotated[int, Field(ge=1)] = 16
