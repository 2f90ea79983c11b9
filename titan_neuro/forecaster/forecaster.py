"""The forecaster: time points in, later time points out, at constant memory however long the run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.forecaster.decoders import LowRankConfig, LowRankDecoder, UpsamplingConfig, UpsamplingDecoder
from titan_neuro.forecaster.recall.fit import fit_recall
from titan_neuro.forecaster.recall.recall import RecallConfig, RecallState
from titan_neuro.forecaster.tokenizers import ParcelTokenizer, ParcelTokenizerConfig, SwinTokenizer, SwinTokenizerConfig
from titan_neuro.linear.autoregression import ORDERS, Autoregression, autoregress, fit_autoregression
from titan_neuro.titans.models.backbone import Backbone, BackboneState
from titan_neuro.titans.models.mac import MACConfig
from titan_neuro.titans.models.variants import AnyBackboneConfig, require_causal
from titan_neuro.titans.stream_state import StreamState
from titan_neuro.typing import RunData


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ForecasterConfig:
    """The whole model.

    Attributes
    ----------
    tokenizer : SwinTokenizerConfig or ParcelTokenizerConfig
        Chosen by ``kind``: ``swin`` for volumes, ``parcels`` for parcels.
    backbone : LMMConfig, MACConfig, MAGConfig, MALConfig, GRUConfig or TransformerConfig
        Chosen by ``variant``.
    recall : RecallConfig or None
        The memories that are fitted in closed form; None for none.
    horizons : tuple of int
        Time points ahead, ascending, each at least 1.
    decoder : LowRankConfig or UpsamplingConfig
        Chosen by ``kind``: ``low-rank`` for volumes and parcels, ``upsampling`` for volumes.
    """

    tokenizer: Annotated[SwinTokenizerConfig | ParcelTokenizerConfig, Field(discriminator="kind")]
    backbone: AnyBackboneConfig = MACConfig(tokens_per_time_point=8)
    recall: RecallConfig | None = RecallConfig()
    horizons: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 3, 6, 10)
    decoder: Annotated[LowRankConfig | UpsamplingConfig, Field(discriminator="kind")] = LowRankConfig()

    def __post_init__(self) -> None:
        if not self.horizons or list(self.horizons) != sorted(set(self.horizons)):
            raise ConfigError(f"ForecasterConfig: horizons must ascend without repeats, found {self.horizons}.")
        if self.backbone.tokens_per_time_point != self.tokenizer.n_tokens:
            raise ConfigError(
                f"ForecasterConfig: the tokenizer gives {self.tokenizer.n_tokens} tokens a time point, the backbone expects "
                f"{self.backbone.tokens_per_time_point}.",
                "Set model.backbone.tokens_per_time_point to what the tokenizer gives.",
            )
        if isinstance(self.decoder, UpsamplingConfig) and not isinstance(self.tokenizer, SwinTokenizerConfig):
            raise ConfigError(
                "ForecasterConfig: the upsampling decoder needs volumes; parcels have no grid.",
                "Set model.decoder.kind to low-rank.",
            )
        require_causal(self.backbone, "ForecasterConfig")

    @property
    def restart_time_points(self) -> int:
        """Time points after which a stream may begin anew, and after as many again, and so on."""
        chunk = 1 if self.recall is None else self.recall.chunk_time_points
        return math.lcm(chunk, self.backbone.restart_time_points)

    def build(self, *, n_features: int, mask: Tensor | None = None) -> Forecaster:
        """Make the model for `n_features` voxels of `mask`, bool ``(x, y, z)``, or parcels (no mask)."""
        return Forecaster(self, n_features=n_features, mask=mask)


@dataclasses.dataclass(frozen=True)
class LinearState(StreamState):
    """What the linear skip carries from one call to the next.

    Attributes
    ----------
    history : torch.Tensor
        The last time points, ``(batch, order - 1, features)``.
    pending : torch.Tensor
        Its forecasts of the last time points, in the basis of the recall, ``(batch, longest horizon, horizons,
        width)``.
    made : torch.Tensor
        ``(batch, longest horizon)``: 1 where there was a time point to make them from, 0 before the start.
    """

    history: Float[Tensor, "batch ..."]
    pending: Float[Tensor, "batch ..."]
    made: Float[Tensor, "batch ..."]


@dataclasses.dataclass(frozen=True)
class MemoryPart(StreamState):
    """What the learned part carries from one call to the next.

    Attributes
    ----------
    backbone : BackboneState
    recall : tuple of RecallState
        One, or none.
    """

    backbone: BackboneState
    recall: tuple[RecallState, ...]


@dataclasses.dataclass(frozen=True)
class ForecasterState(StreamState):
    """What the model carries from one stretch of a stream to the next.

    Attributes
    ----------
    linear : LinearState
    memory : MemoryPart
    """

    linear: LinearState
    memory: MemoryPart


class Observation(NamedTuple):
    """What the learned part is told of each time point: nothing that depends on its memory.

    Attributes
    ----------
    tokens : torch.Tensor
        ``(batch, time, tokens, width)``.
    series : torch.Tensor
        In the basis of the recall, ``(batch, time, width)``.
    errors : torch.Tensor
        What the time point shows beyond the linear forecasts of it, in the basis, ``(batch, time, horizons, width)``; 0
        where none was made.
    """

    tokens: Tensor
    series: Tensor
    errors: Tensor

    def at(self, place: slice) -> Observation:
        """A stretch of the streams."""
        return Observation(*(part[:, place] for part in self))


class _Reading(NamedTuple):
    """What the learned part makes of each time point: tokens for the decoder, and the recall's forecasts in the basis."""

    tokens: Tensor
    forecasts: Tensor


