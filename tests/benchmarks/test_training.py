"""The benchmark of training, at sizes that take seconds; how fast anything is, is not tested."""

import json
import os
import time

import common
import pytest
import torch
import training
import training_runs
from torch import nn

from titan_neuro.training.streams import StreamLoader, StreamWindows


@pytest.fixture(autouse=True)
def _threads():
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    training_runs.write_stores(folder, "tiny", 3, 130)
    return folder


def pretend(monkeypatch, answer):
    """Have `answer(function, **arguments)` stand for what is measured in processes of their own."""
    asked = []

    def here(function, *, environment=None, **arguments):
        # What passes between processes is JSON.
        asked.append({"function": function.__name__, "environment": environment, **json.loads(json.dumps(arguments))})
        return json.loads(json.dumps(answer(function, **arguments)))

    monkeypatch.setattr(training, "in_fresh_process", here)
    return asked


def test_all_rows_are_measured_and_written(tmp_path, monkeypatch):
    # Fresh processes take longer to begin than everything else does; two that train together are tested elsewhere.
    pretend(monkeypatch, lambda function, **arguments: function(**arguments))
    monkeypatch.setattr(training, "peak_growth_bytes", lambda call: (call(), 1000)[1])
    monkeypatch.setattr(training, "train_together", lambda n, **arguments: training.measure_training(**arguments))
    target = tmp_path / "found.json"
    assert training.main(["--quick", "--output", str(target), "--folder", str(tmp_path)]) == 0
    content = json.loads(target.read_text())
    rows = ["memory", "closed form", "loading", "speed", "scaling", "gpu", "open", "index"]
    if torch.cuda.is_available():
        rows.insert(6, "speed")
    assert list(dict.fromkeys(result["row"] for result in content["results"])) == list(dict.fromkeys(rows))
    page = target.with_suffix(".md").read_text()
    for result in content["results"]:
        assert result["case"] in page
        assert result["found"] is None or result["found"] >= 0
    found = {result["case"]: result for result in content["results"]}
    prefetched = found["8 voxels a side, read during the step before"]
    assert prefetched["reach"] == 0.05
    assert prefetched["found"] == prefetched["details"]["waited_s"] / prefetched["details"]["seconds"]
    assert str(tmp_path) not in target.read_text()
    assert sorted(tmp_path.iterdir()) == [target, target.with_suffix(".md")]


def test_memory_is_relative_to_the_shortest_runs(tmp_path, monkeypatch):
    peaks = iter([100, 105, 106])
    asked = pretend(monkeypatch, lambda function, **arguments: {"bytes": next(peaks), "steps": 1})
    sizes = training.Sizes(memory=("tiny",), lengths=(100, 200, 2_000), settled_steps=10)
    assert [result.met for result in training.memory(sizes, tmp_path)] == ["-", "reach", "no"]
    # Windows of 32: the longest runs have more than ten, and are read once; the others until there are as many.
    assert [call["training"]["steps_per_epoch"] for call in asked] == [10, 10, 1]
    assert all(call["environment"] == common.UNPOOLED_HEAP for call in asked)
    lengths = [training_runs.read_data(tmp_path / "tiny" / n).fit_runs[0].n_time_points for n in ("100", "200", "2000")]
    assert lengths == [100, 200, 2_000]


