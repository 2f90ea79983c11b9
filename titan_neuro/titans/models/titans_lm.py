"""A language model over any variant: token ids in, logits out, text generated with a state of fixed size."""

from __future__ import annotations

from typing import Literal, overload

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.titans.models.backbone import Backbone, BackboneState
from titan_neuro.titans.models.config import TitansLMConfig
from titan_neuro.titans.pretrained import Pretrained


class TitansLM(Pretrained):
    """An embedding, a backbone, and logits for the next token.

    ``logits = model(input_ids)``; ``loss = model(input_ids, return_loss=True)``; ``ids = model.generate(prompt, 50)``.
    To read a text in several calls, pass the state on: ``logits, state = model(input_ids, state=state,
    return_state=True)``.

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
        # The backbone's outputs have the length dim^(1/2): the initial logits have a standard deviation of 1.
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        self.backbone: Backbone = config.backbone.build()
        self.head = None if config.tie_embeddings else nn.Linear(dim, config.vocab_size, bias=False)

    @overload
    def forward(
        self,
        input_ids: Tensor,
        *,
        state: BackboneState | None = None,
        return_loss: bool = False,
        return_state: Literal[False] = False,
        memory_frozen: bool = False,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        input_ids: Tensor,
        *,
        state: BackboneState | None = None,
        return_loss: bool = False,
        return_state: Literal[True],
        memory_frozen: bool = False,
    ) -> tuple[Tensor, BackboneState]: ...

    def forward(
        self,
        input_ids: Shaped[Tensor, "batch tokens"],
        *,
        state: BackboneState | None = None,
        return_loss: bool = False,
        return_state: bool = False,
        memory_frozen: bool = False,
    ) -> Float[Tensor, "*shape"] | tuple[Float[Tensor, "*shape"], BackboneState]:
        """Predict the next token at every token.

        Parameters
        ----------
        input_ids : torch.Tensor
            int64, ``(batch, tokens)``, at least one token; with `return_loss` at least two.
        state : BackboneState, optional
            From the previous call with `return_state`; by default the start of the texts.
        return_loss : bool
            Return the cross-entropy instead of the logits.
        return_state : bool
            Return the state after the last token, too.
        memory_frozen : bool
            Read the memories without writing; see `Backbone`.

        Returns
        -------
        logits : torch.Tensor
            ``(batch, tokens, vocab_size)``: ``[:, t]`` predicts the token after ``input_ids[:, t]``. With `return_loss`
            a scalar instead: the mean cross-entropy, in nats, of all tokens but the first of each text.
        state : BackboneState
            Only with `return_state`.

        Raises
        ------
        MismatchError
            Ids of another type, rank or range, or a state of another model or batch size.
        """
        self._check("input_ids", input_ids, at_least=2 if return_loss else 1)
        result, state = self._logits(input_ids, state, memory_frozen=memory_frozen)
        if return_loss:
            result = F.cross_entropy(result[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())
        return (result, state) if return_state else result

    @overload
    def generate(
        self,
        prompt: Tensor,
        n_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
        state: BackboneState | None = None,
        return_state: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def generate(
        self,
        prompt: Tensor,
        n_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
        state: BackboneState | None = None,
        return_state: Literal[True],
    ) -> tuple[Tensor, BackboneState]: ...

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
        return_state: bool = False,
    ) -> Int[Tensor, "batch new"] | tuple[Int[Tensor, "batch new"], BackboneState]:
        """Continue texts token by token, in memory that does not grow with the text.

        What it returns are inference tensors, which can't be used where autograd is to record: clone them first.

        Parameters
        ----------
        prompt : torch.Tensor
            int64, ``(batch, tokens)``, at least one token.
        n_tokens : int
            Number of new tokens, at least 1.
        temperature : float
            0 selects the most likely token; above 0 tokens are sampled from ``softmax(logits / temperature)``.
        top_k : int, optional
            Sample among this many most likely tokens, 1 to ``vocab_size``; by default among all.
        generator : torch.Generator, optional
            Random numbers; by default torch's own, on the model's device.
        state : BackboneState, optional
            The state before the prompt; by default the start of the texts.
        return_state : bool
            Return the state, too.

        Returns
        -------
        ids : torch.Tensor
            int64, ``(batch, n_tokens)``: the new tokens, without the prompt.
        state : BackboneState
            Only with `return_state`: after the prompt and all new tokens but the last. ``generate(ids[:, -1:], ...,
            state=state)`` continues as if there had been one call.

        Raises
        ------
        ConfigError
            `n_tokens`, `temperature` or `top_k` out of range.
        MismatchError
            Ids of another type, rank or range, or a state of another model or batch size.
        """
        self._check_sampling(n_tokens, temperature, top_k)
        self._check("prompt", prompt)
        new, ids = list[Tensor](), prompt
        while len(new) < n_tokens:
            logits, state = self._logits(ids, state, last_only=True)
            ids = _sample(logits[:, -1], temperature, top_k, generator)
            new.append(ids)
        result = torch.cat(new, dim=1)
        return (result, state) if return_state and state is not None else result

    def _logits(
        self, ids: Tensor, state: BackboneState | None, *, memory_frozen: bool = False, last_only: bool = False
    ) -> tuple[Tensor, BackboneState]:
        tokens, state = self.backbone(self.embedding(ids), state, memory_frozen=memory_frozen)
        weight = self.embedding.weight if self.head is None else self.head.weight
        return F.linear(tokens[:, -1:] if last_only else tokens, weight), state

    def _check_sampling(self, n_tokens: int, temperature: float, top_k: int | None) -> None:
        if n_tokens < 1:
            raise ConfigError(f"n_tokens: expected at least 1, found {n_tokens}.")
        if not temperature >= 0:
            raise ConfigError(f"temperature: expected 0 (the most likely token) or more, found {temperature}.")
        if top_k is not None and not 1 <= top_k <= self.config.vocab_size:
            raise ConfigError(f"top_k: expected 1 to {self.config.vocab_size} (the vocabulary), found {top_k}.")

    def _check(self, name: str, ids: Tensor, at_least: int = 1) -> None:
        if not isinstance(ids, Tensor):
            raise MismatchError(f"{name}: expected a torch.Tensor, int64 (batch, tokens), found {type(ids).__name__}.")
        if ids.dtype != torch.int64 or ids.ndim != 2:
            raise MismatchError(
                f"{name}: expected int64 (batch, tokens), found {ids.dtype} of shape {tuple(ids.shape)}."
            )
        if not len(ids) or ids.shape[1] < at_least:
            wanted = "one token" if at_least == 1 else "two tokens, the second of which is predicted"
            raise MismatchError(f"{name}: expected at least {wanted}, found shape {tuple(ids.shape)}.")
        # A compiled graph can't branch on values.
        if torch.compiler.is_compiling():
            return
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.config.vocab_size:
            raise MismatchError(
                f"{name}: expected token ids from 0 to {self.config.vocab_size - 1}, found {low} to {high}."
            )


def _sample(
    logits: Float[Tensor, "batch vocab"], temperature: float, top_k: int | None, generator: torch.Generator | None
) -> Int[Tensor, "batch 1"]:
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    top_logits, ids = logits.topk(top_k or logits.shape[-1], dim=-1)
    probabilities = torch.softmax(top_logits.float() / temperature, dim=-1)
    return ids.gather(1, torch.multinomial(probabilities, 1, generator=generator))
