"""The language model: generation follows its logits, with a state of constant size."""

import dataclasses

import pytest
import torch

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.titans.layers import NeuralMemoryConfig
from titan_neuro.titans.models import LMMConfig, MACConfig, MAGConfig, MALConfig, TitansLMConfig

VOCAB = 11
SIZES = {"dim": 16, "tokens_per_time_point": 1, "memory": NeuralMemoryConfig(n_heads=2, chunk_time_points=2)}
BACKBONES = {
    "lmm": LMMConfig(**SIZES),
    "mac": MACConfig(segment_time_points=4, n_heads=2, n_longterm=2, **SIZES),
    "mag": MAGConfig(window_time_points=5, n_heads=2, **SIZES),
    "mal": MALConfig(window_time_points=5, n_heads=2, **SIZES),
}


def make(variant, **options):
    torch.manual_seed(0)
    return TitansLMConfig(vocab_size=VOCAB, backbone=BACKBONES[variant], **options).build().double()


@pytest.fixture(params=BACKBONES)
def model(request):
    return make(request.param)


@pytest.fixture
def prompt():
    return torch.randint(VOCAB, (2, 7), generator=torch.Generator().manual_seed(1))


def stored_bytes(state):
    if isinstance(state, torch.Tensor):
        return state.untyped_storage().nbytes() if state.numel() else 0
    parts = state if isinstance(state, tuple) else vars(state).values() if dataclasses.is_dataclass(state) else ()
    return sum(map(stored_bytes, parts))


def test_greedy_generation_equals_repeated_argmax(model, prompt):
    ids = model.generate(prompt, 12)
    text = prompt
    for _ in range(12):
        text = torch.cat([text, model(text)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(ids, text[:, prompt.shape[1] :])


def test_reading_in_pieces_gives_the_same_logits(model, prompt):
    expected = model(prompt)
    first, state = model(prompt[:, :3], return_state=True)
    second = model(prompt[:, 3:], state=state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), expected, rtol=1e-9, atol=1e-11)


def test_no_later_token_changes_a_logit(model, prompt):
    other = prompt.clone()
    other[:, 4] = (other[:, 4] + 1) % VOCAB
    assert torch.equal(model(other)[:, :4], model(prompt)[:, :4])
    assert not torch.equal(model(other)[:, 4:], model(prompt)[:, 4:])


def test_generation_continues_from_its_state(model, prompt):
    whole = model.generate(prompt, 9)
    first, state = model.generate(prompt, 4, return_state=True)
    second = model.generate(first[:, -1:], 5, state=state)
    assert torch.equal(torch.cat([first, second], dim=1), whole)


def test_sampling_is_reproducible(model, prompt):
    def sample(seed, **options):
        return model.generate(prompt, 8, generator=torch.Generator().manual_seed(seed), **options)

    assert torch.equal(sample(0, temperature=1.0), sample(0, temperature=1.0))
    assert not torch.equal(sample(0, temperature=1.0), sample(1, temperature=1.0))
    greedy = model.generate(prompt, 8)
    assert torch.equal(sample(0, temperature=2.0, top_k=1), greedy)
    assert torch.equal(sample(0, temperature=1e-6), greedy)


def test_top_k_limits_the_candidates(prompt):
    model = make("lmm")
    texts = prompt[:1].expand(500, -1)
    samples = model.generate(texts, 1, temperature=5.0, top_k=3, generator=torch.Generator().manual_seed(0))
    top = model(prompt[:1])[0, -1].topk(3).indices
    assert set(samples.flatten().tolist()) == set(top.tolist())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_samples_follow_the_softmax_probabilities(prompt, temperature):
    model = make("lmm")
    generator = torch.Generator().manual_seed(0)
    samples = model.generate(prompt[:1].expand(5000, -1), 1, temperature=temperature, generator=generator)
    probabilities = (model(prompt[:1])[0, -1] / temperature).softmax(-1)
    # Four standard errors.
    allowed = 4 * (probabilities * (1 - probabilities) / 5000).sqrt() + 1e-3
    assert ((samples.flatten().bincount(minlength=VOCAB) / 5000 - probabilities).abs() < allowed).all()


def test_the_state_does_not_grow(model, prompt):
    # Lengths differ by whole segments of 4, so that the open segment has the same length.
    sizes = {stored_bytes(model.generate(prompt, n_tokens, return_state=True)[1]) for n_tokens in (8, 12, 40)}
    assert len(sizes) == 1


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_every_parameter_learns(model, prompt, tie_embeddings):
    model = dataclasses.replace(model.config, tie_embeddings=tie_embeddings).build()
    model(prompt, return_loss=True).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert (model.head is None) == tie_embeddings


def test_a_frozen_memory_is_not_written(prompt):
    model = make("lmm")
    _, state = model(prompt, memory_frozen=True, return_state=True)
    fresh = model.backbone.init_state(2)
    assert torch.equal(state.blocks[0].memory.memory.weights[0], fresh.blocks[0].memory.memory.weights[0])


def test_wrong_input_is_named(prompt):
    model = make("mag")
    with pytest.raises(MismatchError, match=r"input_ids: expected int64 \(batch, tokens\), found torch.float32"):
        model(prompt.float())
    with pytest.raises(MismatchError, match=r"input_ids: expected token ids from 0 to 10, found 0 to 11"):
        model(torch.tensor([[0, 11]]))
    with pytest.raises(MismatchError, match=r"prompt: expected token ids from 0 to 10, found -1 to 3"):
        model.generate(torch.tensor([[-1, 3]]), 2)
    with pytest.raises(MismatchError, match=r"prompt: expected at least one token, found shape \(2, 0\)"):
        model.generate(prompt[:, :0], 2)
    with pytest.raises(ConfigError, match="n_tokens: expected at least 1, found 0"):
        model.generate(prompt, 0)
    for temperature in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"temperature: expected 0 .* or more"):
            model.generate(prompt, 2, temperature=temperature)
    for top_k in (0, VOCAB + 1):
        with pytest.raises(ConfigError, match=r"top_k: expected 1 to 11 \(the vocabulary\), found"):
            model.generate(prompt, 2, temperature=1.0, top_k=top_k)
    with pytest.raises(MismatchError, match="state: expected a batch of 1"):
        model.generate(prompt[:1], 2, state=model(prompt, return_state=True)[1])


def test_inconsistent_settings_are_refused():
    with pytest.raises(ConfigError, match=r"tokens_per_time_point: expected 1, found 3"):
        TitansLMConfig(vocab_size=VOCAB, backbone=dataclasses.replace(BACKBONES["mag"], tokens_per_time_point=3))
    with pytest.raises(ConfigError, match=r"backbone\.causal is False"):
        TitansLMConfig(vocab_size=VOCAB, backbone=dataclasses.replace(BACKBONES["mac"], causal=False))
