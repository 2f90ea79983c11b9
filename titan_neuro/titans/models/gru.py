"""The recurrent comparison model (GRU): gated recurrent units instead of the memory."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from titan_neuro.titans.layers import FeedForward
from titan_neuro.titans.layers.norm import RMSNorm
from titan_neuro.titans.models.backbone import Backbone, Block
from titan_neuro.titans.models.config import GRUConfig
from titan_neuro.titans.stream_state import StreamState

# Initial time constants of the units, in time points.
_FASTEST, _SLOWEST = 2.0, 512.0


@dataclasses.dataclass(frozen=True)
class GRUState(StreamState):
    """What one block carries from one call to the next.

    Attributes
    ----------
    hidden : torch.Tensor
        Hidden states, ``(batch, tokens_per_time_point, dim)``.
    """

    hidden: Float[Tensor, "B P D"]


class GRUBlock(Block[GRUState]):
    """One residual layer: ``x + W h(norm(x))``, then a feed-forward part, ``x + ff(norm(x))``.

    ``h`` is `torch.nn.GRU` (Cho et al. 2014, arXiv:1406.1078). The tokens at one index of all time points form one
    sequence; all sequences share the weights, and each also reads the mean of its time point's tokens. The initial
    update gates give the units time constants from 2 to 512 time points, evenly spaced on a log scale (Tallec and
    Ollivier 2018, arXiv:1804.11188), like the half-lives of the memories: with torch's initial biases every unit
    forgets within two time points.

    Parameters
    ----------
    config : GRUConfig
    """

    def __init__(self, config: GRUConfig) -> None:
        super().__init__()
        self.dim, self.tokens_per_time_point = config.dim, config.tokens_per_time_point
        self.mixer_norm = RMSNorm(config.dim)
        self.recurrence = nn.GRU(
            (1 if config.tokens_per_time_point == 1 else 2) * config.dim, config.dim, batch_first=True
        )
        self.output = nn.Linear(config.dim, config.dim, bias=False)
        self.feed_forward_norm = RMSNorm(config.dim)
        self.feed_forward = FeedForward(config.dim, width=config.ff_width)
        self._init_update_gates()

    def _init_update_gates(self) -> None:
        """With an update gate of ``sigmoid(b)``, ``b = log(tau - 1)``, a unit keeps a fraction of ``1 - 1 / tau``."""
        tau = _FASTEST * (_SLOWEST / _FASTEST) ** torch.linspace(0, 1, self.dim)
        weights = dict(self.recurrence.named_parameters())
        with torch.no_grad():
            weights["bias_hh_l0"].zero_()
            weights["bias_ih_l0"].zero_()[self.dim : 2 * self.dim] = torch.log(tau - 1)
            for gate in range(3):
                nn.init.orthogonal_(weights["weight_hh_l0"][gate * self.dim : (gate + 1) * self.dim])

    def init_state(self, batch_size: int) -> GRUState:
        """State before the first time point of `batch_size` streams: zeros."""
        return GRUState(self.output.weight.new_zeros(batch_size, self.tokens_per_time_point, self.dim))

    def forward(self, x: Float[Tensor, "B T D"], state: GRUState) -> tuple[Float[Tensor, "B T D"], GRUState]:
        """Run the block over the next time points, ``(batch, tokens, dim)``; see `Block.forward`."""
        tokens = self.mixer_norm(x).unflatten(1, (-1, self.tokens_per_time_point))
        if self.tokens_per_time_point > 1:
            tokens = torch.cat([tokens, tokens.mean(dim=2, keepdim=True).expand_as(tokens)], dim=-1)
        streams = tokens.transpose(1, 2).flatten(0, 1)
        outputs, hidden = self.recurrence(streams, state.hidden.flatten(0, 1)[None].contiguous())
        outputs = outputs.unflatten(0, (len(x), -1)).transpose(1, 2).flatten(1, 2)
        x = x + self.output(outputs)
        return x + self.feed_forward(self.feed_forward_norm(x)), GRUState(hidden[0].unflatten(0, (len(x), -1)))


class GRU(Backbone):
    """Gated recurrent units, stacked: a comparison model whose weights are fixed at test time.

    Parameters
    ----------
    config : GRUConfig
    """

    config_class = GRUConfig

    def __init__(self, config: GRUConfig) -> None:
        super().__init__(config, (GRUBlock(config) for _ in range(config.n_layers)))
