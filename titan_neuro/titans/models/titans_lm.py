"""A language model over any variant: token ids in, logits out, and text that is continued at constant memory."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from pydantic import Field
from torch import Tensor, nn

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.titans.config import settings
from titan_neuro.titans.models.backbone import Backbone, BackboneState
from titan_neuro.titans.models.mac import MACConfig
from titan_neuro.titans.models.variants import AnyBackboneConfig, require_causal
from titan_neuro.titans.pretrained import Pretrained


@settings
class TitansLMConfig:
    """The whole model.

    Attributes
    ----------
    vocab_size : int
        Token ids are 0 to ``vocab_size - 1``.
    backbone : LMMConfig, MACConfig, MAGConfig, MALConfig, GRUConfig or TransformerConfig
        Chosen by ``variant``; one token a time point.
    tie_embeddings : bool
        Logits are read off with the embedding's own vectors.
    """

    vocab_size: Annotated[int, Field(ge=1)]
    backbone: AnyBackboneConfig = MACConfig(tokens_per_time_point=1)
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        if self.backbone.tokens_per_time_point != 1:
            raise ConfigError(
                f"TitansLMConfig: backbone.tokens_per_time_point: expected 1, found {self.backbone.tokens_per_time_point}.",
                "Text has one token at a time; tokens of one time point would see each other.",
            )
        require_causal(self.backbone, "TitansLMConfig")

    def build(self) -> TitansLM:
        """Make the model."""
        return TitansLM(self)


class TitansLM(Pretrained):
    """An embedding, a backbone, and logits for the token that comes next.

    Parameters
    ----------
    config : TitansLMConfig
    """

    config_class = TitansLMConfig

    def __init__(self, config: TitansLMConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.backbone.dim
        self.embedding = nn.Embedding(config.vocab_size, dim)
        # The backbone ends in tokens of length dim^(1/2): logits begin with a deviation of 1.
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        self.backbone: Backbone = config.backbone.build()
        self.head = None if config.tie_embeddings else nn.Linear(dim, config.vocab_size, bias=False)

    def forward(
        self, ids: Shaped[Tensor, "batch tokens"], state: BackboneState | None = None, *, memory_frozen: bool = False
    ) -> tuple[Float[Tensor, "batch tokens vocab"], BackboneState]:
        """Read the next tokens.

        Parameters
        ----------
        ids : torch.Tensor
            int64, ``(batch, tokens)``, at least one token.
        state : BackboneState, optional
            What the call before returned; by default the start of the texts.
        memory_frozen : bool
            Read the memories, write nothing; see `Backbone`.

        Returns
        -------
        logits : torch.Tensor
            ``(batch, tokens, vocab_size)``: ``[:, t]`` is about the token after ``ids[:, t]``.
        state : BackboneState

        Raises
        ------
        MismatchError
            Ids of another type, shape or range, or a state of another model or batch size.
        """
        self._check("ids", ids)
        return self._read(ids, state, memory_frozen=memory_frozen)

    @torch.inference_mode()
    def generate(
        self,
        prompt: Shaped[Tensor, "batch tokens"],
        n_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
        state: BackboneState | None = None,
    ) -> tuple[Int[Tensor, "batch new"], BackboneState]:
        """Continue texts token by token; no step takes more memory than the one before.

        Parameters
        ----------
        prompt : torch.Tensor
            int64, ``(batch, tokens)``, at least one token.
        n_tokens : int
            New tokens, at least 1.
        temperature : float
            0 takes the likeliest token; above 0 tokens are drawn from ``softmax(logits / temperature)``.
        top_k : int, optional
            Draw among so many likeliest tokens, 1 to ``vocab_size``; by default among all.
        generator : torch.Generator, optional
            Where chance comes from; by default torch's own, on the model's device.
        state : BackboneState, optional
            What was read before the prompt; by default nothing.

        Returns
        -------
        ids : torch.Tensor
            int64, ``(batch, n_tokens)``: the new tokens.
        state : BackboneState
            After the prompt and all new tokens but the last. ``generate(ids[:, -1:], ..., state=state)`` goes on as if
            it had never stopped.

        Raises
        ------
        ConfigError
            A number of tokens, a temperature or a `top_k` out of its range.
        MismatchError
            Ids of another type, shape or range, or a state of another model or batch size.
        """
        if n_tokens < 1:
            raise ConfigError(f"n_tokens: expected at least 1, found {n_tokens}.")
        if not temperature >= 0:
            raise ConfigError(f"temperature: expected 0 (the likeliest token) or more, found {temperature}.")
        if top_k is not None and not 1 <= top_k <= self.config.vocab_size:
            raise ConfigError(f"top_k: expected 1 to {self.config.vocab_size} (the vocabulary), found {top_k}.")
        self._check("prompt", prompt)
        logits, state = self._read(prompt, state, last_only=True)
        found = [_choose(logits[:, -1], temperature, top_k, generator)]
        while len(found) < n_tokens:
            logits, state = self._read(found[-1], state)
            found.append(_choose(logits[:, -1], temperature, top_k, generator))
        return torch.cat(found, dim=1), state

    def _read(
        self, ids: Tensor, state: BackboneState | None, *, memory_frozen: bool = False, last_only: bool = False
    ) -> tuple[Tensor, BackboneState]:
        tokens, state = self.backbone(self.embedding(ids), state, memory_frozen=memory_frozen)
        weight = self.embedding.weight if self.head is None else self.head.weight
        return F.linear(tokens[:, -1:] if last_only else tokens, weight), state

    def _check(self, name: str, ids: Tensor) -> None:
        if ids.dtype != torch.int64 or ids.ndim != 2:
            raise MismatchError(
                f"{name}: expected int64 (batch, tokens), found {ids.dtype} of shape {tuple(ids.shape)}."
            )
        if not ids.numel():
            raise MismatchError(f"{name}: expected at least one token, found shape {tuple(ids.shape)}.")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.config.vocab_size:
            raise MismatchError(
                f"{name}: expected token ids from 0 to {self.config.vocab_size - 1}, found {low} to {high}."
            )


def _choose(
    logits: Float[Tensor, "batch vocab"], temperature: float, top_k: int | None, generator: torch.Generator | None
) -> Int[Tensor, "batch 1"]:
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    likeliest, ids = logits.topk(top_k or logits.shape[-1], dim=-1)
    chances = torch.softmax(likeliest.float() / temperature, dim=-1)
    return ids.gather(1, torch.multinomial(chances, 1, generator=generator))
