"""Settings that are wrong are named, with the nearest that exist."""

import dataclasses

import pytest

from titan_neuro.data.prepare import PrepareConfig
from titan_neuro.data.splits import SplitConfig
from titan_neuro.errors import ConfigError
from titan_neuro.titans import MACConfig, NeuralMemoryConfig, TitansLMConfig

pytestmark = pytest.mark.usefixtures("without_shape_checks")


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (lambda: MACConfig(dmi=3), r"MACConfig: unknown setting 'dmi'\. Did you mean 'dim'\?"),
        (
            lambda: MACConfig(memory={"dpeth": 1}),
            r"MACConfig: unknown setting 'memory\.dpeth'\. Did you mean 'depth'\?",
        ),
        (lambda: dataclasses.replace(MACConfig(), dmi=3), r"unknown setting 'dmi'\. Did you mean 'dim'\?"),
        (lambda: NeuralMemoryConfig(chunk_size=3), "NeuralMemoryConfig: unknown setting 'chunk_size'"),
        (
            lambda: TitansLMConfig(vocabsize=9),
            r"TitansLMConfig: unknown setting 'vocabsize'\. Did you mean 'vocab_size'\?",
        ),
        (lambda: TitansLMConfig(), "TitansLMConfig: vocab_size: a value is required"),
        (
            lambda: PrepareConfig(confouds="none"),
            r"unknown setting 'confouds'\. Did you mean 'confounds'",
        ),
        (lambda: SplitConfig(n_folds=1), "SplitConfig: n_folds: .* greater than or equal to 2; found 1"),
        (lambda: MACConfig(dim=0), "MACConfig: dim: .* greater than or equal to 1; found 0"),
        (
            lambda: TitansLMConfig(vocab_size=9, backbone={"variant": "magg"}),
            r"TitansLMConfig: backbone\.variant: no such variant, 'magg'\. Did you mean 'mag'\?",
        ),
    ],
)
def test_a_wrong_setting_is_named(construct, message):
    with pytest.raises(ConfigError, match=message):
        construct()


def test_the_valid_settings_are_listed():
    with pytest.raises(ConfigError) as caught:
        MACConfig(memory={"dpeth": 1})
    assert caught.value.hint.startswith("Settings of memory: backend, chunk_time_points, depth")


def test_a_setting_without_its_name_is_refused():
    with pytest.raises(ConfigError, match=r"Settings are keywords: MACConfig\(dim=...\)"):
        MACConfig(64)


def test_settings_can_not_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MACConfig().dim = 3