class Forecaster(nn.Module):
    """Linear autoregression per feature, what memories recall beyond it, and what a backbone and a decoder learn.

    ``forecast[t, h] = AR_h(y_t, y_{t-1}, ...) + recall_h(series and AR's errors up to t) + decoder_h(tokens up to t)``.
    The first two are fitted in closed form (:meth:`fit`); the third starts at 0, so that training starts from them.
    Before it is fitted, a model is the autoregression. It keeps the protocol of
    :class:`titan_neuro.typing.ForecastModel`.

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
        self.head = self._build_head(mask)
        self.recall = (
            None
            if config.recall is None
            else config.recall.build(horizons=self.horizons, n_features=n_features, context_width=dim)
        )
        self.register_buffer("coefficients", torch.zeros(len(self.horizons), max(ORDERS), n_features))
        self.register_buffer("intercept", torch.zeros(len(self.horizons), n_features))

    def _build_head(self, mask: Tensor | None) -> LowRankDecoder | UpsamplingDecoder:
        sizes = {"dim": self.config.backbone.dim, "n_horizons": len(self.horizons)}
        decoder, n_tokens = self.config.decoder, self.config.tokenizer.n_tokens
        if isinstance(decoder, LowRankConfig):
            return LowRankDecoder(decoder, n_tokens=n_tokens, n_features=self.n_features, **sizes)
        # A decoder of this kind has a Swin tokenizer beside it, which was given a mask.
        tokenizer = cast("SwinTokenizerConfig", self.config.tokenizer)
        grid, patch_size = tokenizer.token_grid, tokenizer.patch_size
        return UpsamplingDecoder(decoder, mask=cast("Tensor", mask), token_grid=grid, patch_size=patch_size, **sizes)

    def fit(self, runs: Sequence[RunData]) -> None:
        """Fit the linear skip on the training runs (order and penalty by inner cross-validation), then the recall."""
        self.set_linear(fit_autoregression(runs, self.horizons))
        if self.recall is not None:
            fit_recall(self.recall, runs, self.coefficients, self.intercept)

    def set_linear(self, fitted: Autoregression) -> None:
        """Take a linear skip that was fitted before: models of one fold share it."""
        self.coefficients.copy_(fitted.coefficients)
        self.intercept.copy_(fitted.intercept)

    def held_out_index(self, keys: Sequence[str]) -> Int[Tensor, "B 2"] | None:
        """What must not be used for these runs, by their keys, since it was fitted on them; for `forward`."""
        return None if self.recall is None else self.recall.held_out_index(keys)

    def init_state(self, batch: int = 1) -> ForecasterState:
        """State before the first time point of `batch` streams."""
        history = self.coefficients.new_zeros(batch, self.coefficients.shape[1] - 1, self.n_features)
        width = 0 if self.recall is None else self.recall.width
        pending = history.new_zeros(batch, max(self.horizons), len(self.horizons), width)
        return ForecasterState(
            LinearState(history, pending, pending.new_zeros(pending.shape[:2])), self.init_memory(batch)
        )

    def init_memory(self, batch: int) -> MemoryPart:
        """State of the learned part before the first time point: nothing is remembered."""
        recall = () if self.recall is None else (self.recall.init_state(batch),)
        return MemoryPart(self.backbone.init_state(batch), recall)

    def restart(self, state: ForecasterState, is_start: Bool[Tensor, " B"]) -> ForecasterState:
        """Put the streams where `is_start` back to the state before their first time point."""
        return state.reset(is_start, self.init_state(len(is_start)))

    def forward(
        self,
        series: Float[Tensor, "B T V"],
        state: ForecasterState | None = None,
        *,
        memory_frozen: bool = False,
        held_out_index: Int[Tensor, "B 2"] | None = None,
    ) -> tuple[Float[Tensor, "B T K V"], ForecasterState]:
        """Forecast from every time point.

        Parameters
        ----------
        series : torch.Tensor
            ``(batch, time, features)``, z-scored.
        state : ForecasterState, optional
            What the call before returned; None at the start of the runs.
        memory_frozen : bool
            Read the memories that learn at test time as they are, writing nothing into them.
        held_out_index : torch.Tensor, optional
            From :meth:`held_out_index`: training runs that must be read with what was fitted without them.

        Returns
        -------
        forecasts : torch.Tensor
            ``(batch, time, horizons, features)``: ``[:, t, k]`` is time point ``t + horizons[k]``, given time points
            ``<= t``.
        state : ForecasterState
        """
        linear, beyond, state = self.forecast_parts(
            series, state, memory_frozen=memory_frozen, held_out_index=held_out_index
        )
        return linear + beyond, state

    def forecast_parts(
        self,
        series: Float[Tensor, "B T V"],
        state: ForecasterState | None = None,
        *,
        memory_frozen: bool = False,
        held_out_index: Int[Tensor, "B 2"] | None = None,
        features: Float[Tensor, "B T P F"] | None = None,
    ) -> tuple[Float[Tensor, "B T K V"], Float[Tensor, "B T K V"], ForecasterState]:
        """Forecast as :meth:`forward` does, the linear part and the learned part apart.

        `features` are what :meth:`SwinTokenizer.features` has made of `series`, where that is known already.
        """
        state = self.init_state(len(series)) if state is None else state
        linear, seen, linear_state = self.observe(series, state.linear, features)
        beyond, memory = self.forecast_residual(
            seen, state.memory, memory_frozen=memory_frozen, held_out_index=held_out_index
        )
        return linear, beyond, ForecasterState(linear_state, memory)

    def observe(
        self, series: Float[Tensor, "B T V"], state: LinearState, features: Float[Tensor, "B T P F"] | None = None
    ) -> tuple[Float[Tensor, "B T K V"], Observation, LinearState]:
        """Forecast linearly, and say what the learned part is told of each time point.

        An observation does not depend on what the memory holds: a probe makes it once and reads it with as many
        memories as it likes.
        """
        if series.shape[-1] != self.n_features:
            raise MismatchError(
                f"Forecaster: expected time points of {self.n_features} features, found {series.shape[-1]}."
            )
        with _full_precision(series):
            linear, history = autoregress(series, state.history, self.coefficients, self.intercept)
            shown, errors, pending, made = self._project(series, linear, state)
        if features is not None and isinstance(self.tokenizer, SwinTokenizer):
            tokens = self.tokenizer.project(features)
        else:
            tokens = self.tokenizer(series)
        # What blocks add up to stays in full where they compute in half precision.
        tokens = tokens.to(series.dtype)
        return linear, Observation(tokens, shown, errors), LinearState(history, pending, made)

    def _project(self, series: Tensor, linear: Tensor, state: LinearState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Time points in the basis of the recall, their errors, and what is carried on of the forecasts."""
        if self.recall is None:
            return series[..., :0], linear[..., :0], state.pending, state.made
        basis = self.recall.basis
        n_time_points, longest = series.shape[1], max(self.horizons)
        expected = torch.cat([state.pending, linear @ basis.T], dim=1)
        made = torch.cat([state.made, state.made.new_ones(len(series), n_time_points)], dim=1)
        shown = series @ basis.T
        errors = []
        for index, horizon in enumerate(self.horizons):
            place = slice(longest - horizon, longest - horizon + n_time_points)
            errors.append((shown - expected[:, place, index]) * made[:, place, None])
        return shown, torch.stack(errors, dim=2), expected[:, n_time_points:], made[:, n_time_points:]

    def forecast_residual(
        self,
        seen: Observation,
        state: MemoryPart | None = None,
        *,
        memory_frozen: bool = False,
        held_out_index: Int[Tensor, "B 2"] | None = None,
    ) -> tuple[Float[Tensor, "B T K V"], MemoryPart]:
        """Forecast what lies beyond the linear part."""
        state = self.init_memory(len(seen.tokens)) if state is None else state
        read, state = self._read(seen, state, memory_frozen=memory_frozen, held_out_index=held_out_index)
        return self._decode(read), state

    def features(
        self, seen: Observation, state: MemoryPart, *, held_out_index: Int[Tensor, "B 2"] | None = None
    ) -> tuple[Float[Tensor, "B T F"], MemoryPart]:
        """Return what the learned part holds of each time point, for a probe to read, and the state after the last.

        The backbone's output, averaged over the time point's tokens, and then what is recalled of the time points to
        come, in the basis of the recall, horizon by horizon. `held_out_index` is what must not be used for runs that it
        was fitted on.
        """
        read, state = self._read(seen, state, memory_frozen=False, held_out_index=held_out_index)
        return torch.cat([read.tokens.mean(dim=2).to(read.forecasts), read.forecasts.flatten(2)], dim=-1), state

    def recall_last(self, seen: Observation) -> Float[Tensor, "B K V"]:
        """Forecast what lies beyond the linear part from the last time point alone, with memories empty at the first."""
        return self.recall_at(seen, [-1])[:, 0]

    def recall_at(self, seen: Observation, places: Sequence[int]) -> Float[Tensor, "B N K V"]:
        """Forecast as :meth:`recall_last` does, from the time points at these places."""
        read, _ = self._read(seen, self.init_memory(len(seen.tokens)), memory_frozen=False, held_out_index=None)
        return self._decode(_Reading(read.tokens[:, list(places)], read.forecasts[:, list(places)]))

    def _read(
        self, seen: Observation, state: MemoryPart, *, memory_frozen: bool, held_out_index: Tensor | None
    ) -> tuple[_Reading, MemoryPart]:
        """Let backbone and recall say what they make of what was seen: tokens, and errors that are to come."""
        tokens = seen.tokens
        out, backbone = self.backbone(tokens.flatten(1, 2), state.backbone, memory_frozen=memory_frozen)
        out = out.view_as(tokens)
        if self.recall is None:
            return _Reading(out, seen.errors), MemoryPart(backbone, ())
        with _full_precision(out):
            context = out.mean(dim=2).to(seen.series.dtype)
            recalled, recall = self.recall(
                seen.series, seen.errors, context, state.recall[0], held_out_index=held_out_index, frozen=memory_frozen
            )
        return _Reading(out, recalled), MemoryPart(backbone, (recall,))

    def _decode(self, read: _Reading) -> Tensor:
        forecasts: Tensor = self.head(read.tokens)
        if self.recall is None:
            return forecasts
        # One product that is added to what is there: a whole brain for each time point and horizon is the largest
        # tensor.
        with _full_precision(forecasts):
            onto = forecasts.to(read.forecasts.dtype).flatten(0, 2)
            recalled = torch.addmm(onto, read.forecasts.flatten(0, 2), self.recall.basis)
        return recalled.view_as(forecasts)

    @torch.inference_mode()
    def step(
        self, series: Float[Tensor, "T V"], state: ForecasterState, *, memory_frozen: bool = False
    ) -> tuple[Float[Tensor, "T K V"], ForecasterState]:
        """Read the next time points of one run and forecast from each of them; forecasts lie where the time points lie."""
        forecasts, state = self.eval()(series.to(self.coefficients)[None], state, memory_frozen=memory_frozen)
        return forecasts[0].to(series.device), state


def _full_precision(tensor: Tensor) -> torch.autocast:
    """Keep autocast away: evidence adds up over a whole run, and errors are small differences."""
    return torch.autocast(tensor.device.type, enabled=False)
