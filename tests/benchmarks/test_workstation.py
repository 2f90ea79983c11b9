"""Costs of a study of voxels: which part a step belongs to, and the lines through two studies."""

import json

import pytest
import workstation
import workstation_scale
from workstation_scale import Cost, Study, check_table, costs, formula_table, seconds


def results(scale, *, n_folds=2, factor=1.0):
    """Results of a study whose parts take what `expected` says, times a factor."""
    fit, test = 100 * scale, 20 * scale
    train, evaluate, now = [], [], 0.0
    for _ in range(1, n_folds + 1):
        train.append(["before linear skip", now])
        for name, cost in (("linear skip", 3 + 0.1 * fit), ("closed form", 4 + 0.2 * fit)):
            now += cost * factor
            train.append([name, now])
        now += (1 + 0.3 * 10 * scale) * factor
    train_s, now = now, 0.0
    for fold in range(1, n_folds + 1):
        steps = {
            "mean is fitted": 0.5 * fit,
            "every row is causal": 7,
            "sub-1_run-1 is scored with seed 0": 0.9 * test + 6,
        }
        for step, cost in steps.items():
            now += cost * factor
            evaluate.append([f"Fold {fold} of {n_folds}: {step}", now])
    stages = {
        "train": {"cpu_s": train_s, "steps": train},
        "evaluate": {"cpu_s": now + 3 + 0.01 * 500 * scale, "steps": evaluate},
        **{f"probe {name}": {"cpu_s": 11 + 2.0 * test * n_folds, "steps": []} for name in workstation.PROBES},
        "report": {"cpu_s": 8.0, "steps": []},
    }
    folds = {"train": [fit - 10 * scale] * n_folds, "validation": [10 * scale] * n_folds, "test": [test] * n_folds}
    rows = [{"row": name, "details": {**stage, "wall_s": 9.0, "peak_bytes": 2e9}} for name, stage in stages.items()]
    return [*rows, {"row": "volumes", "details": {**folds, "runs": 500 * scale, "n_voxels": 7}}]


def test_two_studies_give_constants_and_rates():
    short, longer = (Study.measured(results(scale)) for scale in (1, 3))
    assert longer.volumes == {"validation": 60, "test": 120, "runs": 1500, "fit": 600}
    found = costs(short, longer)
    assert found["linear skip"].volume_s == pytest.approx(0.1)
    assert found["linear skip"].constant_s == pytest.approx(3)
    assert found["fits of baselines"].volume_s == pytest.approx(0.5)
    assert found["scores of test runs"] == Cost(pytest.approx(6), pytest.approx(0.9))
    assert found["check of causality"] == Cost(pytest.approx(7), 0.0)
    assert found["ceilings, tables, maps"].volume_s == pytest.approx(0.01)
    assert found["report"] == Cost(8.0, 0.0)


def test_a_third_study_is_held_against_the_line():
    found = costs(*(Study.measured(results(scale)) for scale in (1, 3)))
    third = Study.measured(results(10, n_folds=4))
    expected = seconds(third, found)
    for part in ("linear skip", "closed form", "fits of baselines", "scores of test runs", "report"):
        assert third.cpu_s[part] == pytest.approx(expected[part])
    assert "| **1.00**" in check_table(third, found)
    slower = Study.measured(results(10, n_folds=4, factor=2.0))
    assert "| 2.00" in check_table(slower, found)
    # What was not measured is left out.
    part = Study.measured([row for row in results(10) if row["row"] in ("train", "volumes")])
    assert "evaluate" not in check_table(part, found)
    assert "1.50 h" in formula_table(third, found, 5400.0)


def test_no_line_falls():
    falling = costs(Study.measured(results(1, factor=30.0)), Study.measured(results(3)))
    assert all(cost.volume_s >= 0 and cost.constant_s >= 0 for cost in falling.values())


@pytest.mark.slow
def test_a_tiny_study_is_measured_stage_by_stage(tmp_path):
    """Of a few dozen voxels; the parts of its stages add up to what the stages took."""
    sizes = ["--subjects", "3", "--runs", "3", "--volume-scale", "0.15", "--voxel-size-mm", "30"]
    settings = ["prepare.calibration_s=20", "prepare.warmup_s=5", "model.recall={width: 16, n_components: 8}"]
    target, folder = tmp_path / "found.json", tmp_path / "study"
    folder.mkdir()
    flags = [word for setting in settings for word in ("--set", setting)]
    assert workstation.main(["--folder", str(folder), *sizes, *flags, "--output", str(target)]) == 0
    study = Study.measured(json.loads(target.read_text())["results"])
    assert study.n_folds == 3 and set(study.cpu_s) == set(workstation_scale.PARTS)
    stages = [name for name in study.stages if name not in ("simulate", "prepare")]
    assert sum(study.cpu_s.values()) == pytest.approx(sum(study.stages[name]["cpu_s"] for name in stages), rel=0.01)
