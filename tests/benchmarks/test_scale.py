"""What a study costs: computed from measurements, by the formulas that the page shows."""

import copy
import json
import re
from types import SimpleNamespace

import common
import numpy as np
import pytest
import scale

from titan_neuro.data.splits import SplitConfig
from titan_neuro.study.config import cpu_small


@pytest.fixture(scope="module")
def contents():
    return [json.loads((scale.RESULTS / f"{name}.json").read_text()) for name in ("training", "autoregression")]


def _hours(text):
    return float(text.split(" h")[0].replace(",", ""))


def test_the_page_agrees_with_the_results():
    page = scale.PAGE.read_text()
    assert scale.fill(page, scale.tables(scale.read_results())) == page


def test_windows_are_counted_as_in_training():
    work = scale.budapest_work()
    # 25 subjects in 5 groups: 17 train and 3 validate, each with four runs of five.
    seen = 5 * sum(scale.RUN_VOLUMES) - sum(scale.RUN_VOLUMES)
    assert seen * 17 * 0.95 < sum(work.train) < seen * 17 * 1.1
    assert seen * 3 <= sum(work.validation) < seen * 3 * 1.2
    assert all(volumes % (64 * 2) == 0 for volumes in (*work.train, *work.validation))
    a_fold = work.train[0] + work.validation[0]
    one = scale.Work(train=work.train[:1], validation=work.validation[:1])
    assert one.volumes(epochs=30, trainings=9) == 9 * (30 * a_fold + work.validation[0])


def test_an_epoch_has_at_least_its_steps():
    runs = [
        SimpleNamespace(
            key=f"{number}", subject=f"{number}", stimulus="x", n_time_points=64, scored=np.ones(64, bool), n_features=1
        )
        for number in range(6)
    ]
    training = cpu_small().training
    work = scale.count_work(runs, SplitConfig(), training, n_folds=1)
    assert work.train[0] >= training.steps_per_epoch * training.window_time_points


def test_hours_follow_from_volumes_per_second(contents):
    training, autoregression = contents
    faster = copy.deepcopy(training)
    for row in faster["results"]:
        if row["row"] == "speed":
            row["found"] *= 10
    before, after = (scale.tables(scale.Measured(each, autoregression)) for each in (training, faster))
    for name in ("budapest", "large-training"):
        assert before[name] != after[name]
    measured = scale.Measured(training, autoregression)
    assert f"| {scale.format_number(measured.one_process('budapest'))} volumes/s " in before["measured"]
    lines = [line for line in before["budapest-gpus"].splitlines() if "assumed" in line]
    hours = [_hours(line.split(" | ")[1]) for line in lines]
    assert hours[0] / hours[2] == pytest.approx(scale.SPEED_UPS[2] / scale.SPEED_UPS[0], rel=0.02)
    on_two_cores = next(line for line in before["budapest"].splitlines() if "train, two cores" in line)
    assert hours[0] * scale.SPEED_UPS[0] == pytest.approx(_hours(on_two_cores.split(" | ")[2]), rel=0.02)


def _squeezed(table):
    """A Markdown table without the spaces that align its columns."""
    return re.sub(" +", " ", table)


def test_bytes_of_the_store(contents):
    made = scale.tables(scale.Measured(*contents))
    assert f"| {scale.format_bytes(2 * 235_375 * 76_300)} " in made["budapest"]


def test_a_measured_gpu_gets_a_line(contents, tmp_path):
    for name, content in zip(("training", "autoregression"), contents, strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    row = {"row": "speed", "found": 123.0, "details": {"shape": "budapest", "on_gpu": True}}
    (tmp_path / "training_gpu.json").write_text(json.dumps({"results": [row]}))
    measured = scale.read_results(tmp_path)
    assert measured.one_process("budapest") != 123.0
    speed_up = scale.format_number(123.0 / measured.two_cores("budapest"))
    assert f"g = {speed_up}, measured" in scale.budapest_tables(measured)["budapest-gpus"]


@pytest.mark.parametrize(("cores", "is_shared"), [(1.0, False), (0.5, True)])
def test_a_shared_machine_is_reported(contents, cores, is_shared):
    training, autoregression = copy.deepcopy(contents)
    for row in training["results"]:
        row["details"]["cores"] = cores
    made = scale.tables(scale.Measured(training, autoregression))
    assert ("Other programs used them" in made["measured"]) == is_shared


def test_missing_rows_are_named(contents):
    training, autoregression = copy.deepcopy(contents)
    training["results"] = [row for row in training["results"] if row["row"] != "prepare"]
    with pytest.raises(common.BenchmarkError, match="no row 'prepare'"):
        scale.Measured(training, autoregression)
    with pytest.raises(common.BenchmarkError, match="expected one place for 'limits', found 0"):
        scale.fill("", {"limits": ""})


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (0.01234, "0.0123"), (1.0, "1.00"), (35.9, "35.9"), (1234, "1,230")]
)
def test_numbers_have_three_digits(number, text):
    assert scale.format_number(number) == text
