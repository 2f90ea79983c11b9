"""Wrong shapes, ranks, types and states raise our errors, which say what was expected and found."""

import pytest
import torch

from titan_neuro.errors import ConfigError, MismatchError
from titan_neuro.titans import (
    LMMConfig,
    MACConfig,
    MAGConfig,
    MALConfig,
    NeuralMemory,
    NeuralMemoryConfig,
    TitansLM,
    TitansLMConfig,
)
from titan_neuro.titans.memory import init_state, memory_read, memory_scan

pytestmark = pytest.mark.usefixtures("without_shape_checks")
CONFIGS = [LMMConfig, MACConfig, MAGConfig, MALConfig]
MODELS = [lambda config=config: config(dim=16, n_layers=1, tokens_per_time_point=2).build() for config in CONFIGS]
MODELS.append(lambda: NeuralMemory(NeuralMemoryConfig(), dim=16, tokens_per_time_point=2))


@pytest.mark.parametrize("build", MODELS)
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(8, 16), r"x: expected \(batch, tokens, 16\) with whole time points of 2 tokens, found \(8, 16\)"),
        (torch.zeros(2, 8, 15), r"found \(2, 8, 15\)"),
        (torch.zeros(2, 7, 16), r"found \(2, 7, 16\)"),
        (torch.zeros(2, 0, 16), r"found \(2, 0, 16\)"),
        (torch.zeros(2, 8, 16, dtype=torch.float64), r"x: expected torch\.float32, .* found torch\.float64"),
        (torch.zeros(2, 8, 16, dtype=torch.int64), r"x: expected torch\.float32, .* found torch\.int64"),
        ([[0.0]], r"x: expected a torch\.Tensor \(batch, tokens, 16\), found list"),
    ],
)
def test_wrong_tokens_are_named(build, x, message):
    with pytest.raises(MismatchError, match=message):
        build()(x)


@pytest.mark.parametrize("build", MODELS)
def test_a_wrong_state_is_named(build):
    model, x = build(), torch.zeros(2, 8, 16)
    with pytest.raises(MismatchError, match=r"state: expected a (Backbone|NeuralMemory)State, found Tensor"):
        model(x, x)
    with pytest.raises(MismatchError, match="state"):
        model(x, model.init_state(3))


@pytest.mark.parametrize("config", CONFIGS)
def test_a_configuration_of_another_model_is_refused(config):
    model = type(config().build())
    with pytest.raises(ConfigError, match=f"{model.__name__}: config: expected {config.__name__}, found dict"):
        model({"dim": 16})
    with pytest.raises(ConfigError, match=f"config: expected {config.__name__}, found TitansLMConfig"):
        model(TitansLMConfig(vocab_size=3))


def test_language_models_name_wrong_ids_and_states():
    model = TitansLM(TitansLMConfig(vocab_size=9, backbone=LMMConfig(dim=16)))
    with pytest.raises(MismatchError, match=r"input_ids: expected int64 .* found torch\.int64 of shape \(5,\)"):
        model(torch.zeros(5, dtype=torch.int64))
    with pytest.raises(MismatchError, match=r"input_ids: expected a torch\.Tensor, .* found list"):
        model([[1, 2]])
    with pytest.raises(MismatchError, match=r"input_ids: expected at least two tokens, .* found shape"):
        model(torch.zeros(2, 1, dtype=torch.int64), return_loss=True)
    with pytest.raises(MismatchError, match="state: expected a BackboneState, found tuple"):
        model(torch.zeros(2, 3, dtype=torch.int64), state=(1, 2))


def test_the_memory_names_wrong_ranks_and_states():
    vector, gate, state = torch.zeros(2, 3, 5, 4), torch.zeros(2, 3, 5), init_state((torch.zeros(3, 4, 4),), 2)
    with pytest.raises(MismatchError, match=r"alpha: expected shape \(2, 3, tokens\), found \(5,\)"):
        memory_scan(vector, vector, vector, gate[0, 0], gate, gate, state, chunk_size=2)
    with pytest.raises(MismatchError, match=r"queries: expected shape \(2, 3, 5, 4\), found \(3, 5, 4\)"):
        memory_scan(vector[0], vector, vector, gate, gate, gate, state, chunk_size=2)
    with pytest.raises(MismatchError, match=r"keys: expected a torch\.Tensor, found float"):
        memory_scan(vector, 1.0, vector, gate, gate, gate, state, chunk_size=2)
    with pytest.raises(MismatchError, match="state: expected a MemoryState, found NoneType"):
        memory_scan(vector, vector, vector, gate, gate, gate, None, chunk_size=2)
    with pytest.raises(MismatchError, match="state: expected a MemoryState, found NoneType"):
        memory_read(vector, None)
    with pytest.raises(ConfigError, match="batch_size: expected at least 1, found 0"):
        init_state((torch.zeros(3, 4, 4),), 0)
