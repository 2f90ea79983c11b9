"""Settings of the tokenizers; no torch is imported here, so that settings are checked at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from titan_neuro.errors import ConfigError
from titan_neuro.settings import settings

_STAGES = 4


@settings
class LinearTokenizerConfig:
    """A linear map from all features of a time point to its tokens.

    Attributes
    ----------
    n_tokens : int
        Tokens of a time point.
    """

    kind: Literal["linear"] = "linear"
    n_tokens: Annotated[int, Field(ge=1)] = 1


@settings
class SwinTokenizerConfig:
    """MONAI's `SwinTransformer`, one volume at a time.

    Attributes
    ----------
    embed_dim : int
        Channels of the first stage, doubled at each of the four; a multiple of every entry of `num_heads` / 2^stage.
    patch_size, window_size : int
        Voxels of a patch, patches of an attention window, along each axis. Windows larger than the volume are padded
        and slow.
    depths, num_heads : tuple of 4 int
        Blocks and heads of each stage.
    token_grid : tuple of 3 int
        Every map is pooled to this grid; a time point has as many tokens as the grid has cells.
    frozen : bool
        The pre-trained Swin is not trained further; the projections of its maps to tokens are.
    """

    kind: Literal["swin"] = "swin"
    embed_dim: Annotated[int, Field(ge=1)] = 12
    patch_size: Annotated[int, Field(ge=1)] = 2
    window_size: Annotated[int, Field(ge=1)] = 4
    depths: tuple[int, int, int, int] = (1, 1, 1, 1)
    num_heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    token_grid: tuple[int, int, int] = (2, 2, 2)
    frozen: bool = False

    def __post_init__(self) -> None:
        for stage, heads in enumerate(self.num_heads):
            width = self.embed_dim * 2**stage
            if heads < 1 or width % heads:
                raise ConfigError(
                    f"SwinTokenizerConfig: the {heads} heads of stage {stage} must divide its {width} channels.",
                    "Change embed_dim or num_heads.",
                )

    @property
    def n_tokens(self) -> int:
        """Tokens of a time point."""
        x, y, z = self.token_grid
        return x * y * z

    @property
    def map_widths(self) -> list[int]:
        """Channels of the five maps, from the finest to the coarsest."""
        return [self.embed_dim * 2**stage for stage in range(_STAGES + 1)]
