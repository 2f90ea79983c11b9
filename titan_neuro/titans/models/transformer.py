"""The comparison model with a short window: a Transformer that sees the last time points and, truly, nothing before
them.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from titan_neuro.titans.config import settings
from titan_neuro.titans.layers import FeedForward, WholeWindowAttention
from titan_neuro.titans.layers.norm import RMSNorm
from titan_neuro.titans.models.backbone import Backbone, BackboneConfig, Block
from titan_neuro.titans.stream_state import StreamState

# Tokens of all windows that are read at a time: more would not be faster, but take the memory.
_TOKENS_AT_A_TIME = 2**16


@settings
class TransformerConfig(BackboneConfig):
    """Size of the backbone: what `BackboneConfig` has, and more.

    Attributes
    ----------
    window_time_points : int
        Time points that a forecast is made from, the present one included, through all layers together. 20 is what
        SwiFT reads.
    ff_width : int
        Hidden width of the feed-forward part.
    n_heads : int
        Heads of the attention; ``dim / n_heads`` is a whole, even number.
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
        """What a model with this backbone is called in tables: ``transformer-20`` with a window of 20 time points."""
        return f"{self.variant}-{self.window_time_points}"

    def build(self) -> Transformer:
        """Make the backbone."""
        return Transformer(self)


@dataclasses.dataclass(frozen=True)
class TimeWindow(StreamState):
    """The last time points as they came in, as many as a window holds beside the present one.

    Attributes
    ----------
    tokens : torch.Tensor
        ``(batch, (window_time_points - 1) * tokens_per_time_point, dim)``.
    n_time_points : torch.Tensor
        ``(batch,)``, int64: how many of these time points there have been, counted from the last.
    """

    tokens: Float[Tensor, "B T D"]
    n_time_points: Int[Tensor, " B"]


class WindowLayer(nn.Module):
    """One residual layer over whole windows: attention, then a feed-forward part, each of normalized tokens.

    Parameters
    ----------
    config : TransformerConfig
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim)
        self.attention = WholeWindowAttention(
            config.dim,
            n_heads=config.n_heads,
            n_persistent=config.n_persistent,
            tokens_per_time_point=config.tokens_per_time_point,
        )
        self.feed_forward_norm = RMSNorm(config.dim)
        self.feed_forward = FeedForward(config.dim, width=config.ff_width)

    def forward(
        self, windows: Float[Tensor, "N T D"], has_been: Bool[Tensor, "N W"], *, n_asking: int
    ) -> Float[Tensor, "N Q D"]:
        """Renew the tokens of the last `n_asking` time points of each window."""
        attended = self.attention(self.attention_norm(windows), has_been, n_asking=n_asking)
        x = windows[:, windows.shape[1] - attended.shape[1] :] + attended
        y: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return y


class WindowStack(Block[TimeWindow]):
    """All layers of the Transformer, run anew over the window of each time point.

    Layers of sliding attention, each with what the layer below made of earlier time points, would see ``n_layers``
    windows back. Here every time point has its window to itself: inside it each token sees each other in every layer,
    as in a model that is given 20 time points and asked for the next. It costs `window_time_points` times what sliding
    attention does, but for the last layer, which is asked for the present time point alone.

    Parameters
    ----------
    config : TransformerConfig
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(WindowLayer(config) for _ in range(config.n_layers))

    def init_state(self, batch_size: int) -> TimeWindow:
        """State before the first time point: room for a window, none of whose time points has been."""
        weight = cast("WindowLayer", self.layers[0]).attention_norm.weight
        n_tokens = (self.config.window_time_points - 1) * self.config.tokens_per_time_point
        return TimeWindow(
            weight.new_zeros(batch_size, n_tokens, self.config.dim),
            torch.zeros(batch_size, dtype=torch.int64, device=weight.device),
        )

    def forward(self, x: Float[Tensor, "B T D"], state: TimeWindow) -> tuple[Float[Tensor, "B T D"], TimeWindow]:
        """Read the next time points, each with the window that it ends."""
        window, n_tokens = self.config.window_time_points, self.config.tokens_per_time_point
        n_time_points = x.shape[1] // n_tokens
        time_points = torch.cat([state.tokens, x], dim=1)
        windows = time_points.unfold(1, window * n_tokens, n_tokens).mT.flatten(0, 1)
        age = torch.arange(window - 1, -1, -1, device=x.device)
        seen = state.n_time_points[:, None] + torch.arange(n_time_points, device=x.device)
        has_been = (age <= seen[..., None]).flatten(0, 1)
        at_a_time = max(1, _TOKENS_AT_A_TIME // (window * n_tokens))
        parts = zip(torch.split(windows, at_a_time), torch.split(has_been, at_a_time), strict=True)
        y = torch.cat([self._read(*part) for part in parts]).view_as(x)
        # A copy: a view would keep the tokens of the whole call alive.
        kept = time_points[:, time_points.shape[1] - state.tokens.shape[1] :].clone()
        return y, TimeWindow(kept, (state.n_time_points + n_time_points).clamp(max=window - 1))

    def _read(self, windows: Tensor, has_been: Tensor) -> Float[Tensor, "N P D"]:
        for layer in self.layers[:-1]:
            windows = layer(windows, has_been, n_asking=self.config.window_time_points)
        last: Tensor = self.layers[-1](windows, has_been, n_asking=1)
        return last


class Transformer(Backbone):
    """Attention over the last time points, and no memory: what a model can know that reads windows.

    Parameters
    ----------
    config : TransformerConfig
    """

    config_class = TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, (WindowStack(config),))
