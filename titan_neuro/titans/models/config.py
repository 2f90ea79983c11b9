"""Settings of the models, and the variants to choose from by ``variant``; no torch is imported here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from titan_neuro.errors import ConfigError
from titan_neuro.settings import settings
from titan_neuro.titans.layers.config import NeuralMemoryConfig

if TYPE_CHECKING:
    from titan_neuro.titans.models.gru import GRU
    from titan_neuro.titans.models.lmm import LMM
    from titan_neuro.titans.models.mac import MAC
    from titan_neuro.titans.models.mag import MAG
    from titan_neuro.titans.models.mal import MAL
    from titan_neuro.titans.models.titans_lm import TitansLM
    from titan_neuro.titans.models.transformer import Transformer


@settings
class BackboneConfig:
    """Size of a backbone: what every variant has.

    Attributes
    ----------
    variant : {"lmm", "mac", "mag", "mal", "gru", "transformer"}
    dim : int
        Width of a token.
    n_layers : int
        Number of blocks.
    tokens_per_time_point : int
        Tokens that form one time point: 1 for text.
    """

    variant: Literal["lmm", "mac", "mag", "mal", "gru", "transformer"]
    dim: Annotated[int, Field(ge=1)] = 64
    n_layers: Annotated[int, Field(ge=1)] = 2
    tokens_per_time_point: Annotated[int, Field(ge=1)] = 1

    @property
    def name(self) -> str:
        """Name of a model with this backbone in tables."""
        return self.variant

    @property
    def has_memory(self) -> bool:
        """Whether its blocks have memories that learn at test time."""
        return False

    @property
    def restart_time_points(self) -> int:
        """A stream can be restarted after each multiple of this number of time points."""
        return 1

    def identity(self) -> dict[str, Any]:
        """Every setting that decides what the weights and a stream's state mean, by its dotted name."""
        return dataclasses.asdict(self)

    def require_even_heads(self, n_heads: int) -> None:
        """Raise a `ConfigError` where the heads of an attention can't divide the width."""
        if self.dim % (2 * n_heads):
            raise ConfigError(
                f"{type(self).__name__}.dim: each head of the attention needs an even part; found dim {self.dim}, "
                f"n_heads {n_heads}."
            )


@settings
class MemoryBackboneConfig(BackboneConfig):
    """Size of a backbone whose blocks have memories: the settings of `BackboneConfig`, and these.

    Attributes
    ----------
    ff_expansion : int
        Hidden width of the feed-forward part, in units of `dim`.
    memory : NeuralMemoryConfig
    """

    ff_expansion: Annotated[int, Field(ge=1)] = 2
    memory: NeuralMemoryConfig = NeuralMemoryConfig()

    def __post_init__(self) -> None:
        if self.dim % self.memory.n_heads:
            raise ConfigError(
                f"{type(self).__name__}.dim: each head of the memory needs an equal part; found dim {self.dim}, "
                f"memory.n_heads {self.memory.n_heads}."
            )

    @property
    def name(self) -> str:
        """Name of a model with this backbone in tables: ``titan-`` and the variant."""
        return f"titan-{self.variant}"

    @property
    def has_memory(self) -> bool:
        """Whether its blocks have memories that learn at test time."""
        return True

    @property
    def restart_time_points(self) -> int:
        """A stream can be restarted after each multiple of this number of time points: a chunk."""
        return self.memory.chunk_time_points

    def identity(self) -> dict[str, Any]:
        """Every setting that decides what the weights and a stream's state mean, by its dotted name."""
        values = super().identity()
        memory = values.pop("memory")
        # All backends compute the same.
        del memory["backend"]
        return values | {f"memory.{name}": value for name, value in memory.items()}


@settings
class AttentionBackboneConfig(MemoryBackboneConfig):
    """Size of a backbone with attention and a memory: the settings of `MemoryBackboneConfig`, and these.

    Attributes
    ----------
    n_heads : int
        Heads of the attention; ``dim / n_heads`` must be an even integer.
    n_persistent : int
        Learned tokens that attention always sees (equation 19).
    """

    n_heads: Annotated[int, Field(ge=1)] = 4
    n_persistent: Annotated[int, Field(ge=0)] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_even_heads(self.n_heads)


@settings
class WindowBackboneConfig(AttentionBackboneConfig):
    """Size of the backbone: the settings of `AttentionBackboneConfig`, and its window.

    Attributes
    ----------
    window_time_points : int
        Time points that attention sees, including the token's own.
    """

    window_time_points: Annotated[int, Field(ge=1)] = 16


@settings
class LMMConfig(MemoryBackboneConfig):
    """Size of the backbone; see `MemoryBackboneConfig`."""

    variant: Literal["lmm"] = "lmm"

    def build(self) -> LMM:
        """Make the backbone."""
        from titan_neuro.titans.models.lmm import LMM

        return LMM(self)


