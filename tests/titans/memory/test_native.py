"""What only the compiled dual form has: instruction sets, threads, memory layouts, installations without it.

That its results are right is tested with the other backends.
"""

import ctypes
import itertools
import multiprocessing
import subprocess
import sys

import pytest
import torch

from titan_neuro.errors import TitanNeuroError
from titan_neuro.titans.memory import init_state, memory_scan, native

WIDTHS = (24, 40, 20)
"""No multiples of a vector, so that every product has an edge."""


def make(dtype: torch.dtype = torch.float64, n_tokens: int = 75) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(2, 3, n_tokens, width, generator=generator) / 4 for width in (*WIDTHS[:1] * 2, WIDTHS[-1])]
    gates = [scale * torch.rand(2, 3, n_tokens, generator=generator) for scale in (0.2, 0.9, 0.02)]
    weights = [torch.randn(3, d_out, d_in, generator=generator) / 6 for d_in, d_out in itertools.pairwise(WIDTHS)]
    return [x.to(dtype).requires_grad_() for x in (*vectors, *gates, *weights)]


def results(leaves: list[torch.Tensor], backend: str = "native") -> list[torch.Tensor]:
    """Outputs, state and all gradients."""
    state = init_state(tuple(leaves[6:]), 2)
    outputs, state = memory_scan(*leaves[:6], state, chunk_size=33, backend=backend, max_delta_norm=1.0)
    computed = [outputs, *state.weights, *state.momentum, *state.reference]
    return [*computed, *torch.autograd.grad(sum(x.square().sum() for x in computed), leaves)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_all_instruction_sets_compute_the_same(monkeypatch, dtype, tolerance):
    expected = results(make(), "chunked")
    assert native.fastest_instruction_set() == native.library().titan_neuro_count_instruction_sets() - 1
    for instruction_set in range(native.fastest_instruction_set() + 1):
        monkeypatch.setattr(native, "fastest_instruction_set", lambda which=instruction_set: which)
        for computed, wanted in zip(results(make(dtype)), expected, strict=True):
            assert (computed - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_threads_change_nothing():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = results(make())
        torch.set_num_threads(4)
        computed = results(make())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(computed, expected, strict=True))


def test_any_memory_layout_of_the_streams_works():
    expected = results(make())
    leaves = make()
    for n, lie in enumerate(
        [
            # As a linear map over (batch, tokens, width) gives it.
            lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
            lambda x: x.mT.contiguous().mT,
            lambda x: torch.cat([x, x], dim=-1)[..., : x.shape[-1]],
            lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        ]
    ):
        leaves[n] = lie(leaves[n].detach()).requires_grad_()
        assert not leaves[n].is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(results(leaves), expected, strict=True))
    shared = [x[:1, :, :1].detach().expand_as(x) for x in leaves[:6]]
    outputs, again = (
        memory_scan(*streams, init_state(tuple(leaves[6:]), 2), chunk_size=33, backend="native")[0]
        for streams in (shared, [x.contiguous() for x in shared])
    )
    assert torch.equal(outputs, again)


def _results_in_child(queue: multiprocessing.SimpleQueue) -> None:
    queue.put([x.tolist() for x in results(make())])


def test_a_forked_process_computes_the_same():
    torch.set_num_threads(1)
    expected, context = results(make()), multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_results_in_child, args=(queue,))
    child.start()
    computed = queue.get()
    child.join()
    assert all(a == b.tolist() for a, b in zip(computed, expected, strict=True))


def test_auto_selects_the_compiled_form(monkeypatch):
    expected = {backend: results(make(), backend) for backend in ("native", "chunked")}
    assert not torch.equal(expected["native"][0], expected["chunked"][0]), "these numbers don't tell the two apart"
    assert all(torch.equal(a, b) for a, b in zip(results(make(), "auto"), expected["native"], strict=True))
    monkeypatch.setattr(native, "IS_COMPILED", False)
    assert all(torch.equal(a, b) for a, b in zip(results(make(), "auto"), expected["chunked"], strict=True))


def test_code_of_another_version_is_refused(monkeypatch):
    native.library.cache_clear()
    monkeypatch.setattr(ctypes, "sizeof", lambda _: 8)
    with pytest.raises(TitanNeuroError, match=r"_native.*: expected calls of 8 bytes, found \d+: .* another version"):
        native.library()
    monkeypatch.undo()
    native.library()


NO_MEMORY = """
import resource
import torch
from titan_neuro.titans.memory import init_state, memory_scan

torch.set_num_threads(1)
n = 2**17
streams = [torch.zeros(1, 1, n, 4)] * 3 + [torch.zeros(1, 1, n)] * 3
state = init_state((torch.zeros(1, 4, 4),), 1)
memory_scan(*streams, state, chunk_size=64)
resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
try:
    memory_scan(*streams, state, chunk_size=n, backend="native")
except MemoryError as error:
    print(error)
"""


def test_chunks_too_large_for_memory_raise():
    done = subprocess.run([sys.executable, "-c", NO_MEMORY], capture_output=True, text=True, check=False)
    assert "Not enough memory for a scan of 1 chunks of 131072 tokens." in done.stdout, done.stderr
