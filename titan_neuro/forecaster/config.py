"""Settings of a forecaster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field, field_validator

from titan_neuro.errors import ConfigError
from titan_neuro.forecaster.decoders import LowRankConfig, UpsamplingConfig
from titan_neuro.forecaster.recall.config import RecallConfig
from titan_neuro.forecaster.titan.config import LookaheadConfig
from titan_neuro.forecaster.tokenizers import LinearTokenizerConfig, SwinTokenizerConfig
from titan_neuro.settings import settings
from titan_neuro.titans.models.config import AnyBackboneConfig, MACConfig, require_causal

if TYPE_CHECKING:
    from torch import Tensor

    from titan_neuro.forecaster.forecaster import Forecaster


@settings
class ForecasterConfig:
    """Settings of a forecaster.

    Attributes
    ----------
    tokenizer : SwinTokenizerConfig or LinearTokenizerConfig
        Chosen by ``kind``: ``linear`` for features of any kind, ``swin`` for volumes.
    backbone : LMMConfig, MACConfig, MAGConfig, MALConfig, GRUConfig or TransformerConfig
        Chosen by ``variant``; by default MAC, with the tokenizer's number of tokens a time point. In a file of settings
        ``tokens_per_time_point`` is that number where it is null or left out.
    recall : RecallConfig or None
        What is fitted in closed form; None for none, and for no memory that looks ahead.
    lookahead : LookaheadConfig or None
        The memory of a Titans backbone that looks ahead; None for none. Other backbones have none.
    horizons : tuple of int
        Lead times in time points, ascending, each at least 1.
    decoder : LowRankConfig or UpsamplingConfig
        Chosen by ``kind``: ``low-rank`` for volumes and parcels, ``upsampling`` for volumes.

    Raises
    ------
    ConfigError
        Settings that don't fit each other, or a backbone that uses later time points.
    """

    tokenizer: Annotated[SwinTokenizerConfig | LinearTokenizerConfig, Field(discriminator="kind")]
    # Replaced by `__post_init__`: the default depends on the tokenizer.
    backbone: AnyBackboneConfig = cast("MACConfig", None)
    recall: RecallConfig | None = RecallConfig()
    lookahead: LookaheadConfig | None = LookaheadConfig()
    horizons: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 3, 6, 10)
    decoder: Annotated[LowRankConfig | UpsamplingConfig, Field(discriminator="kind")] = LowRankConfig()

    @field_validator("backbone", mode="before")
    @classmethod
    def _take_the_tokens_of_the_tokenizer(cls, backbone: Any, info: Any) -> Any:
        # `info` is a `pydantic.ValidationInfo`, a protocol that can't be checked when the tests run. It has no
        # tokenizer where the tokenizer's own settings are refused.
        tokenizer = info.data.get("tokenizer")
        if tokenizer is None or not isinstance(backbone, Mapping) or backbone.get("tokens_per_time_point") is not None:
            return backbone
        return {**backbone, "tokens_per_time_point": tokenizer.n_tokens}

    def __post_init__(self) -> None:
        if getattr(self, "backbone", None) is None:
            object.__setattr__(self, "backbone", MACConfig(tokens_per_time_point=self.tokenizer.n_tokens))
        if not self.horizons:
            raise ConfigError("ForecasterConfig: horizons: at least one lead time is needed, found ().")
        if list(self.horizons) != sorted(set(self.horizons)):
            raise ConfigError(f"ForecasterConfig: horizons must ascend without repeats, found {self.horizons}.")
        if self.backbone.tokens_per_time_point != self.tokenizer.n_tokens:
            raise ConfigError(
                f"ForecasterConfig: the tokenizer gives {self.tokenizer.n_tokens} tokens a time point, the backbone "
                f"expects {self.backbone.tokens_per_time_point}.",
                "Set backbone.tokens_per_time_point (in a study: model.backbone.tokens_per_time_point) to what the "
                "tokenizer gives.",
            )
        if isinstance(self.decoder, UpsamplingConfig) and not isinstance(self.tokenizer, SwinTokenizerConfig):
            raise ConfigError(
                "ForecasterConfig: the upsampling decoder needs the Swin tokenizer's grid; the linear one has none.",
                "Set decoder.kind (in a study: model.decoder.kind) to low-rank.",
            )
        require_causal(self.backbone, "ForecasterConfig")

    @property
    def restart_time_points(self) -> int:
        """Streams can be reset after multiples of this number of time points."""
        chunk = 1 if self.memory is None else self.memory.chunk_time_points
        return math.lcm(chunk, self.backbone.restart_time_points)

    @property
    def memory(self) -> LookaheadConfig | None:
        """The memory that looks ahead, where backbone and recall allow one: it corrects the recall's forecasts."""
        return self.lookahead if self.backbone.has_memory and self.recall is not None else None

    def build(self, *, n_features: int, mask: Tensor | None = None) -> Forecaster:
        """Build the model for `n_features` voxels of `mask`, bool ``(x, y, z)``, or parcels (no mask)."""
        # The model imports its settings.
        from titan_neuro.forecaster.forecaster import Forecaster

        return Forecaster(self, n_features=n_features, mask=mask)
