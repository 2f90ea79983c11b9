"""The two sides that memory_speed.py compares: our memory and that of titans-pytorch, and the gate between them.

Two kinds of comparison:

``memory``
    The peer's maps for queries, keys, values and output are replaced by identities and its gate after the read is off;
    the linear maps for the three gates stay, on both sides. What is demanded refers to this kind: the maps are the same
    matrix products on both sides and say nothing about the memory, but the wider a token, the more of the time is
    theirs, and the nearer to 1 they draw any ratio.
``layer``
    The layers as they are used, each with what it has around its memory (ours: convolutions and an output gate).
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from common import BenchmarkError
from torch import Tensor, nn

from titan_neuro.titans.memory import Backend, MemoryState, init_state, memory_scan

HEADS, CHUNK, EXPANSION, MAX_STEP = 4, 64, 2, 0.01
TOLERANCE = 1e-10
Kind = Literal["memory", "layer"]


class SiluMLP(nn.Module):
    """The paper's memory, in the form that titans-pytorch takes; its own has GELU."""

    def __init__(self, head_dim: int, depth: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(initial_weights(head_dim, depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer, weight in enumerate(self.weights):
            x = (F.silu(x) if layer else x) @ weight.mT
        return x


class Memory(nn.Module):
    """Our memory with the linear maps of its gates; a token's shares are its heads' queries, keys and values alike."""

    def __init__(self, width: int, depth: int, backend: Backend) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            weight.expand(HEADS, -1, -1).clone() for weight in initial_weights(width // HEADS, depth)
        )
        self.gates = nn.Linear(width, 3 * HEADS)
        self.maps = nn.ModuleList(nn.Identity() for _ in range(3))
        self.backend = backend

    def copy_from(self, peer: nn.Module) -> Memory:
        """Take over the parameters and the maps of a `titans_pytorch.NeuralMemory`."""
        linears = [gate[0] for gate in (peer.to_decay_factor, peer.to_momentum, peer.to_adaptive_step)]
        with torch.no_grad():
            self.gates.weight.copy_(torch.cat([linear.weight for linear in linears]))
            self.gates.bias.copy_(torch.cat([linear.bias for linear in linears]))
            for mine, theirs in zip(self.weights, peer.memory_model_parameters, strict=True):
                mine.copy_(theirs)
        self.maps = nn.ModuleList(copy.deepcopy(part) for part in (peer.to_queries, peer.to_keys, peer.to_values))
        return self

    def forward(self, x: Tensor, state: MemoryState | None = None) -> tuple[Tensor, MemoryState]:
        """``(batch, tokens, width)`` to the same, and the memory after it."""
        state = init_state(tuple(self.weights), len(x)) if state is None else state
        streams = (part(x).view(*x.shape[:2], HEADS, -1).transpose(1, 2) for part in self.maps)
        alpha, eta, theta = self.gates(x).sigmoid().mT.chunk(3, dim=1)
        y, state = memory_scan(*streams, alpha, eta, MAX_STEP * theta, state, chunk_size=CHUNK, backend=self.backend)
        return y.transpose(1, 2).flatten(2), state


def initial_weights(head_dim: int, depth: int) -> list[Tensor]:
    widths = [head_dim] + [EXPANSION * head_dim] * (depth - 1) + [head_dim]
    return [torch.randn(d_out, d_in) * d_in**-0.5 for d_in, d_out in itertools.pairwise(widths)]


def ours(kind: Kind, width: int, depth: int, backend: Backend = "auto") -> nn.Module:
    """Our side of a comparison: a module from ``(batch, tokens, width)`` and a state to the same."""
    if kind == "memory":
        return Memory(width, depth, backend)
    # Where only the memory is measured, as on a bare GPU machine, its layer's dependencies need not be there.
    from titan_neuro.titans.layers.config import NeuralMemoryConfig

    config = NeuralMemoryConfig(
        n_heads=HEADS, depth=depth, expansion=EXPANSION, chunk_time_points=CHUNK, max_delta_norm=None, backend=backend
    )
    return config.build(dim=width, tokens_per_time_point=1)


def peer(kind: Kind, width: int, depth: int, *, is_exact: bool) -> nn.Module:
    """titans-pytorch's side: its exact mode, which is our mathematics, or the coarser one that it is mostly used in.

    Raises
    ------
    BenchmarkError
        It is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from titans_pytorch import NeuralMemory
    except ImportError as error:
        raise BenchmarkError("titans-pytorch, the peer, is not installed.", "pip install -e '.[dev]'") from error
    module: nn.Module = NeuralMemory(
        dim=width,
        heads=HEADS,
        dim_head=width // HEADS,
        chunk_size=1 if is_exact else CHUNK,
        batch_size=CHUNK,
        model=SiluMLP(width // HEADS, depth),
        mem_model_norm_add_residual=False,
        pre_rmsnorm=kind == "layer",
        store_memory_loss_fn=lambda prediction, target: (prediction - target).square().sum(-1),
        default_step_transform_max_lr=MAX_STEP,
    )
    if kind == "memory":
        _without_maps(module)
        module.to_queries, module.to_keys, module.to_values = (nn.Identity() for _ in range(3))
    return module


def _without_maps(module: nn.Module) -> None:
    """Leave the heads as they are read: no gate, no map behind them."""
    module.combine_heads, module.retrieve_gate = nn.Identity(), None


def tokens(width: int, n_tokens: int, batch: int = 1) -> Tensor:
    """Random tokens, small enough for a stable memory."""
    return torch.randn(batch, n_tokens, width) / 8


def train_step(module: nn.Module, x: Tensor) -> None:
    """Forward and backward, to the parameters and to the tokens."""
    module.zero_grad(set_to_none=True)
    y, _ = module(x.detach().requires_grad_())
    y.square().mean().backward()


def check_same_numbers(width: int, depth: int, n_tokens: int = 2 * CHUNK + 22) -> float:
    """The gate: on the peer's own parameters our memory gives the outputs and gradients of its exact mode.

    Both as they are timed, and with the peer's maps, which make queries, keys and values differ.

    Returns
    -------
    float
        Greatest error, relative to the largest number compared.

    Raises
    ------
    BenchmarkError
        It is above `TOLERANCE`.
    """
    torch.manual_seed(0)
    worst = 0.0
    for has_maps in (False, True):
        theirs = peer("memory", width, depth, is_exact=True)
        if has_maps:
            theirs.to_queries, theirs.to_keys, theirs.to_values = (nn.Linear(width, width, bias=False) for _ in "qkv")
        theirs = theirs.double()
        for weight in theirs.memory_model_parameters:
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
        mine = Memory(width, depth, "auto").double().copy_from(theirs)
        x = tokens(width, n_tokens).double()
        worst = max(worst, difference(*(_outputs_and_gradients(side, x) for side in (mine, theirs))))
    if not worst < TOLERANCE:
        raise BenchmarkError(
            f"width {width}, L {depth}: outputs and gradients differ from titans-pytorch's by {worst:.1e}, allowed are "
            f"{TOLERANCE:.0e}. Nothing is timed.",
            "Is it titans-pytorch 0.5.5? Do the tests in tests/titans/memory pass?",
        )
    return worst


def _outputs_and_gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y, _ = module(x)
    weights = getattr(module, "memory_model_parameters", None) or module.weights
    return [y, *torch.autograd.grad(y.square().mean(), [x, *weights])]


def difference(mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    pairs = zip(mine, theirs, strict=True)
    # A NaN has to come out as one: `max` of Python would lose it.
    return torch.stack([(a - b).abs().max() / b.abs().max() for a, b in pairs]).max().item()
