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
    monkeypatch.setattr(training, "train_together", lambda n, **arguments: training.watch_training(**arguments))
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
    ahead = found["8 voxels a side, read while the model learns"]
    assert ahead["reach"] == 0.05
    assert ahead["found"] == ahead["details"]["waited_s"] / ahead["details"]["seconds"]
    assert str(tmp_path) not in target.read_text()
    assert sorted(tmp_path.iterdir()) == [target, target.with_suffix(".md")]


def test_memory_is_judged_by_the_shortest_runs(tmp_path, monkeypatch):
    peaks = iter([100, 105, 106])
    asked = pretend(monkeypatch, lambda function, **arguments: {"bytes": next(peaks), "steps": 1})
    sizes = training.Sizes(memory=("tiny",), lengths=(100, 200, 2_000), worn_steps=10)
    assert [result.met for result in training.memory(sizes, tmp_path)] == ["-", "reach", "no"]
    # Windows of 32: the longest runs have more than ten, and are read once; the others until there are as many.
    assert [call["training"]["steps_per_epoch"] for call in asked] == [10, 10, 1]
    assert all(call["environment"] == common.UNPOOLED_HEAP for call in asked)
    lengths = [
        training_runs.read_data(tmp_path / "tiny" / n).fit_runs[0].n_time_points for n in ("100", "200", "2000")
    ]
    assert lengths == [100, 200, 2_000]


def test_it_is_the_packages_own_training(stores, monkeypatch):
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


def test_a_film_is_given_and_whoever_is_trained_on_is_left_out_of_it(stores):
    data = training_runs.read_data(stores)
    recall = training_runs.given_recall(data, "tiny")
    assert recall.stimulus.n_positions == training_runs.SHAPES["tiny"].stimulus_positions
    assert recall.stimulus.keys_without.shape == (4, *recall.stimulus.keys.shape)
    keys = [run.key for run in data.fit_runs]
    assert recall.held_out_index([*keys, "who"])[:, 0].tolist() == [0, 1, 2, 3, -1]


def test_runs_share_a_film_and_have_noise_of_their_own(stores):
    runs = training_runs.read_data(stores).fit_runs
    one, other = (run.read(0, 130).double() for run in runs[:2])
    assert one.std() == pytest.approx(1, abs=0.1)
    alike = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
    assert float(alike) == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize("ahead", [True, False])
def test_waiting_is_noted_and_windows_are_the_same(stores, ahead):
    class Slow(StreamWindows):
        def __getitem__(self, index):
            time.sleep(0.02)
            return super().__getitem__(index)

    runs = training_runs.read_data(stores).fit_runs
    windows = Slow(runs, window_time_points=32, n_streams=2, horizons=(1, 2), seed=3)
    passes = []
    found = list(training_runs.watched_loader(passes, ahead=ahead)(windows))
    [noted] = passes
    assert noted.steps == len(windows) == len(found)
    # Nobody learns here: all reading is waited for.
    assert noted.waited_s >= 0.02 * len(windows)
    assert all(torch.equal(one.series, other.series) for one, other in zip(found, StreamLoader(windows), strict=True))


def test_two_processes_are_told_of_each_other_and_the_first_answers(monkeypatch):
    asked = []

    def here(function, *, environment=None, **arguments):
        asked.append(environment)
        return {"rank": None if environment is None else environment["RANK"]}

    monkeypatch.setattr(training, "in_fresh_process", here)
    assert training.train_together(2, folder="one") == {"rank": "0"}
    told = sorted(asked, key=lambda variables: variables["RANK"])
    assert [variables["RANK"] for variables in told] == ["0", "1"]
    assert {variables["WORLD_SIZE"] for variables in told} == {"2"}
    assert len({variables["MASTER_PORT"] for variables in told}) == 1
    assert training.train_together(1, folder="one") == {"rank": None}


def test_without_a_gpu_nothing_is_said_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    [result] = training.gpu(training.QUICK, tmp_path)
    assert (result.met, result.note) == ("not measured", "no GPU here")


def test_a_gpu_is_busy_as_its_driver_says(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nfor share in 0 50 100; do echo $share; done\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    began = time.time()
    with training_runs.watched_gpu() as samples:
        while len(samples) < 3:
            assert time.time() < began + 30
            time.sleep(0.01)
    assert [share for _, share in samples] == [0, 0.5, 1]
    assert training_runs.busy_fraction(samples, began, time.time()) == 0.5
    with pytest.raises(common.BenchmarkError, match="told nothing"):
        training_runs.busy_fraction(samples, began - 2, began - 1)


def test_what_a_further_run_costs_is_told_from_what_all_cost(tmp_path, monkeypatch):
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


def test_preparing_is_told_by_the_volume_and_by_the_run(tmp_path, monkeypatch):
    def answer(function, folder, share):
        n_time_points = round(600 * share)
        return {"seconds": 7 + 0.25 * n_time_points, "n_time_points": n_time_points, "n_voxels": 1000}

    pretend(monkeypatch, answer)
    [result] = training.preparing(training.Sizes(prepared=(0.1, 0.5)), tmp_path)
    assert result.found == pytest.approx(4)
    assert result.details["run_s"] == pytest.approx(7)


def test_an_opened_run_is_seen_through_a_smaller_mask(stores):
    views = training_runs.open_again(stores, 2)
    whole = training_runs.SHAPES["tiny"].space().n_features
    assert [view.n_features for view in views] == [whole - 1] * 2
    assert views[0].read(0, 2).shape == (2, whole - 1)


@pytest.mark.parametrize("shape", ["tiny", "small", "parcels"])
def test_shapes_are_those_of_the_presets(shape):
    told = training_runs.SHAPES[shape]
    space = told.space()
    mask = None if space.mask is None else torch.from_numpy(space.mask)
    model = told.study().model.build(n_features=space.n_features, mask=mask)
    assert isinstance(model, nn.Module)
    assert model.n_features == space.n_features
