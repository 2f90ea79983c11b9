import dataclasses

import pytest

from titan_neuro.errors import ConfigError, InputNotFoundError
from titan_neuro.study import load_study, write_resolved
from titan_neuro.study.config import PRESETS


@pytest.fixture
def settings(tmp_path):
    def write(text):
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_resolved_reads_back_the_same(preset, tmp_path):
    study = load_study(default_preset=preset)
    write_resolved(tmp_path / "config.resolved.yaml", study)
    assert load_study(default_preset="debug", config_file=tmp_path / "config.resolved.yaml") == study


def test_file_over_preset_and_set_over_both(settings):
    path = settings("preset: debug\nseeds: [3, 4]\ntraining: {max_epochs: 9, patience: 2}\n")
    study = load_study(default_preset="parcels", config_file=path, overrides=["training.max_epochs=5"], seed=8)
    assert study.training.max_epochs == 5
    assert study.training.patience == 2
    assert study.seeds == (8,)
    assert study.model == PRESETS["debug"]().model


def test_another_kind_of_tokenizer_replaces_the_old_one():
    overrides = ["model.tokenizer={kind: linear, n_tokens: 1}"]
    assert load_study(default_preset="debug", overrides=overrides).model.tokenizer.n_tokens == 1


@pytest.mark.parametrize("variant", ["lmm", "mac", "mag", "mal"])
def test_another_variant_keeps_shared_settings(variant, tmp_path):
    overrides = ["model.backbone.memory.depth=1", f"model.backbone.variant={variant}"]
    study = load_study(default_preset="debug", overrides=overrides)
    backbone = study.model.backbone
    assert (backbone.variant, backbone.dim, backbone.memory.depth) == (variant, 16, 1)
    assert getattr(backbone, "n_heads", 2) == 2
    write_resolved(tmp_path / "config.resolved.yaml", study)
    assert load_study(default_preset="parcels", config_file=tmp_path / "config.resolved.yaml") == study


def test_files_may_choose_a_variant(settings):
    path = settings("preset: debug\nmodel: {backbone: {variant: mal, window_time_points: 5}}\n")
    assert load_study(default_preset="debug", config_file=path).model.backbone.window_time_points == 5


def test_streams_restart_where_the_variant_allows_it():
    windows = ["training.window_time_points=8", "model.backbone.segment_time_points=16"]
    with pytest.raises(ConfigError, match=r"8 is no multiple of 16, .* mac model"):
        load_study(default_preset="debug", overrides=windows)
    assert load_study(default_preset="debug", overrides=[*windows, "model.backbone.variant=mag"])


def test_unknown_choices_suggest_the_nearest():
    with pytest.raises(ConfigError, match=r"model\.backbone\.variant: no such variant, 'magg'\. Did you mean 'mag'"):
        load_study(default_preset="debug", overrides=["model.backbone.variant=magg"])
    with pytest.raises(ConfigError, match=r"model\.tokenizer\.kind: no such kind, 'linea'\. Did you mean 'linear'"):
        load_study(default_preset="debug", overrides=["model.tokenizer.kind=linea"])


def test_a_setting_of_another_variant_is_unknown():
    overrides = ["model.backbone.variant=mag", "model.backbone.segment_time_points=8"]
    with pytest.raises(ConfigError, match=r"unknown setting 'model\.backbone\.segment_time_points'") as caught:
        load_study(default_preset="debug", overrides=overrides)
    assert "window_time_points" in caught.value.hint and "segment_time_points" not in caught.value.hint


