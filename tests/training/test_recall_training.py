"""Training from a fitted recall: epoch 0, fits shared by seeds, and held-out fits for training runs."""

import dataclasses

import pandas as pd
import pytest
import torch
from recall_runs import N_FEATURES, recall_runs, skills, small_forecaster
from small_folds import read_small_fold, write_small_run

from titan_neuro.data.space import Space
from titan_neuro.forecaster import Forecaster
from titan_neuro.training import TrainingConfig, load_forecaster, train_fold
from titan_neuro.training import closed_form as closed_form_module

SPACE = Space(kind="parcels", name="Toy", parcels=tuple(f"p{i}" for i in range(N_FEATURES)))
MODEL = small_forecaster().config
QUICK = TrainingConfig(max_epochs=1, steps_per_epoch=2, window_time_points=64, learning_rate=1e-3)
# Steps so large that every epoch of training is worse than the closed-form fit.
DIVERGING = dataclasses.replace(QUICK, learning_rate=3.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, paths = tmp_path_factory.mktemp("stores"), []
    for number, run in enumerate(recall_runs(6, shared=0.3, individual=0.25, n_time_points=200)):
        paths.append(folder / f"{number}.zarr")
        entities = {"subject": run.subject, "task": "stimulus"}
        write_small_run(paths[-1], number, run.series.numpy(), SPACE, key=run.key, entities=entities, scored=run.scored)
    return read_small_fold(paths, SPACE)


@pytest.fixture
def train(data, tmp_path):
    def run(training, name="fold-1", seed=0):
        folder = tmp_path / name
        train_fold(data, MODEL, training, folder=folder, work_dir=tmp_path / "work", seed=seed)
        return folder

    return run


class LoadedRun:
    """A run of a store with its time points in memory, as `skills` reads it."""

    def __init__(self, view):
        self.series, self.scored, self.key = view.read(0, view.n_time_points), view.scored, view.key


def closed_form(data):
    """Return the model with its closed-form fits only."""
    model = small_forecaster()
    model.fit(data.select((*data.fold.train, *data.fold.validation)))
    return model


def test_epoch_0_is_the_held_out_closed_form(data, train):
    folder = train(DIVERGING)
    table = pd.read_csv(folder / "training.csv").set_index("epoch")["validation_skill_ar"]
    expected, [run] = closed_form(data), [LoadedRun(run) for run in data.select(data.fold.validation)]
    linear = total = 0.0
    with torch.no_grad():
        skip, beyond, _ = expected.forecast_parts(run.series[None], held_out_index=expected.held_out_index([run.key]))
    for index, h in enumerate(expected.horizons):
        scored = torch.as_tensor(run.scored[h:])
        residual = (run.series[h:] - skip[0, :-h, index])[scored]
        linear += float(residual.square().sum())
        total += float((residual - beyond[0, :-h, index][scored]).square().sum())
    assert table[0] == pytest.approx(1 - total / linear, abs=1e-5)
    assert table[0] > 0.3
    assert table[1] < table[0]
    model, record = load_forecaster(folder)
    assert record["selected_epoch"] == 0
    assert record["validation_skill_ar"] == pytest.approx(table[0])
    test = [LoadedRun(run) for run in data.select(data.fold.test)]
    assert skills(model, test) == pytest.approx(skills(expected, test), abs=1e-5)


def test_seeds_share_the_fit_but_no_random_weights(data, train, monkeypatch):
    fits, fit_closed_form = [], closed_form_module.fit_closed_form

    def counted(*parts, **options):
        fits.append([run.key for run in parts[2]])
        return fit_closed_form(*parts, **options)

    monkeypatch.setattr(closed_form_module, "fit_closed_form", counted)
    one, other = (load_forecaster(train(DIVERGING, f"seed-{seed}", seed))[0] for seed in (1, 2))
    assert fits == [[*data.fold.train, *data.fold.validation]]
    for name, value in one.recall.state_dict().items():
        assert torch.equal(value, other.recall.state_dict()[name]), name
    assert not torch.equal(one.tokenizer.projection.weight, other.tokenizer.projection.weight)


def test_the_fit_does_not_change_random_numbers(data, train):
    first, again = (train(QUICK, name) / "model.safetensors" for name in ("first", "again"))
    assert first.read_bytes() == again.read_bytes()


def test_training_runs_use_held_out_fits(data, train, monkeypatch):
    held_out, forecast_parts = set(), Forecaster.forecast_parts

    def recorded(self, series, state=None, *, held_out_index=None, **options):
        held_out.update(map(tuple, held_out_index.tolist()))
        assert len(self.fitted_runs) == len(self.recall.stimulus.keys_without) == 5
        assert len(self.recall.autoregression.weights_without) == len(self.recall.stimulus.weights_without) == 4
        return forecast_parts(self, series, state, held_out_index=held_out_index, **options)

    monkeypatch.setattr(Forecaster, "forecast_parts", recorded)
    train(dataclasses.replace(QUICK, steps_per_epoch=4))
    # Streams without a run hold nothing out.
    assert held_out - {(-1, -1)} == {(subject, subject % 4) for subject in range(5)}
