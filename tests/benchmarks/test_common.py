"""What the benchmarks share."""

import json
import time
from pathlib import Path

import common
import pytest


@pytest.mark.parametrize(
    ("found", "is_lower_better", "met"),
    [
        (60.0, False, "aim"),
        (59.99, False, "reach"),
        (30.0, False, "reach"),
        (29.9, False, "no"),
        (None, False, "not measured"),
        (1.0, True, "aim"),
        (60.0, True, "aim"),
        (60.004, True, "aim"),
        (60.01, True, "no"),
        (float("nan"), False, "no"),
    ],
)
def test_results_are_judged_by_shown_digits(found: float | None, is_lower_better: bool, met: str) -> None:
    result = common.Result(row="r", case="c", found=found, reach=30, aim=60, is_lower_better=is_lower_better)
    assert result.met == met


def test_a_result_without_demands_is_not_judged() -> None:
    assert common.Result(row="r", case="c", found=3.0).met == "-"


def test_results_name_their_origin_and_no_folders(tmp_path: Path) -> None:
    metadata = common.provenance(
        ["--full", "--output", str(tmp_path / "x.json"), f"--output={tmp_path}/y.json"], ["no-such"]
    )
    results = [common.Result(row="exact", case="T 512", found=31.4159, reach=30, aim=60, details={"n": 1})]
    common.write_results(tmp_path / "found.json", "Speed", results, metadata)
    text, content = (tmp_path / "found.md").read_text(), json.loads((tmp_path / "found.json").read_text())
    assert str(tmp_path) not in text + json.dumps(content)
    assert content["command"].endswith("--full --output x.json --output=y.json")
    assert {"date", "commit", "is_dirty", "machine", "versions"} <= set(content)
    assert content["versions"]["no-such"] == "not installed"
    assert content["results"][0]["found"] == 31.4159
    assert content["results"][0]["met"] == "reach"
    assert "31.42" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.json", "found.md"]


def test_every_second_call_of_a_side_is_timed() -> None:
    calls: list[str] = []
    sides = {name: lambda name=name: calls.append(name) for name in "ab"}
    found = common.alternate(sides, seconds=0.0, min_rounds=2)
    assert "".join(calls) == "aabbaabb"
    assert found["a"]["n_rounds"] == found["b"]["n_rounds"] == 2


def test_waiting_costs_no_processor_time() -> None:
    assert common.cpu_seconds(lambda: time.sleep(0.05)) < 0.04


def _grow(n_bytes: int) -> int:
    return common.peak_growth_bytes(lambda: bytearray(n_bytes))


def test_peak_memory_is_that_of_the_call() -> None:
    found = common.in_fresh_process(_grow, n_bytes=50_000_000)
    assert 49_000_000 < found < 53_000_000


def test_a_failed_process_says_why() -> None:
    with pytest.raises(common.BenchmarkError, match="MemoryError"):
        common.in_fresh_process(_grow, n_bytes=2**60)