@pytest.mark.parametrize(
    ("text", "wrong", "right"),
    [
        ("trainin: {}", "trainin", "training"),
        ("training: {max_epoch: 3}", "training.max_epoch", "max_epochs"),
        (
            "model: {backbone: {memory: {chunk_time_point: 3}}}",
            "model.backbone.memory.chunk_time_point",
            "chunk_time_points",
        ),
        ("model: {tokenizer: {embed_dims: 3}}", "model.tokenizer.embed_dims", "embed_dim"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(settings, text, wrong, right):
    with pytest.raises(ConfigError) as caught:
        load_study(default_preset="debug", config_file=settings(text))
    assert f"unknown setting '{wrong}'. Did you mean '{right}'?" in caught.value.message


def test_values_of_wrong_range_or_kind(settings):
    with pytest.raises(ConfigError, match=r"training\.max_epochs: .*greater than or equal to 0; found -1"):
        load_study(default_preset="debug", config_file=settings("training: {max_epochs: -1}"))
    with pytest.raises(ConfigError, match=r"training\.max_epochs: .*found 'many'"):
        load_study(default_preset="debug", overrides=["training.max_epochs=many"])
    with pytest.raises(ConfigError, match="no multiple of"):
        load_study(default_preset="debug", overrides=["training.window_time_points=17"])


def test_what_is_no_settings_file(settings, tmp_path):
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_study(default_preset="debug", config_file=settings("a: [1"))
    with pytest.raises(ConfigError, match="found list"):
        load_study(default_preset="debug", config_file=settings("- 1"))
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_study(default_preset="debug", config_file=settings("!!python/object/apply:os.getcwd []"))
    with pytest.raises(InputNotFoundError):
        load_study(default_preset="debug", config_file=tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="no preset 'cpu-smal'") as caught:
        load_study(default_preset="debug", config_file=settings("preset: cpu-smal"))
    assert "Did you mean 'cpu-small'" in caught.value.hint
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        load_study(default_preset="debug", overrides=["training.max_epochs"])


@pytest.mark.parametrize(("seeds", "found"), [("[]", r"\[\]"), ("[1, 2, 1]", r"\[1, 2, 1\]")])
def test_seeds_are_some_and_each_once(seeds, found):
    with pytest.raises(ConfigError, match=f"seeds: expected one or more, each once; found {found}"):
        load_study(default_preset="debug", overrides=[f"seeds={seeds}"])
    with pytest.raises(ConfigError, match=r"seeds\.0: .*greater than or equal to 0; found -1"):
        load_study(default_preset="debug", overrides=["seeds=[-1]"])


def test_three_seeds_and_comparison_models_where_gradients_take_part():
    study = load_study(default_preset="gpu-base")
    assert (study.seeds, study.comparison_models) == ((0, 1, 2), True)
    for name in ("cpu-small", "parcels"):
        study = load_study(default_preset=name)
        assert (study.training.max_epochs, study.seeds, study.comparison_models) == (0, (0,), False)


def test_comparison_models_need_epochs():
    with pytest.raises(ConfigError, match=r"learns by gradients only, but training\.max_epochs is 0") as caught:
        load_study(default_preset="parcels", overrides=["comparison_models=true"])
    assert "--set training.max_epochs=8" in caught.value.hint
    assert load_study(default_preset="parcels", overrides=["comparison_models=true", "training.max_epochs=8"])


def test_pretraining_needs_epochs():
    overrides = ["model.tokenizer.kind=swin", "training.pretraining={}"]
    with pytest.raises(ConfigError, match=r"training\.pretraining: .* where training\.max_epochs is 0"):
        load_study(default_preset="cpu-small", overrides=overrides)
    assert load_study(default_preset="cpu-small", overrides=[*overrides, "training.max_epochs=1"]).training.pretraining


@pytest.mark.parametrize("preset", ["cpu-small", "gpu-base"])
def test_one_setting_switches_the_swin_on(preset, tmp_path):
    """The backbone takes as many tokens as the tokenizer gives, over a preset and over settings in force."""
    swin = load_study(default_preset=preset, overrides=["model.tokenizer.kind=swin"])
    assert swin.model.backbone.tokens_per_time_point == swin.model.tokenizer.n_tokens == 8
    write_resolved(tmp_path / "config.resolved.yaml", swin)
    overrides = ["model.tokenizer.token_grid=[3, 3, 3]", "model.backbone.dim=24"]
    finer = load_study(default_preset="debug", config_file=tmp_path / "config.resolved.yaml", overrides=overrides)
    assert (finer.model.backbone.tokens_per_time_point, finer.model.backbone.dim) == (27, 24)
    overrides = [*overrides, "model.tokenizer.kind=linear"]
    back = load_study(default_preset="debug", config_file=tmp_path / "config.resolved.yaml", overrides=overrides)
    assert back.model.backbone.tokens_per_time_point == 1


def test_a_number_of_tokens_that_is_given_must_fit(settings):
    path = settings("model: {tokenizer: {kind: swin}, backbone: {tokens_per_time_point: 3}}")
    with pytest.raises(ConfigError, match="gives 8 tokens a time point, the backbone expects 3"):
        load_study(default_preset="cpu-small", config_file=path)
    path = settings("model: {tokenizer: {kind: swin}, backbone: {tokens_per_time_point: null}}")
    assert load_study(default_preset="cpu-small", config_file=path).model.backbone.tokens_per_time_point == 8


def test_settings_are_frozen():
    study = load_study(default_preset="debug")
    with pytest.raises(dataclasses.FrozenInstanceError):
        study.seeds = (1,)


def test_the_message_names_where_a_wrong_setting_stands(settings):
    path = settings("training: {max_epochs: 2}")
    with pytest.raises(ConfigError, match=r"^settings: unknown setting 'training.max_epoch'"):
        load_study(default_preset="debug", config_file=path, overrides=["training.max_epoch=3"])
    path = settings("training: {max_epoch: 2}")
    with pytest.raises(ConfigError, match=rf"^{path}: unknown setting 'training.max_epoch'"):
        load_study(default_preset="debug", config_file=path, overrides=["training.max_epochs=3"])


def test_a_preset_stands_in_a_file():
    with pytest.raises(ConfigError, match="Write `preset: parcels` into a file"):
        load_study(default_preset="debug", overrides=["preset=parcels"])
