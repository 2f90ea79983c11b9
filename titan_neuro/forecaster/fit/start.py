"""What a closed-form fit takes from a model that was fitted before, to other recordings."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from torch import Tensor

from titan_neuro.errors import MismatchError
from titan_neuro.forecaster.fitted import FitRecord

if TYPE_CHECKING:
    from titan_neuro.forecaster.config import ForecasterConfig
    from titan_neuro.forecaster.forecaster import Forecaster


@dataclasses.dataclass(frozen=True, eq=False)
class FitStart(FitRecord):
    """Basis, directions and weights of a fitted model, from which a fit to other recordings starts.

    All else is fitted anew: linear skip, stimulus memory, delayed responses, and the keys of the memory that looks
    ahead (those of another fit were never the better choice: decision 71).

    Attributes
    ----------
    basis : torch.Tensor
        ``(width, features)``.
    innovation_directions, series_directions : torch.Tensor
        ``(components, width)``: of the innovations, and of the time points in the vector autoregression.
    autoregression : torch.Tensor
        Its weights, ``(horizons, features, width)``.
    """

    basis: Tensor
    innovation_directions: Tensor
    series_directions: Tensor
    autoregression: Tensor

    @classmethod
    def of(cls, model: Forecaster, config: ForecasterConfig, n_features: int) -> FitStart:
        """Take what a fit of a model with other settings can start from.

        Parameters
        ----------
        model : Forecaster
            Fitted.
        config : ForecasterConfig
            Of the model to fit; it may have another backbone, tokenizer, decoder or lookahead.
        n_features : int
            Of its data.

        Raises
        ------
        MismatchError
            The two models differ in horizons, recall or number of features, or have no recall.
        """
        for name, expected, found in (
            ("horizons", tuple(config.horizons), model.horizons),
            ("number of features", n_features, model.n_features),
            ("recall", config.recall, model.config.recall),
        ):
            if expected != found:
                raise MismatchError(
                    f"The model that the fit starts from differs in its {name}: expected {expected}, found {found}.",
                    "Fit both with the same settings, or start from no model (--set training.start=null).",
                )
        if model.recall is None or model.components is None:
            raise MismatchError(
                "The model that the fit starts from has no recall: nothing of it was fitted in closed form.",
                "Start from no model (--set training.start=null).",
            )
        return cls(
            basis=model.components.basis,
            innovation_directions=model.recall.innovation_directions,
            series_directions=model.recall.autoregression.directions,
            autoregression=model.recall.autoregression.weights,
        )
