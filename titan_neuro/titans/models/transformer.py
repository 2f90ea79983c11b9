"""The comparison model with a short window: a Transformer that sees the last time points, and none before them."""

from __future__ import annotations

import dataclasses
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from titan_neuro.titans.layers import FeedForward, WholeWindowAttention
from titan_neuro.titans.layers.norm import RMSNorm
from titan_neuro.titans.models.backbone import Backbone, Block
from titan_neuro.titans.models.config import TransformerConfig
from titan_neuro.titans.stream_state import StreamState

# Tokens of all windows that are processed at once: more would take memory without being faster.
_TOKENS_AT_A_TIME = 2**16


@dataclasses.dataclass(frozen=True)
class WindowState(StreamState):
    """The last time points of the input, one fewer than a window holds.

    Attributes
    ----------
    tokens : torch.Tensor
        ``(batch, (window_time_points - 1) * tokens_per_time_point, dim)``.
    n_time_points : torch.Tensor
        ``(batch,)``, int64: how many of these time points the stream has had; the last ones are valid.
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
        self, windows: Float[Tensor, "N T D"], is_valid: Bool[Tensor, "N W"], *, n_query_time_points: int
    ) -> Float[Tensor, "N Q D"]:
        """Compute the last time points of each window; see `WholeWindowAttention.forward` for the shapes."""
        attended = self.attention(self.attention_norm(windows), is_valid, n_query_time_points=n_query_time_points)
        x = windows[:, windows.shape[1] - attended.shape[1] :] + attended
        y: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return y


class WindowStack(Block[WindowState]):
    """All layers of the Transformer, computed for the window of each time point separately.

    With stacked layers of sliding-window attention, an output would depend on the last ``n_layers`` windows. Here every
    time point has a window of its own: inside it each token sees every other in every layer, as in a model that is
    given 20 time points to predict the next. This costs `window_time_points` times as much as sliding attention, except
    in the last layer, which computes the present time point only.

    Parameters
    ----------
    config : TransformerConfig
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(WindowLayer(config) for _ in range(config.n_layers))

    def init_state(self, batch_size: int) -> WindowState:
        """State before the first time point: room for the time points of a window, none of which is valid yet."""
        weight = cast("WindowLayer", self.layers[0]).attention_norm.weight
        n_tokens = (self.config.window_time_points - 1) * self.config.tokens_per_time_point
        return WindowState(
            weight.new_zeros(batch_size, n_tokens, self.config.dim),
            torch.zeros(batch_size, dtype=torch.int64, device=weight.device),
        )

    def forward(self, x: Float[Tensor, "B T D"], state: WindowState) -> tuple[Float[Tensor, "B T D"], WindowState]:
        """Process the next time points, ``(batch, tokens, dim)``, each with its window; see `Block.forward`."""
        window, n_tokens = self.config.window_time_points, self.config.tokens_per_time_point
        n_time_points = x.shape[1] // n_tokens
        time_points = torch.cat([state.tokens, x], dim=1)
        windows = time_points.unfold(1, window * n_tokens, n_tokens).mT.flatten(0, 1)
        age = torch.arange(window - 1, -1, -1, device=x.device)
        n_earlier = state.n_time_points[:, None] + torch.arange(n_time_points, device=x.device)
        is_valid = (age <= n_earlier[..., None]).flatten(0, 1)
        at_a_time = max(1, _TOKENS_AT_A_TIME // (window * n_tokens))
        parts = zip(torch.split(windows, at_a_time), torch.split(is_valid, at_a_time), strict=True)
        y = torch.cat([self._read(*part) for part in parts]).view_as(x)
        # A copy: a view would keep the tokens of the whole call alive.
        last = time_points[:, time_points.shape[1] - state.tokens.shape[1] :].clone()
        return y, WindowState(last, (state.n_time_points + n_time_points).clamp(max=window - 1))

    def _read(self, windows: Tensor, is_valid: Tensor) -> Float[Tensor, "N P D"]:
        for layer in self.layers[:-1]:
            windows = layer(windows, is_valid, n_query_time_points=self.config.window_time_points)
        last: Tensor = self.layers[-1](windows, is_valid, n_query_time_points=1)
        return last


class Transformer(Backbone):
    """Attention over the last time points without a memory: the comparison model that reads windows.

    Parameters
    ----------
    config : TransformerConfig
    """

    config_class = TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, (WindowStack(config),))
