"""A training step: its precision, learning rate, logs and targets."""

import dataclasses
import math

import interrupted_training as example
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from titan_neuro.errors import ConfigError
from titan_neuro.titans.models import GRUConfig, LMMConfig, MAGConfig, MALConfig, TransformerConfig
from titan_neuro.titans.stream_state import StreamState
from titan_neuro.training import Processes, TrainingConfig, load_forecaster, train_fold
from titan_neuro.training.module import ForecastModule
from titan_neuro.training.schedule import rate_factor
from titan_neuro.training.trainer import make_trainer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("module")
    example.write_stores(base / "stores")
    return base


def train(base, name, **settings):
    training = dataclasses.replace(example.TRAINING, checkpoint_every_s=1e6, **settings)
    return example.train(base / name, training)


@pytest.fixture(scope="module")
def plain(base):
    return train(base, "plain")


def table_of(folder):
    return pd.read_csv(folder / "training.csv").set_index("epoch")


def test_rate_rises_linearly_falls_as_cosine():
    assert [rate_factor(progress, 0.2) for progress in (0.05, 0.1, 0.2, 0.6, 1.0)] == pytest.approx(
        [0.25, 0.5, 1.0, 0.5, 0.0]
    )
    assert rate_factor(1e-9, 0.0) == pytest.approx(1.0)


def test_learning_rate_and_errors_are_logged(plain):
    [path] = (plain / "logs/steps").glob("*/metrics.csv")
    steps = pd.read_csv(path).dropna(subset=["learning_rate"])
    # One step in five is logged.
    assert steps["step"].tolist() == [4, 9, 14, 19]
    progress = [(step + 0.5) / (2 * example.N_STEPS) for step in steps["step"]]
    assert steps["learning_rate"].tolist() == pytest.approx([1e-2 * rate_factor(each, 0.15) for each in progress])
    for name in ("loss", "gradient_norm", "volumes_per_s", "train_skill_ar", "train_skill_persistence"):
        assert steps[name].notna().all(), name
    assert (steps["train_skill_persistence"] > 0).all()


def test_gates_and_norms_of_the_backbones_memory_are_logged(plain):
    curves = EventAccumulator(str(plain / "logs"))
    curves.Reload()
    tags = curves.Tags()["scalars"]
    backbone = "memory/backbone_stack_blocks_0_memory"
    expected = {f"{backbone}/{name}" for name in ("forgetting", "momentum", "step_size", "norm_0", "norm_1")}
    assert expected | {"validation_skill_ar", "validation_skill_persistence"} <= set(tags)
    forgetting = [event.value for event in curves.Scalars(f"{backbone}/forgetting")]
    assert all(0 < value < 1 for value in forgetting)


def test_skill_over_persistence_follows_from_the_errors(plain, base):
    """Computed from the persistence forecasts of the validation run."""
    table = table_of(plain)
    data = example.read_data(base / "stores")
    [run] = data.select(data.fold.validation)
    series = run.read(0, run.n_time_points)
    errors = [series[h:] - series[:-h] for h in example.MODEL.horizons]
    persistence = sum(float(error.square().sum()) for error in errors) / sum(error.numel() for error in errors)
    expected = 1 - table["validation_mse"] / persistence
    assert table["validation_skill_persistence"].tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_gradient_checkpointing_changes_no_weight(base, plain):
    assert example.outcome(train(base, "recomputed", gradient_checkpointing=True)) == example.outcome(plain)


@pytest.fixture
def dtypes(monkeypatch):
    """Types of a block's output, of its memory state before any cast, and of the state carried to the next window."""
    seen = {"computed": set(), "memory": set(), "carried": set()}
    read = ForecastModule._sum_errors

    def recorded(self, batch):
        if not hasattr(self, "_hooks"):
            block = self.forecaster.backbone.stack.blocks[0]
            self._hooks = [
                block.feed_forward.register_forward_hook(lambda *call: seen["computed"].add(call[2].dtype)),
                block.memory.register_forward_hook(lambda *call: seen["memory"].update(types_of(call[2][1].memory))),
                self.forecaster.backbone.memory.register_forward_hook(
                    lambda *call: seen["memory"].update(types_of(call[2][1]))
                ),
            ]
        errors = read(self, batch)
        seen["carried"] |= types_of(self._state)
        return errors

    monkeypatch.setattr(ForecastModule, "_sum_errors", recorded)
    return seen


