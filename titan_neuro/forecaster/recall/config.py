"""Settings of the recall; no torch is imported here, so that settings are checked at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from titan_neuro.settings import settings

if TYPE_CHECKING:
    from titan_neuro.forecaster.recall.recall import Recall


class RecallSizes(NamedTuple):
    """Sizes of a recall for a given number of features.

    Attributes
    ----------
    width : int
        Spatial components of forecasts.
    n_components : int
        Components that forecasts are computed from.
    """

    width: int
    n_components: int


@settings
class RecallConfig:
    """Sizes of the memories that are fitted in closed form.

    Attributes
    ----------
    width : int
        Spatial components of forecasts, at most. With fewer than 10 training time points a feature, the fit uses at
        most one component for 50 time points.
    n_components : int
        Components of the stimulus, and of innovations, that forecasts are computed from.
    autoregressive_lags : int
        Time points that the vector autoregression uses: the present one in full, those before in components.
    longest_lag : int
        Longest lag of delayed responses in time points; 0 for none.
    n_delayed_responses : int
        Lags of delayed responses, at most; the fit finds them.
    """

    width: Annotated[int, Field(ge=1)] = 256
    n_components: Annotated[int, Field(ge=1)] = 64
    autoregressive_lags: Annotated[int, Field(ge=1)] = 5
    longest_lag: Annotated[int, Field(ge=0)] = 320
    n_delayed_responses: Annotated[int, Field(ge=1)] = 4

    def sizes(self, n_features: int) -> RecallSizes:
        """Sizes for time points of `n_features` voxels or parcels."""
        width = min(self.width, n_features)
        return RecallSizes(width, min(self.n_components, width))

    def build(self, *, horizons: tuple[int, ...], n_features: int) -> Recall:
        """Build the memories for time points of `n_features`."""
        from titan_neuro.forecaster.recall.recall import Recall

        return Recall(self, horizons=horizons, n_features=n_features)
