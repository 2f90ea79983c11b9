"""What is averaged over a scene must be the plain mean over its time points, block by block or at once."""

import dataclasses

import numpy as np
import pytest
import torch
from event_runs import persistence_forecaster
from recall_runs import N_FEATURES
from retold_stories import Story

from titan_neuro.probing.tools.scenes import (
    average_activity,
    average_over_runs,
    average_readings,
    find_scenes,
    forecast_scenes,
    named_scenes,
    task_of,
)


@pytest.fixture(scope="module")
def run():
    return Story(n_features=N_FEATURES).watching(0)


def scenes_of(run, delay_s=0.0, repetition_time=1.0):
    return find_scenes(run, "scene", delay_s=delay_s, repetition_time=repetition_time)


def test_scenes_are_those_of_the_events(run):
    scenes = scenes_of(run)
    assert list(scenes) == named_scenes(run, "scene") == [str(number) for number in range(1, 17)]
    np.testing.assert_array_equal(scenes["2"], np.arange(16, 28))
    np.testing.assert_array_equal(scenes_of(run, delay_s=5)["2"], np.arange(21, 33))
    np.testing.assert_array_equal(scenes_of(run, repetition_time=2.0)["2"], np.arange(8, 14))
    assert task_of(run) == "film" and find_scenes(run, "place", delay_s=0, repetition_time=1) == {}


def test_moving_heads_and_late_scenes_are_left_out(run):
    moving = dataclasses.replace(run, high_motion=np.zeros(run.n_time_points, bool))
    moving.events, moving.event_columns = run.events, run.event_columns
    moving.high_motion[10:28] = True
    scenes = scenes_of(moving)
    np.testing.assert_array_equal(scenes["1"], np.arange(4, 10))
    assert "2" not in scenes and "16" not in scenes_of(moving, delay_s=12)


def test_repeated_names_are_one_scene(run):
    again = dataclasses.replace(run)
    again.events = ((20.0, 5.0, "scene"), (0.0, 3.0, "scene"), (40.0, float("nan"), "scene"))
    again.event_columns = {"scene": ["b", "a", "b"]}
    scenes = scenes_of(again)
    assert list(scenes) == ["a", "b"]
    np.testing.assert_array_equal(scenes["b"], np.arange(20, 25))


def test_patterns_are_means_over_time_points(run):
    scenes, series = scenes_of(run), run.series.numpy()
    patterns = average_activity(run, scenes)
    for name, time_points in scenes.items():
        np.testing.assert_allclose(patterns[name], series[time_points].mean(axis=0), atol=1e-6)
    readings = average_readings(series[::8] * 3 + 1, np.arange(0, run.n_time_points, 8), {"x": np.array([7, 8, 16])})
    scaled = (series[::8] - series[::8].mean(axis=0)) / series[::8].std(axis=0)
    np.testing.assert_allclose(readings["x"], scaled[[1, 2]].mean(axis=0), atol=1e-5)
    assert average_readings(series, np.arange(len(series)), {"x": np.array([999])}) == {}


def test_constant_units_count_as_zero():
    assert average_readings(np.ones((5, 3)), np.arange(5), {"x": np.arange(2)})["x"].tolist() == [0, 0, 0]


def test_runs_are_averaged_scene_by_scene():
    joined = average_over_runs([{"a": np.ones(2)}, {"b": np.zeros(2), "a": np.full(2, 3.0)}])
    assert {name: pattern.tolist() for name, pattern in joined.items()} == {"a": [2, 2], "b": [0, 0]}


def test_forecasts_of_scenes_are_those_of_the_model(run):
    # In float64: the memory reads in parts of another length, which float32 rounds in another way.
    model, scenes = persistence_forecaster(horizons=(1, 3)).double(), scenes_of(run)
    with torch.no_grad():
        model.decoder.patterns.normal_(std=0.1)
        linear, residual, _ = model.forecast_parts(run.series[None].double())
    found = forecast_scenes(model, run, scenes)
    linear, forecasts = linear[0].numpy(), (linear + residual)[0].numpy()
    series = run.series.numpy()
    for index, h in enumerate((1, 3)):
        for name in ("1", "7", "16"):
            expected = forecasts[scenes[name] - h, index].mean(axis=0)
            np.testing.assert_allclose(found.patterns[h][name], expected, atol=1e-4)
    np.testing.assert_allclose(found.strength, np.sqrt(residual[0].square().mean(dim=(1, 2)).numpy()), atol=1e-5)
    assert np.isnan(found.skill[:3]).all()
    errors = [
        [np.square(each[40 - h, index] - series[40]).sum() for index, h in enumerate((1, 3))]
        for each in (forecasts, linear)
    ]
    assert found.skill[40] == pytest.approx(np.mean(1 - np.divide(*errors)), abs=1e-4)