def types_of(value):
    if isinstance(value, torch.Tensor):
        return {value.dtype} if value.is_floating_point() else set()
    if isinstance(value, StreamState):
        return set().union(*(types_of(getattr(value, field.name)) for field in dataclasses.fields(value)))
    return set().union(*map(types_of, value)) if isinstance(value, tuple) else set()


def test_half_precision_keeps_states_in_full_precision(base, plain, dtypes):
    half, full = table_of(train(base, "half", precision="bfloat16")), table_of(plain)
    assert dtypes.pop("computed") == {torch.bfloat16}
    assert dtypes == {key: {torch.float32} for key in ("memory", "carried")}
    # Closed-form fits do not depend on it.
    assert half["validation_mse"][0] == pytest.approx(full["validation_mse"][0], rel=1e-5)
    assert half["validation_mse"][2] == pytest.approx(full["validation_mse"][2], rel=2e-2)
    assert half["validation_mse"][2] < 0.95 * half["validation_mse"][0]
    weights = example.outcome(base / "half" / example.MODEL_FOLDER)[0]
    assert weights != example.outcome(plain)[0]


def test_float16_needs_a_gpu(tmp_path):
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        make_trainer(tmp_path, Processes(), 1, precision="float16")


def test_float16_excludes_sharded_weights():
    with pytest.raises(ConfigError, match="float16 can't be combined"):
        TrainingConfig(precision="float16", strategy="fsdp")


def test_windows_without_a_target_change_no_weight(base, monkeypatch):
    """Where no time point is scored in any stream, the optimizer makes no step."""
    has_gradient = []
    step, clip = ForecastModule.training_step, ForecastModule.configure_gradient_clipping

    def without_targets(self, batch, batch_index):
        batch = batch._replace(valid=torch.zeros_like(batch.valid), n_targets=0) if batch_index == 3 else batch
        return step(self, batch, batch_index)

    def recorded(self, *arguments, **options):
        clip(self, *arguments, **options)
        has_gradient.append(any(p.grad is not None for p in self.parameters()))

    monkeypatch.setattr(ForecastModule, "training_step", without_targets)
    monkeypatch.setattr(ForecastModule, "configure_gradient_clipping", recorded)
    table = table_of(train(base, "unscored", max_epochs=1))
    assert has_gradient == [index != 3 for index in range(example.N_STEPS)]
    assert math.isfinite(table["train_loss"][1])


BACKBONES = [LMMConfig, MAGConfig, MALConfig, GRUConfig, TransformerConfig]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_trains_in_half_precision_and_recomputes(base, monkeypatch, backbone, tmp_path):
    model = dataclasses.replace(example.MODEL, backbone=backbone(dim=16, n_layers=1, tokens_per_time_point=1))
    training = dataclasses.replace(
        example.TRAINING, max_epochs=1, precision="bfloat16", gradient_checkpointing=True, checkpoint_every_s=1e6
    )
    data = example.read_data(base / "stores")
    train_fold(data, model, training, folder=tmp_path / "model", work_dir=base / "work", seed=0)
    table = table_of(tmp_path / "model")
    assert table["validation_mse"][1] < table["validation_mse"][0]


def test_volumes_train_in_half_precision(volume_fold, volume_model, tmp_path):
    training = TrainingConfig(max_epochs=1, steps_per_epoch=2, window_time_points=32, precision="bfloat16")
    train_fold(volume_fold, volume_model, training, folder=tmp_path / "model", work_dir=tmp_path / "work", seed=0)
    model, record = load_forecaster(tmp_path / "model")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert math.isfinite(record["validation_skill_ar"])
