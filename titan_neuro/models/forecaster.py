"""The forecaster: frames in, later frames out, at constant memory however long the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.layers.head import HorizonHead
from titan_neuro.layers.tokenizer import ParcelTokenizer, ParcelTokenizerConfig, SwinTokenizer, SwinTokenizerConfig
from titan_neuro.models.backbone import Backbone, BackboneState
from titan_neuro.models.mac import MACConfig
from titan_neuro.models.variants import AnyBackboneConfig, require_causal
from titan_neuro.ops.autoregression import ORDERS, Autoregression, autoregress, fit_autoregression
from titan_neuro.typing import FrameRun


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ForecasterConfig:
    """The whole model.

    Attributes
    ----------
    tokenizer : SwinTokenizerConfig or ParcelTokenizerConfig
        Chosen by ``kind``: ``swin`` for volumes, ``parcels`` for parcels.
    backbone : LMMConfig, MACConfig, MAGConfig, MALConfig, GRUConfig or TransformerConfig
        Chosen by ``variant``.
    horizons : tuple of int
        Frames ahead, ascending, each at least 1.
    head_rank : int
        Spatial patterns of which a forecast is made.
    """

    tokenizer: Annotated[SwinTokenizerConfig | ParcelTokenizerConfig, Field(discriminator="kind")]
    backbone: AnyBackboneConfig = MACConfig()
    horizons: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 3, 6, 10)
    head_rank: Annotated[int, Field(ge=1)] = 16

    def __post_init__(self) -> None:
        if not self.horizons or list(self.horizons) != sorted(set(self.horizons)):
            raise ConfigError(f"ForecasterConfig: horizons must ascend without repeats, found {self.horizons}.")
        if self.backbone.tokens_per_frame != self.tokenizer.n_tokens:
            raise ConfigError(
                f"ForecasterConfig: the tokenizer gives {self.tokenizer.n_tokens} tokens a frame, the backbone expects "
                f"{self.backbone.tokens_per_frame}.",
                "Set model.backbone.tokens_per_frame to what the tokenizer gives.",
            )
        require_causal(self.backbone, "ForecasterConfig")

    def build(self, *, n_features: int, mask: Tensor | None = None) -> Forecaster:
        """Make the model for `n_features` voxels of `mask`, bool ``(x, y, z)``, or parcels (no mask)."""
        return Forecaster(self, n_features=n_features, mask=mask)


@dataclasses.dataclass(frozen=True, eq=False)
class ForecasterState:
    """What the model carries from one stretch of a stream to the next.

    Attributes
    ----------
    history : torch.Tensor
        The last frames, for the linear skip: ``(batch, order - 1, features)``.
    backbone : BackboneState
    """

    history: Tensor
    backbone: BackboneState

    def detach(self) -> ForecasterState:
        """Cut the graph: nothing is propagated back beyond this point."""
        return ForecasterState(self.history.detach(), self.backbone.detach())


class Forecaster(nn.Module):
    """Linear autoregression per feature, plus what a tokenizer, a backbone and a head learn beyond it.

    ``forecast[t, h] = AR_h(y_t, y_{t-1}, ...) + head_h(backbone(tokens of frames <= t))``. The linear part is fitted in
    closed form (:meth:`fit`); the learned part starts at 0, so that a new model is the autoregression, exactly. It
    keeps the protocol of :class:`titan_neuro.typing.ForecastModel`.

    Parameters
    ----------
    config : ForecasterConfig
    n_features : int
        Voxels inside the mask, or parcels.
    mask : torch.Tensor, optional
        bool ``(x, y, z)`` with `n_features` voxels set; for the Swin tokenizer.

    Attributes
    ----------
    name : str
        Row of the table: what the backbone is called.

    Raises
    ------
    MismatchError
        A Swin tokenizer without a mask, or a mask of another size.
    """

    coefficients: Tensor
    intercept: Tensor

    def __init__(self, config: ForecasterConfig, *, n_features: int, mask: Bool[Tensor, "x y z"] | None = None) -> None:
        super().__init__()
        self.config, self.horizons, self.n_features = config, tuple(config.horizons), n_features
        self.name = config.backbone.name
        dim = config.backbone.dim
        self.tokenizer: SwinTokenizer | ParcelTokenizer
        if isinstance(config.tokenizer, SwinTokenizerConfig):
            if mask is None or int(mask.sum()) != n_features:
                found = "none" if mask is None else f"one of {int(mask.sum())} voxels"
                raise MismatchError(f"The Swin tokenizer needs a mask of {n_features} voxels, found {found}.")
            self.tokenizer = SwinTokenizer(config.tokenizer, mask, dim)
        else:
            self.tokenizer = ParcelTokenizer(config.tokenizer, n_features, dim)
        self.backbone: Backbone = config.backbone.build()
        self.head = HorizonHead(
            token_width=config.tokenizer.n_tokens * dim,
            n_horizons=len(self.horizons),
            rank=config.head_rank,
            n_features=n_features,
        )
        self.register_buffer("coefficients", torch.zeros(len(self.horizons), max(ORDERS), n_features))
        self.register_buffer("intercept", torch.zeros(len(self.horizons), n_features))

    def fit(self, runs: Sequence[FrameRun]) -> None:
        """Fit the linear skip on the training runs (order and penalty by inner cross-validation)."""
        self.take_linear(fit_autoregression(runs, self.horizons))

    def take_linear(self, fitted: Autoregression) -> None:
        """Take a linear skip that was fitted before: models of one fold share it."""
        self.coefficients.copy_(fitted.coefficients)
        self.intercept.copy_(fitted.intercept)

    def init_state(self, batch: int) -> ForecasterState:
        """State before the first frame of `batch` streams."""
        history = self.coefficients.new_zeros(batch, self.coefficients.shape[1] - 1, self.n_features)
        return ForecasterState(history, self.backbone.init_state(batch))

    def restart(self, state: ForecasterState, is_start: Bool[Tensor, " B"]) -> ForecasterState:
        """Put the streams where `is_start` back to the state before their first frame."""
        history = state.history.masked_fill(is_start[:, None, None], 0.0)
        return ForecasterState(history, self.backbone.restart(state.backbone, is_start))

    def forward(
        self, frames: Float[Tensor, "B T V"], state: ForecasterState | None = None, *, memory_frozen: bool = False
    ) -> tuple[Float[Tensor, "B T K V"], ForecasterState]:
        """Forecast from every frame.

        Parameters
        ----------
        frames : torch.Tensor
            ``(batch, time, features)``, z-scored.
        state : ForecasterState, optional
            What the call before returned; None at the start of the runs.

        Returns
        -------
        forecasts : torch.Tensor
            ``(batch, time, horizons, features)``: ``[:, t, k]`` is frame ``t + horizons[k]``, given frames ``<= t``.
        state : ForecasterState
        """
        linear, beyond, state = self.forecast_parts(frames, state, memory_frozen=memory_frozen)
        return linear + beyond, state

    def forecast_parts(
        self, frames: Float[Tensor, "B T V"], state: ForecasterState | None = None, *, memory_frozen: bool = False
    ) -> tuple[Float[Tensor, "B T K V"], Float[Tensor, "B T K V"], ForecasterState]:
        """Forecast as :meth:`forward` does, the linear part and the learned part apart."""
        if frames.shape[-1] != self.n_features:
            raise MismatchError(f"Forecaster: expected frames of {self.n_features} features, found {frames.shape[-1]}.")
        state = self.init_state(len(frames)) if state is None else state
        linear, history = autoregress(frames, state.history, self.coefficients, self.intercept)
        beyond, backbone = self.remember(self.tokenizer(frames), state.backbone, memory_frozen=memory_frozen)
        return linear, beyond, ForecasterState(history, backbone)

    def remember(
        self, tokens: Float[Tensor, "B T P D"], state: BackboneState | None = None, *, memory_frozen: bool = False
    ) -> tuple[Float[Tensor, "B T K V"], BackboneState]:
        """Forecast what lies beyond the linear part, from the tokens of the frames.

        Tokens don't depend on what was before their frame: a probe that asks what the memory holds makes them once and
        reads them with as many memories as it likes.
        """
        out, state = self.backbone(tokens.flatten(1, 2), state, memory_frozen=memory_frozen)
        forecasts: Tensor = self.head(out.view_as(tokens))
        return forecasts, state

    def recall(self, tokens: Float[Tensor, "B T P D"]) -> Float[Tensor, "B K V"]:
        """Forecast from the last frame alone, with a memory that starts empty at the first."""
        out, _ = self.backbone(tokens.flatten(1, 2))
        forecasts: Tensor = self.head(out.view_as(tokens)[:, -1:])
        return forecasts[:, 0]

    def start(self) -> ForecasterState:
        """State before the first frame of one run."""
        return self.init_state(1)

    @torch.inference_mode()
    def step(
        self, frames: Float[Tensor, "T V"], state: ForecasterState
    ) -> tuple[Float[Tensor, "T K V"], ForecasterState]:
        """Read the next frames of one run and forecast from each of them; forecasts lie where the frames lie."""
        forecasts, state = self.eval()(frames.to(self.coefficients)[None], state)
        return forecasts[0].to(frames.device), state