@settings
class MACConfig(AttentionBackboneConfig):
    """Size of the backbone: the settings of `AttentionBackboneConfig`, and its segments.

    Attributes
    ----------
    segment_time_points : int
        Time points of a segment, inside which attention acts. A multiple of ``memory.chunk_time_points``.
    n_longterm : int
        Learned queries that read the memory as it was before a segment. The whole segment sees what they retrieve, like
        the persistent tokens.
    causal : bool
        False follows the paper to the letter, for encoding whole windows only: each token sees the context of its whole
        segment, and the memory is read after the whole segment was written.
    """

    variant: Literal["mac"] = "mac"
    segment_time_points: Annotated[int, Field(ge=1)] = 16
    n_longterm: Annotated[int, Field(ge=0)] = 0
    causal: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.segment_time_points % self.memory.chunk_time_points:
            raise ConfigError(
                "MACConfig.segment_time_points: expected a multiple of memory.chunk_time_points "
                f"({self.memory.chunk_time_points}), found {self.segment_time_points}.",
                "A stream can be restarted only where a segment and a chunk start together.",
            )

    @property
    def restart_time_points(self) -> int:
        """A stream can be restarted after each multiple of this number of time points: a segment."""
        return self.segment_time_points

    def build(self) -> MAC:
        """Make the backbone."""
        from titan_neuro.titans.models.mac import MAC

        return MAC(self)


@settings
class MAGConfig(WindowBackboneConfig):
    """Size of the backbone; see `WindowBackboneConfig`."""

    variant: Literal["mag"] = "mag"

    def build(self) -> MAG:
        """Make the backbone."""
        from titan_neuro.titans.models.mag import MAG

        return MAG(self)


@settings
class MALConfig(WindowBackboneConfig):
    """Size of the backbone; see `WindowBackboneConfig`."""

    variant: Literal["mal"] = "mal"

    def build(self) -> MAL:
        """Make the backbone."""
        from titan_neuro.titans.models.mal import MAL

        return MAL(self)


@settings
class GRUConfig(BackboneConfig):
    """Size of the backbone: the settings of `BackboneConfig`, and these. The recurrent state is `dim` wide.

    Attributes
    ----------
    ff_width : int
        Hidden width of the feed-forward part.
    """

    variant: Literal["gru"] = "gru"
    ff_width: Annotated[int, Field(ge=1)] = 128

    def build(self) -> GRU:
        """Make the backbone."""
        from titan_neuro.titans.models.gru import GRU

        return GRU(self)


@settings
class TransformerConfig(BackboneConfig):
    """Size of the backbone: the settings of `BackboneConfig`, and these.

    Attributes
    ----------
    window_time_points : int
        Time points that an output depends on, including the present one, through all layers together. 20 is the window
        of SwiFT.
    ff_width : int
        Hidden width of the feed-forward part.
    n_heads : int
        Heads of the attention; ``dim / n_heads`` must be an even integer.
    n_persistent : int
        Learned tokens that attention always sees.
    """

    variant: Literal["transformer"] = "transformer"
    window_time_points: Annotated[int, Field(ge=1)] = 20
    ff_width: Annotated[int, Field(ge=1)] = 128
    n_heads: Annotated[int, Field(ge=1)] = 4
    n_persistent: Annotated[int, Field(ge=0)] = 4

    def __post_init__(self) -> None:
        self.require_even_heads(self.n_heads)

    @property
    def name(self) -> str:
        """Name of a model with this backbone in tables: ``transformer-20`` with a window of 20 time points."""
        return f"{self.variant}-{self.window_time_points}"

    def build(self) -> Transformer:
        """Make the backbone."""
        from titan_neuro.titans.models.transformer import Transformer

        return Transformer(self)


def _mac_by_default(settings: Any) -> Any:
    return {"variant": "mac", **settings} if isinstance(settings, Mapping) else settings


AnyBackboneConfig = Annotated[
    Annotated[
        LMMConfig | MACConfig | MAGConfig | MALConfig | GRUConfig | TransformerConfig, Field(discriminator="variant")
    ],
    BeforeValidator(_mac_by_default),
]


def require_causal(config: BackboneConfig, owner: str) -> None:
    """Raise a `ConfigError` where a backbone that is not causal is given to `owner`, which needs a causal one."""
    if isinstance(config, MACConfig) and not config.causal:
        raise ConfigError(
            f"{owner}: backbone.causal is False, so that a time point would see later time points of its segment.",
            "Set backbone.causal to true. False is for encoding whole windows with MAC by itself.",
        )


@settings
class TitansLMConfig:
    """Size of the language model.

    Attributes
    ----------
    vocab_size : int
        Token ids are 0 to ``vocab_size - 1``.
    backbone : LMMConfig, MACConfig, MAGConfig, MALConfig, GRUConfig or TransformerConfig
        Chosen by ``variant``; one token per time point.
    tie_embeddings : bool
        The output layer uses the weights of the embedding.
    """

    vocab_size: Annotated[int, Field(ge=1)]
    backbone: AnyBackboneConfig = MACConfig()
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        if (found := self.backbone.tokens_per_time_point) != 1:
            raise ConfigError(
                f"TitansLMConfig: backbone.tokens_per_time_point: expected 1, found {found}.",
                "Tokens of one time point see each other: in text each token is a time point of its own.",
            )
        require_causal(self.backbone, "TitansLMConfig")

    def build(self) -> TitansLM:
        """Make the model."""
        from titan_neuro.titans.models.titans_lm import TitansLM

        return TitansLM(self)
