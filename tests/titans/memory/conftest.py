"""Streams of random tokens for the memory, in stable dynamics: unstable ones amplify rounding errors."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from titan_neuro.titans.memory import MemoryState, memory_scan


@dataclass
class Stream:
    """Tokens and a state with momentum; all tensors are leaves that require gradients."""

    tokens: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    momentum: tuple[Tensor, ...]

    @property
    def leaves(self) -> list[Tensor]:
        return [*self.tokens, *self.weights, *self.momentum]

    @property
    def state(self) -> MemoryState:
        return MemoryState(self.weights, self.momentum, self.weights, 0)

    @torch.no_grad()
    def fill_gates(self, alpha: float | str, eta: float) -> None:
        """Set the gates to one value, or `alpha` to a mixture of 0, 1 and what it was."""
        if alpha == "mixed":
            self.tokens[3][..., ::3] = 1.0
            self.tokens[3][..., 1::3] = 0.0
        else:
            self.tokens[3].fill_(alpha)
        self.tokens[4].fill_(eta)
        # Without forgetting a constant momentum grows: small steps keep it small within the test.
        self.tokens[5].mul_(0.02)

    def scan(self, cuts: tuple[int, ...] = (), **options: object) -> list[Tensor]:
        """Outputs and the final state's tensors, the stream cut into calls at the given tokens."""
        state, outputs = self.state, []
        bounds = [0, *cuts, self.tokens[0].shape[2]]
        for start, stop in itertools.pairwise(bounds):
            output, state = memory_scan(*(x[:, :, start:stop] for x in self.tokens), state, **options)
            outputs.append(output)
        return [torch.cat(outputs, dim=2), *state.weights, *state.momentum, *state.reference]

    def scan_with_gradients(self, **options: object) -> list[Tensor]:
        results = self.scan(**options)
        generator = torch.Generator().manual_seed(1)
        loss = sum((r * torch.randn(r.shape, generator=generator, dtype=torch.float64)).sum() for r in results)
        return [x.detach() for x in (*results, *torch.autograd.grad(loss, self.leaves))]


@pytest.fixture
def make_stream() -> Callable[..., Stream]:
    def make(depth: int, n_tokens: int, dtype: torch.dtype = torch.float64, chunk_size: int = 16) -> Stream:
        generator = torch.Generator().manual_seed(100 * depth + n_tokens)

        def randn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        batch, heads, dim = 2, 2, 4
        queries, keys = (F.normalize(randn(batch, heads, n_tokens, dim), dim=-1) for _ in range(2))
        values = randn(batch, heads, n_tokens, dim)
        alpha = torch.sigmoid(randn(batch, heads, n_tokens) - 3)
        eta = 0.9 * torch.sigmoid(randn(batch, heads, n_tokens))
        theta = torch.sigmoid(randn(batch, heads, n_tokens)) * (1 - eta) / (2 * chunk_size)
        widths = [dim] + [2 * dim] * (depth - 1) + [dim]
        shapes = list(zip(widths[1:], widths[:-1], strict=True))
        weights = [randn(batch, heads, *shape) * shape[1] ** -0.5 for shape in shapes]
        momentum = [0.01 * randn(batch, heads, *shape) for shape in shapes]
        leaves = [x.to(dtype).requires_grad_() for x in (queries, keys, values, alpha, eta, theta, *weights, *momentum)]
        return Stream(tuple(leaves[:6]), tuple(leaves[6 : 6 + depth]), tuple(leaves[6 + depth :]))

    return make


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Fill every uninitialized tensor of torch with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