def test_the_training_is_that_of_the_package(stores, monkeypatch):
    learned = []
    step = torch.optim.AdamW.step

    def count(self, *given, **options):
        learned.append(1)
        return step(self, *given, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", count)
    found = training_runs.train(stores, "tiny", "own", {"n_streams": 3, "steps_per_epoch": 1})
    # 130 time points from an offset below 32 on, in windows of 32, read once.
    assert found["steps"] == len(learned)
    assert found["steps"] in {4, 5}
    assert 0 < found["waited_s"] < found["seconds"]
    assert found["volumes_per_s"] > 0
    # The optimizer's two moments of every weight, beside the model.
    assert found["checkpoint_bytes"] > found["model_bytes"] > 0
    assert not (stores / "own").exists()


def test_the_recall_has_held_out_fits(stores):
    data = training_runs.read_data(stores)
    fit = training_runs.preset_closed_form(data, "tiny")
    assert len(fit.recall.stimulus.keys) == training_runs.SHAPES["tiny"].stimulus_positions
    assert fit.recall.stimulus.keys_without.shape == (4, *fit.recall.stimulus.keys.shape)
    assert fit.runs == {run.key: (place, place) for place, run in enumerate(data.fit_runs)}


def test_runs_share_a_stimulus_and_have_independent_noise(stores):
    runs = training_runs.read_data(stores).fit_runs
    one, other = (run.read(0, 130).double() for run in runs[:2])
    assert one.std() == pytest.approx(1, abs=0.1)
    alike = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
    assert float(alike) == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize("prefetch", [True, False])
def test_waiting_is_timed_and_windows_are_unchanged(stores, prefetch):
    class Slow(StreamWindows):
        def __getitem__(self, index):
            time.sleep(0.02)
            return super().__getitem__(index)

    runs = training_runs.read_data(stores).fit_runs
    windows = Slow(runs, window_time_points=32, n_streams=2, horizons=(1, 2), seed=3)
    passes = []
    found = list(training_runs.timed_loader(passes, prefetch=prefetch)(windows))
    [noted] = passes
    assert noted.steps == len(windows) == len(found)
    # Nobody learns here: all reading is waited for.
    assert noted.waited_s >= 0.02 * len(windows)
    assert all(torch.equal(one.series, other.series) for one, other in zip(found, StreamLoader(windows), strict=True))


def test_two_processes_know_each_other(monkeypatch):
    asked = []

    def here(function, *, environment=None, **arguments):
        asked.append(environment)
        return {"rank": None if environment is None else environment["RANK"]}

    monkeypatch.setattr(training, "in_fresh_process", here)
    assert training.train_together(2, folder="one") == {"rank": "0"}
    environments = sorted(asked, key=lambda variables: variables["RANK"])
    assert [variables["RANK"] for variables in environments] == ["0", "1"]
    assert {variables["WORLD_SIZE"] for variables in environments} == {"2"}
    assert len({variables["MASTER_PORT"] for variables in environments}) == 1
    assert training.train_together(1, folder="one") == {"rank": None}


def test_without_a_gpu_nothing_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    [result] = training.gpu(training.QUICK, tmp_path)
    assert (result.met, result.note) == ("not measured", "no GPU here")


def test_gpu_utilization_is_sampled(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nfor share in 0 50 100; do echo $share; done\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    start_s = time.time()
    with training_runs.sample_gpu() as samples:
        while len(samples) < 3:
            assert time.time() < start_s + 30
            time.sleep(0.01)
    assert [share for _, share in samples] == [0, 0.5, 1]
    assert training_runs.busy_fraction(samples, start_s, time.time()) == 0.5
    with pytest.raises(common.BenchmarkError, match="gave no sample"):
        training_runs.busy_fraction(samples, start_s - 2, start_s - 1)


def test_cost_of_a_run_follows_from_two_datasets(tmp_path, monkeypatch):
    def answer(function, **arguments):
        if function is training.opening_of:
            return {"bytes": 3e6, "seconds": 0.01}
        n = int(arguments["folder"].rpartition("-")[2])
        return 2e-3 * n + 5e-6 * n**2

    pretend(monkeypatch, answer)
    _, index = training.opening(training.QUICK, tmp_path)
    assert index.details["linear_s"] == pytest.approx(2e-3)
    assert index.details["square_s"] == pytest.approx(5e-6)
    assert len(training.find_recordings(tmp_path / "index-6")) == 6


def test_preparing_costs_are_per_volume_and_per_run(tmp_path, monkeypatch):
    def answer(function, folder, fraction):
        n_time_points = round(600 * fraction)
        return {"seconds": 7 + 0.25 * n_time_points, "n_time_points": n_time_points, "n_voxels": 1000}

    pretend(monkeypatch, answer)
    [result] = training.preparing(training.Sizes(prepared=(0.1, 0.5)), tmp_path)
    assert result.found == pytest.approx(4)
    assert result.details["run_s"] == pytest.approx(7)


def test_an_opened_run_has_a_smaller_mask(stores):
    views = training_runs.open_repeatedly(stores, 2)
    whole = training_runs.SHAPES["tiny"].space().n_features
    assert [view.n_features for view in views] == [whole - 1] * 2
    assert views[0].read(0, 2).shape == (2, whole - 1)


@pytest.mark.parametrize("shape", ["tiny", "small", "parcels"])
def test_shapes_are_those_of_the_presets(shape):
    entry = training_runs.SHAPES[shape]
    space = entry.space()
    mask = None if space.mask is None else torch.from_numpy(space.mask)
    model = entry.study().model.build(n_features=space.n_features, mask=mask)
    assert isinstance(model, nn.Module)
    assert model.n_features == space.n_features
