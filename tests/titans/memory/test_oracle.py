"""The memory against titans-pytorch, which computes the same with a weight matrix for every token."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titan_neuro.titans.memory import init_state, memory_scan

BATCH, HEADS, HEAD_DIM, N_TOKENS = 2, 3, 4, 37


class SiluMLP(nn.Module):
    """The paper's memory; titans-pytorch's own has GELU."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        dims = [HEAD_DIM] + [2 * HEAD_DIM] * (depth - 1) + [HEAD_DIM]
        shapes = zip(dims[1:], dims[:-1], strict=True)
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros(shape)) for shape in shapes])

    def forward(self, x: Tensor) -> Tensor:
        for layer, weight in enumerate(self.weights):
            x = (F.silu(x) if layer else x) @ weight.mT
        return x


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("backend", ["naive", "chunked", "native"])
@pytest.mark.parametrize(
    ("depth", "chunk_size"),
    [
        pytest.param(
            depth, chunk_size, marks=() if (depth, chunk_size) in ((1, 1), (2, 5), (3, 16)) else pytest.mark.slow
        )
        for depth in (1, 2, 3)
        for chunk_size in (1, 5, 16)
    ],
)
def test_titans_pytorch_computes_the_same(backend: str, depth: int, chunk_size: int) -> None:
    titans_pytorch = pytest.importorskip("titans_pytorch", reason="titans-pytorch comes with the extra [dev]")
    torch.manual_seed(depth)
    peer = titans_pytorch.NeuralMemory(
        dim=HEADS * HEAD_DIM,
        heads=HEADS,
        dim_head=HEAD_DIM,
        chunk_size=1,
        batch_size=chunk_size,
        model=SiluMLP(depth),
        mem_model_norm_add_residual=False,
        pre_rmsnorm=False,
        store_memory_loss_fn=lambda prediction, target: (prediction - target).square().sum(-1),
        default_step_transform_max_lr=0.02,
    )
    # What it does after the read is not the memory's: leave the heads as they are.
    peer.combine_heads, peer.retrieve_gate = nn.Identity(), None
    peer = peer.double()
    for weight in peer.memory_model_parameters:
        nn.init.normal_(weight, std=0.5)
    x = torch.randn(BATCH, N_TOKENS, HEADS * HEAD_DIM, dtype=torch.float64)
    expected, peer_state = peer(x)

    def heads(tensor: Tensor) -> Tensor:
        return tensor.view(BATCH, N_TOKENS, HEADS, -1).transpose(1, 2)

    queries, keys, values = (heads(project(x)) for project in (peer.to_queries, peer.to_keys, peer.to_values))
    alpha, eta, theta = (
        heads(gate[0](x)).squeeze(-1).sigmoid()
        for gate in (peer.to_decay_factor, peer.to_momentum, peer.to_adaptive_step)
    )
    state = init_state(tuple(peer.memory_model_parameters), BATCH)
    outputs, state = memory_scan(
        queries, keys, values, alpha, eta, 0.02 * theta, state, chunk_size=chunk_size, backend=backend
    )
    last_weights, last_momentum = peer_state.states
    pairs = [(outputs.transpose(1, 2).flatten(2), expected)]
    pairs += [(mine.flatten(0, 1), theirs) for mine, theirs in zip(state.weights, last_weights.values(), strict=True)]
    pairs += [
        (mine.flatten(0, 1), theirs[0]) for mine, theirs in zip(state.momentum, last_momentum.values(), strict=True)
    ]
    directions = [torch.randn_like(theirs) for _, theirs in pairs]
    parameters = [p for name, p in peer.named_parameters() if not name.startswith("memory_model.")]
    gradients = (
        torch.autograd.grad(sum((d * pair[which]).sum() for d, pair in zip(directions, pairs, strict=True)), parameters)
        for which in (0, 1)
    )
    pairs += zip(*gradients, strict=True)
    for mine, theirs in pairs:
        assert (mine - theirs).abs().max() < 1e-12 * theirs.abs().max()
