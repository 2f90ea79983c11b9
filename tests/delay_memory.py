"""A backbone whose memory is known, for probes that must find what it holds."""

import dataclasses

import torch

from titan_neuro.titans.models import BackboneState


@dataclasses.dataclass(frozen=True)
class DelayState(BackboneState):
    """What is still on its way."""

    past: torch.Tensor


class Delay(torch.nn.Module):
    """Recall the token `reach` time points back, and nothing where its stream began later."""

    def __init__(self, reach, n_features):
        super().__init__()
        self.reach, self.n_features = reach, n_features

    def init_state(self, batch):
        return DelayState({}, (), torch.zeros(batch, self.reach, self.n_features))

    def forward(self, tokens, state=None, *, memory_frozen=False):
        state = state or self.init_state(len(tokens))
        both = torch.cat([state.past, tokens], dim=1)
        return both[:, : tokens.shape[1]], DelayState({}, (), both[:, tokens.shape[1] :])
