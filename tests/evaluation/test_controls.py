"""The controls zero, replace or restrict what they say, and change nothing else."""

import copy
import dataclasses
from dataclasses import fields

import pytest
import torch

from titan_neuro.baselines import AutoregressionBaseline
from titan_neuro.errors import ConfigError
from titan_neuro.evaluation import FrozenMemory, ResetMemory, controls_of
from titan_neuro.evaluation.metrics_and_rows import RESET_TIME_POINTS
from titan_neuro.evaluation.random_means import RandomMeans
from titan_neuro.evaluation.streaming import stream_forecasts
from titan_neuro.forecaster import ForecasterConfig
from titan_neuro.forecaster.recall import Recalled
from titan_neuro.forecaster.recall.stimulus_memory import StimulusMemoryFit
from titan_neuro.forecaster.tokenizers import SwinTokenizerConfig
from titan_neuro.titans.models import GRUConfig


@pytest.fixture(params=["lmm", "mac"])
def model(request, make_forecaster):
    return make_forecaster(request.param)


@pytest.fixture
def series():
    return torch.randn(70, 6, generator=torch.Generator().manual_seed(1))


def forecasts_of(model, series, block_time_points=16):
    return torch.cat(list(stream_forecasts(model, series, "run", block_time_points)))


def memories_of(state):
    """The memories that learn at test time: those of the backbone's blocks, and the one that looks ahead."""
    backbone = state.memory.backbone
    blocks = [block.memory.memory.weights for block in backbone.stack.blocks]
    return [*blocks, (backbone.memory[0].associations.weights,)]


def test_controls_are_named_after_their_model(model):
    name = model.name
    lacking = ("frozen", "reset20", "backbone-zeroed", "blocks-zeroed", "recall-zeroed")
    assert [control.name for control in controls_of(model, [])] == [f"{name}-{what}" for what in lacking]
    untrained = [f"{name}-{what}" for what in lacking if what != "blocks-zeroed"]
    assert [control.name for control in controls_of(model, [], is_trained=False)] == untrained
    without_recall = dataclasses.replace(model.config, recall=None, backbone=GRUConfig(dim=8)).build(n_features=6)
    assert [control.name for control in controls_of(without_recall, [])] == ["gru-backbone-zeroed"]


def control_of(model, suffix, runs=()):
    [control] = [one for one in controls_of(model, runs) if one.name == f"{model.name}-{suffix}"]
    return control


@torch.no_grad()
def test_a_zeroed_backbone_leaves_linear_skip_and_recall(model, series):
    """Forecasts equal those of a model whose decoder was never trained, and whose memory is not trusted."""
    found = forecasts_of(control_of(model, "backbone-zeroed"), series)
    silent = with_new_blocks(model)
    assert not torch.allclose(found, forecasts_of(silent, series))
    torch.nn.init.zeros_(silent.backbone.memory.associations.reliability)
    torch.testing.assert_close(found, forecasts_of(silent, series), rtol=0, atol=0)


def with_new_blocks(model):
    """The model with a decoder and gates that were never trained."""
    model = copy.deepcopy(model)
    for parameter in (model.decoder.patterns, *model.backbone.gate.parameters()):
        torch.nn.init.zeros_(parameter)
    return model


@torch.no_grad()
def test_zeroed_blocks_leave_the_memory(model, series):
    found = forecasts_of(control_of(model, "blocks-zeroed"), series)
    assert not torch.allclose(found, forecasts_of(model, series))
    torch.testing.assert_close(found, forecasts_of(with_new_blocks(model), series), rtol=0, atol=0)


@torch.no_grad()
def test_a_zeroed_recall_leaves_linear_skip_and_backbone(model, series):
    # In float64: the memory reads in parts of another length, which float32 rounds in another way.
    model, series = copy.deepcopy(model).double(), series.double()
    linear, observation, _ = model.observe(series[None], model.init_state().observation)
    nothing = Recalled(*(torch.zeros_like(observation.errors),) * 2)
    tokens, corrections, _ = model.backbone(*observation, nothing, model.backbone.init_state(1))
    assert corrections.abs().max() > 1e-3
    expected = linear + model.decoder(tokens) + corrections @ model.components.basis
    torch.testing.assert_close(forecasts_of(control_of(model, "recall-zeroed"), series), expected[0])


