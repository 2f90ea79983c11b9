"""Settings of the memory that looks ahead; no torch is imported here, so that settings are checked at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from titan_neuro.settings import settings
from titan_neuro.titans.memory.backends import Backend

if TYPE_CHECKING:
    from titan_neuro.forecaster.titan.forecast_memory import ForecastMemory
    from titan_neuro.forecaster.titan.lookahead_memory import LookaheadMemory

# Innovations of these lags are described by all components.
_RECENT_LAGS = 2


@settings
class TitansRuleConfig:
    """The write rule of Titans in the memory that looks ahead, and its meta-training.

    Attributes
    ----------
    key_width : int
        Dimensions of a key, at most.
    depth : int
        Layers of the memory of each lead time.
    max_step : float
        Bound of the step: if all pairs of a chunk had the same key, they would remove at most this fraction of the
        error at that key.
    max_momentum : float
        Bound of the momentum gate, below 1.
    max_delta_norm : float or None
        Largest error that a pair may write, in units of twice the typical one; see `memory_scan`.
    backend : {"auto", "naive", "chunked", "native", "triton"}
        Implementation of the memory; see `memory_scan`.
    n_steps : int
        Gradient steps of the meta-training, at most; 0 for the closed form alone.
    seed : int
        Of the meta-training, which is part of the fit: the same for all seeds of a study.
    """

    key_width: Annotated[int, Field(ge=1)] = 160
    depth: Annotated[int, Field(ge=1)] = 1
    max_step: Annotated[float, Field(gt=0, le=2)] = 1.5
    max_momentum: Annotated[float, Field(gt=0, lt=1)] = 0.9
    max_delta_norm: Annotated[float, Field(gt=0)] | None = 10.0
    backend: Backend = "auto"
    n_steps: Annotated[int, Field(ge=0)] = 60
    seed: Annotated[int, Field(ge=0)] = 0


@settings
class LookaheadConfig:
    """The memory that looks ahead; its keys are fitted before any gradient step of the model.

    Attributes
    ----------
    n_lags : int
        Time points whose innovations enter the keys.
    n_components : int
        Components that the key features are described by.
    n_earlier_components : int
        The same for innovations before those of the last two time points.
    key_width : int
        Dimensions of a key of the exact rule, at most: principal directions of the key features.
    chunk_time_points : int
        Time points of a chunk. The exact rule merges the pairs of a chunk at once, which changes the cost alone; the
        rule of Titans takes their gradients at the weights before the chunk.
    rule : {"exact", "titans"}
        How a pair is written: ``exact`` holds the best memory of all pairs so far
        (:class:`titan_neuro.forecaster.titan.forecast_memory.ExactForecastMemory`), ``titans`` takes one gradient step
        (:class:`titan_neuro.forecaster.titan.titans_memory.TitansForecastMemory`).
    titans : TitansRuleConfig
        Of the rule ``titans``.
    """

    n_lags: Annotated[int, Field(ge=1)] = 8
    n_components: Annotated[int, Field(ge=1)] = 200
    n_earlier_components: Annotated[int, Field(ge=1)] = 32
    key_width: Annotated[int, Field(ge=1)] = 768
    chunk_time_points: Annotated[int, Field(ge=1)] = 8
    rule: Literal["exact", "titans"] = "exact"
    titans: TitansRuleConfig = TitansRuleConfig()

    def build(self, *, horizons: tuple[int, ...], width: int) -> LookaheadMemory:
        """Build the memory for `width` spatial components."""
        from titan_neuro.forecaster.titan.lookahead_memory import LookaheadMemory

        return LookaheadMemory(self, horizons=horizons, width=width)

    def build_associations(self, *, horizons: tuple[int, ...], width: int) -> ForecastMemory[Any]:
        """Build what holds the pairs, by the write rule."""
        from titan_neuro.forecaster.titan.forecast_memory import ExactForecastMemory
        from titan_neuro.forecaster.titan.titans_memory import TitansForecastMemory

        n_features = sum(self.feature_sizes(width=width).values())
        if self.rule == "titans":
            return TitansForecastMemory(
                self.titans,
                horizons=horizons,
                n_features=n_features,
                value_width=width,
                chunk_time_points=self.chunk_time_points,
            )
        return ExactForecastMemory(
            horizons=horizons,
            n_features=n_features,
            key_width=min(self.key_width, n_features),
            value_width=width,
            chunk_time_points=self.chunk_time_points,
        )

    def feature_sizes(self, *, width: int) -> dict[str, int]:
        """Number of key features of each kind, in their order, for time points of `width` components."""
        from titan_neuro.linear.running_averages import TIME_CONSTANTS

        n_components = min(self.n_components, width)
        n_earlier = min(self.n_earlier_components, n_components)
        averages = {f"average {constant}": n_components for constant in TIME_CONSTANTS}
        innovations = {
            f"innovation {lag}": n_components if lag < _RECENT_LAGS else n_earlier for lag in range(self.n_lags)
        }
        return {"time point": n_components, **averages, **innovations, "stimulus": n_components, "own": n_components}
