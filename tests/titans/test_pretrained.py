"""A model saved into a folder is loaded with the same bits, or refused with the reason."""

import json

import pytest
import torch

from titan_neuro.errors import ConfigError, InputNotFoundError, MismatchError, OutputError
from titan_neuro.titans import LMM, MAC, LMMConfig, MACConfig, MAGConfig, MALConfig, TitansLM, TitansLMConfig
from titan_neuro.titans.models import GRUConfig, TransformerConfig
from titan_neuro.titans.pretrained import CONFIG_FILE, WEIGHTS_FILE, read_config

CONFIGS = [LMMConfig, MACConfig, MAGConfig, MALConfig, GRUConfig, TransformerConfig]
SIZES = {"dim": 16, "n_layers": 1, "tokens_per_time_point": 2}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LMMConfig(**SIZES).build()


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_loaded_model_is_the_saved_one(config, dtype, tmp_path):
    model = config(**SIZES).build().to(dtype)
    model.save_pretrained(tmp_path / "new" / "folder")
    again = type(model).from_pretrained(tmp_path / "new" / "folder")
    assert type(again) is type(model)
    assert again.config == model.config
    assert not again.training
    x = torch.randn(2, 8, 16, dtype=dtype)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))
    assert all(parameter.requires_grad for parameter in again.parameters())
    # Loaded weights lie elsewhere in memory, so sums may be taken in another order.
    torch.testing.assert_close(again(x)[0], model(x)[0], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_a_loaded_language_model_is_the_saved_one(tie_embeddings, tmp_path):
    backbone = MAGConfig(dim=16, n_layers=1, tokens_per_time_point=1)
    model = TitansLM(TitansLMConfig(vocab_size=5, backbone=backbone, tie_embeddings=tie_embeddings))
    model.save_pretrained(str(tmp_path))
    again = TitansLM.from_pretrained(str(tmp_path), device="cpu")
    ids = torch.randint(5, (2, 8))
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))
    torch.testing.assert_close(again(ids)[0], model(ids)[0])


def test_saving_again_replaces_the_model(saved):
    other = LMMConfig(**{**SIZES, "dim": 8}).build()
    other.save_pretrained(saved, metadata={"corpus": "a", "steps": 3})
    assert LMM.from_pretrained(saved).config.dim == 8
    assert read_config(saved)["metadata"] == {"corpus": "a", "steps": 3}
    assert sorted(path.name for path in saved.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_in_place_of_the_folder_is_named(model, tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file.*: the folder can't be made"):
        model.save_pretrained(tmp_path / name)


def test_missing_files_are_named(saved, tmp_path):
    with pytest.raises(InputNotFoundError, match=r"nowhere/config\.json: no such file"):
        LMM.from_pretrained(tmp_path / "nowhere")
    (saved / WEIGHTS_FILE).unlink()
    with pytest.raises(InputNotFoundError, match=r"model\.safetensors: no such file"):
        LMM.from_pretrained(saved)


def test_damaged_files_are_named(saved):
    weights, settings = (saved / WEIGHTS_FILE).read_bytes(), (saved / CONFIG_FILE).read_text()
    (saved / WEIGHTS_FILE).write_bytes(weights[:-9])
    with pytest.raises(MismatchError, match="the model can't be loaded"):
        LMM.from_pretrained(saved)
    (saved / CONFIG_FILE).write_text(settings[:-9])
    with pytest.raises(MismatchError, match=r"config\.json: is not valid JSON"):
        LMM.from_pretrained(saved)


def test_a_model_of_another_class_is_refused(saved):
    with pytest.raises(MismatchError, match="expected a model of class MAC, found LMM"):
        MAC.from_pretrained(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 0}, "expected schema titan-neuro-model version 2, found titan-neuro-model version 0"),
        ({"schema": "another"}, "found another version 2"),
        ({"config": {**SIZES, "variant": "lmm", "dim": 8}}, "expected one of dim 8, found dim 16"),
        ({"config": {**SIZES, "variant": "lmm", "dmi": 8}}, "dmi"),
        ({"arguments": {"width": 3}}, "unknown argument 'width'"),
    ],
)
def test_inconsistent_settings_are_refused(saved, change, message):
    content = json.loads((saved / CONFIG_FILE).read_text())
    (saved / CONFIG_FILE).write_text(json.dumps({**content, **change}))
    with pytest.raises(MismatchError, match=message):
        LMM.from_pretrained(saved)


def test_settings_without_a_part_are_refused(saved):
    content = json.loads((saved / CONFIG_FILE).read_text())
    del content["arguments"]
    (saved / CONFIG_FILE).write_text(json.dumps(content))
    with pytest.raises(MismatchError, match="arguments is missing"):
        LMM.from_pretrained(saved)


def test_an_unknown_constructor_argument_is_named():
    with pytest.raises(ConfigError, match=r"MAC: unknown argument 'confg'; expected config\. Did you mean 'config'"):
        MAC(confg=MACConfig())
    with pytest.raises(ConfigError, match=r"Settings are given as MAC\(MACConfig"):
        MAC(dim=16)