@torch.no_grad()
def test_a_zeroed_stimulus_memory_leaves_what_the_stream_itself_tells(model, series):
    assert not model.recall.stimulus.n_positions
    remembering = copy.deepcopy(model)
    fit = {field.name: getattr(remembering.recall.stimulus, field.name) for field in fields(StimulusMemoryFit)}
    fit |= {"keys": torch.randn(9, *fit["keys"].shape[1:]), "values": torch.randn(9, *fit["values"].shape[1:])}
    fit |= {"continues": torch.ones(9).index_fill(0, torch.tensor(0), 0.0), "weights": torch.ones_like(fit["weights"])}
    remembering.recall.stimulus.load(StimulusMemoryFit(**fit))
    before = forecasts_of(remembering, series)
    assert not torch.allclose(before, forecasts_of(model, series))
    found = forecasts_of(control_of(remembering, "stimulus-zeroed"), series)
    torch.testing.assert_close(found, forecasts_of(model, series), rtol=0, atol=0)
    torch.testing.assert_close(forecasts_of(remembering, series), before, rtol=0, atol=0)


@torch.no_grad()
def test_controls_leave_the_model_as_it_was(model, series):
    before = forecasts_of(model, series)
    for control in controls_of(model, []):
        forecasts_of(control, series)
    torch.testing.assert_close(forecasts_of(model, series), before, rtol=0, atol=0)


def test_an_unknown_part_is_refused(model):
    with pytest.raises(ConfigError, match="expected some of tokenizer, backbone, decoder, recall, found encoder"):
        model.with_parts(encoder=None)


@pytest.fixture(scope="module")
def volume_model():
    """A model that reads volumes of 8 x 9 x 6 voxels, with random weights in every learned part."""
    torch.manual_seed(0)
    mask = torch.rand(8, 9, 6) > 0.4
    config = ForecasterConfig(
        tokenizer=SwinTokenizerConfig(embed_dim=3, num_heads=(1, 2, 3, 4), token_grid=(2, 1, 2)),
        backbone=GRUConfig(dim=8, n_layers=1, tokens_per_time_point=4),
        recall=None,
        horizons=(1, 3),
    )
    model = config.build(n_features=int(mask.sum()), mask=mask)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def volume_run(make_run, volume_model):
    return make_run("11", 1, n_features=volume_model.n_features)


@torch.no_grad()
def test_zeroed_tokens_tell_nothing_of_the_volume(volume_model, volume_run):
    control = control_of(volume_model, "swin-zeroed", [volume_run])
    series = volume_run.read(0, 40)
    tokens = torch.zeros(1, 40, 4, 8)
    output, _ = volume_model.backbone.stack(tokens.flatten(1, 2))
    linear, _ = volume_model.linear_skip(series[None], volume_model.linear_skip.init_state(1))
    expected = linear + volume_model.decoder(output.view_as(tokens))
    torch.testing.assert_close(forecasts_of(control, series), expected[0])


