"""The benchmark of the forecaster, at sizes that take seconds; how fast anything is, is not tested."""

import json
from pathlib import Path

import common
import forecaster_sides
import forecaster_speed
import pytest
import torch


@pytest.fixture(autouse=True)
def _threads() -> object:
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


def test_all_rows_are_measured_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Fresh processes take longer to begin than everything else does.
    here = lambda function, **given: json.loads(json.dumps(function(**given)))  # noqa: E731
    monkeypatch.setattr(forecaster_speed, "in_fresh_process", here)
    monkeypatch.setattr(forecaster_speed, "peak_growth_bytes", lambda call: (call(), 1000)[1])
    monkeypatch.setattr(forecaster_speed, "unpool_heap", lambda: None)
    target = tmp_path / "found.json"
    assert forecaster_speed.main(["--quick", "--output", str(target)]) == 0
    content = json.loads(target.read_text())
    assert {result["row"] for result in content["results"]} == {
        "train", "infer", "time_point", "train memory", "memory", "time",
    }  # fmt: skip
    for result in content["results"]:
        assert result["found"] > 0
        assert result["case"] in target.with_suffix(".md").read_text()
    assert content["gate"]["tiny"]["greatest difference"] < 1e-4
    assert str(tmp_path) not in target.read_text()


def test_the_peer_stops_at_its_limits() -> None:
    found = {"100": {"seconds": 1.0}}
    limits = {"grown_bytes": 10**9, "limit_bytes": 1e11, "limit_s": 5.0}
    assert forecaster_speed._too_much({}, 100, **limits) == ""
    assert forecaster_speed._too_much(found, 400, **limits) == ""
    assert forecaster_speed._too_much(found, 1000, **limits) == "not run: would take more than 10 s"
    assert "more than 2 GB" in forecaster_speed._too_much(found, 200, 10**9, limit_bytes=1e9, limit_s=5.0)
    found["1000"] = {"why": "not run"}
    assert "fewer time points already" in forecaster_speed._too_much(found, 10_000, **limits)
    lines = list(
        forecaster_speed._lines_of("window", "small", 100, 1000, found | {"100": {"seconds": 1, "bytes": 1}}, {})
    )
    assert {line.met for line in lines} == {"not measured"}


def test_sides_match_in_parameters_and_shapes() -> None:
    mine, theirs = forecaster_sides.ours("tiny"), forecaster_sides.peer("tiny")
    counts = [forecaster_sides.n_parameters(model) for model in (mine, theirs)]
    assert counts[1] == pytest.approx(counts[0], rel=0.01)
    series = torch.randn(2, 9, mine.n_features)
    assert mine(series)[0].shape == theirs(series)[0].shape


def test_the_peer_sees_all_earlier_time_points() -> None:
    torch.manual_seed(0)
    model, series = forecaster_sides.peer("tiny"), torch.randn(1, 80, forecaster_sides.peer("tiny").n_features)
    with torch.no_grad():
        before = model(series)[0]
        # Its linear skip sees 8 time points.
        changed = series.clone()
        changed[:, 70] += 1
        assert torch.equal(model(changed)[0][:, :64], before[:, :64])
        changed = series.clone()
        changed[:, 0] += 1
        assert (model(changed)[0] - before).abs().amax((0, 2, 3)).min() > 0


def test_mismatching_sides_are_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = forecaster_sides.peer("tiny")
    monkeypatch.setattr(one, "forecast_last", lambda series: torch.zeros(1, 2, one.n_features))
    monkeypatch.setattr(forecaster_sides, "peer", lambda size: one)
    assert forecaster_speed.main(["--quick", "--output", str(tmp_path / "found.json")]) != 0
    assert "Nothing is timed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_unpooled_heap_gives_back_what_was_freed() -> None:
    found = common.in_fresh_process(forecaster_speed.training_bytes, side="ours", size="tiny", lengths=[20])
    assert found["20"] > 0
