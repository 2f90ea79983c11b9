"""Settings of the scoring; no torch is imported here, so that settings are checked at once."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from titan_neuro.settings import settings


@settings
class EvaluationConfig:
    """How forecasts are scored. The lead times are the models'.

    Attributes
    ----------
    block_time_points : int
        Time points given to a model at once, at least 2; fewer where their forecasts of all features would take more
        than 128 MiB.
    max_offset_time_points : int
        Each test run begins at a random time point, at most this one, and within the first tenth of the run.
    rollout_every_time_points : int
        Time points from the origin of one rollout to the next; 0 for no rollouts. Networks whose states stand at the
        same place inside a segment are rolled out as one batch, so that a multiple of their segment length costs a
        third of another number.
    n_resamples : int
        Bootstrap resamples of the subjects.
    """

    block_time_points: Annotated[int, Field(ge=2)] = 64
    max_offset_time_points: Annotated[int, Field(ge=0)] = 30
    rollout_every_time_points: Annotated[int, Field(ge=0)] = 32
    n_resamples: Annotated[int, Field(ge=1000)] = 10_000