@torch.no_grad()
def test_random_means_are_scaled_like_the_features_they_replace(volume_model, volume_run):
    tokenizer = volume_model.tokenizer
    means = RandomMeans(tokenizer, [volume_run])
    middle = volume_run.read(72, 88)[None]
    replaced, features = means.means(middle) * means.scale + means.offset, tokenizer.features(middle)
    assert replaced.shape == features.shape
    torch.testing.assert_close(replaced.mean(dim=1), features.mean(dim=1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(replaced.std(dim=1), features.std(dim=1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(means(middle), tokenizer.project(replaced))
    # Drawn by a fixed seed, and different from one another.
    torch.testing.assert_close(RandomMeans(tokenizer, [volume_run]).voxels, means.voxels)
    assert len({tuple(box.unique().tolist()) for box in means.voxels}) > 0.5 * len(means.voxels)


@torch.no_grad()
def test_a_random_mean_is_the_mean_of_its_voxels(volume_model, volume_run):
    means = RandomMeans(volume_model.tokenizer, [volume_run])
    series = volume_run.read(0, 5)
    expected = series[:, means.voxels].mean(dim=-1)
    torch.testing.assert_close(means.means(series[None])[0].flatten(1), expected)
    # Each voxel lies in the box of its mean: no side is longer than a token's cell.
    where = volume_model.tokenizer.mask.nonzero()[means.voxels]
    assert (where.amax(dim=1) - where.amin(dim=1) < torch.tensor([4, 9, 3])).all()


def test_swin_controls_are_scored_like_every_row(make_run, volume_model, volume_run, quick, score):
    train = [make_run(s, 1, n_features=volume_model.n_features) for s in ("01", "02")]
    benchmark = score([volume_model, *controls_of(volume_model, train)], train, [volume_run], quick)
    names = ("gru-backbone-zeroed", "gru-swin-zeroed", "gru-swin-random-means")
    assert [name for name, kind in benchmark.kinds.items() if kind == "control"] == list(names)
    skills = [benchmark.scores.subject_values("skill_ar", name, 1).item() for name in names]
    assert len(set(skills)) == 3


@torch.no_grad()
def test_a_frozen_memory_is_never_written(model, series):
    forecasts = forecasts_of(FrozenMemory(model), series)
    state = model.init_state()
    expected = []
    for start in range(0, 70, 16):
        part, state = model(series[start : start + 16][None], state, memory_frozen=True)
        expected.append(part[0])
    torch.testing.assert_close(forecasts, torch.cat(expected), rtol=0, atol=0)
    for memory, initial in zip(memories_of(state), memories_of(model.init_state()), strict=True):
        torch.testing.assert_close(memory, initial, rtol=0, atol=0)
    assert not torch.allclose(forecasts, forecasts_of(model, series))


@torch.no_grad()
@pytest.mark.parametrize("block_time_points", [1, 16, 20, 64])
def test_reset_memory_contains_twenty_time_points_at_most(model, series, block_time_points):
    forecasts = forecasts_of(ResetMemory(model), series, block_time_points)
    linear, observation, _ = model.observe(series[None], model.init_state().observation)
    beyond = [
        model.forecast_residual(observation.at(slice(start, start + RESET_TIME_POINTS)))[0]
        for start in range(0, 70, RESET_TIME_POINTS)
    ]
    torch.testing.assert_close(forecasts, (linear + torch.cat(beyond, dim=1))[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(forecasts, forecasts_of(model, series))


def test_untrained_controls_without_recall_equal_autoregression(make_run, model, series):
    runs = [make_run("01", 1, n_features=6), make_run("02", 1, n_features=6)]
    model = dataclasses.replace(model.config, recall=None).build(n_features=6)
    baseline = AutoregressionBaseline((1, 3))
    for row in (model, baseline):
        row.fit(runs)
    for control in controls_of(model, runs):
        torch.testing.assert_close(forecasts_of(control, series), forecasts_of(baseline, series))


def test_controls_stand_below_their_model(make_run, make_forecaster, quick, score):
    train, test = [make_run(s, 1, n_features=6) for s in ("01", "02")], [make_run("03", 1, n_features=6)]
    model = make_forecaster("mac")
    comparison_model = make_forecaster("lmm")
    benchmark = score([model, comparison_model, *controls_of(model, train)], train, test, quick)
    assert list(benchmark.kinds.items())[:7] == [
        ("titan-mac", "model"),
        ("titan-mac-frozen", "control"),
        ("titan-mac-reset20", "control"),
        ("titan-mac-backbone-zeroed", "control"),
        ("titan-mac-blocks-zeroed", "control"),
        ("titan-mac-recall-zeroed", "control"),
        ("titan-lmm", "comparison_model"),
    ]
