"""The benchmark of the memory, at sizes that take seconds; how fast anything is, is not tested."""

import json
import sys
from pathlib import Path

import common
import memory_sides
import memory_speed
import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TINY = memory_speed.Sizes(
    exact=((16, 1, 70),),
    coarse=((16, 2, 128),),
    peak=((16, 2, 70),),
    scaling=((16, 1, 128),),
    stream=(16, 2, 300),
    short=64,
    short_stream=100,
    call_tokens=100,
    seconds=0.0,
)


@pytest.fixture(autouse=True)
def _peer_and_threads() -> object:
    pytest.importorskip("titans_pytorch", reason="titans-pytorch comes with the extra [dev]")
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


def test_all_rows_are_measured_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Eight fresh processes take longer to begin than everything else does.
    monkeypatch.setattr(memory_speed, "in_fresh_process", lambda function, environment=None, **given: function(**given))
    monkeypatch.setattr(memory_speed, "peak_growth_bytes", lambda call: (call(), 1000)[1])
    target = tmp_path / "found.json"
    assert memory_speed.main(["--output", str(target)], TINY) == 0
    content = json.loads(target.read_text())
    assert {result["row"] for result in content["results"]} == set(memory_speed.ROWS)
    for result in content["results"]:
        assert result["row"] == "gpu" or result["found"] > 0
        assert result["case"] in target.with_suffix(".md").read_text()
    assert max(content["gate"].values()) < 1e-10
    assert content["versions"]["titans-pytorch"] == "0.5.5"
    assert str(tmp_path) not in target.read_text()


def test_streams_are_measured_in_fresh_processes() -> None:
    arguments = {"kind": "memory", "width": 16, "depth": 1, "n_tokens": 300, "call_tokens": 100}
    found = common.in_fresh_process(memory_speed.stream_bytes, environment=common.UNPOOLED_HEAP, **arguments)
    # Weights and momentum, float32.
    assert found["state_bytes"] == memory_speed.STREAM_BATCH * 4 * 2 * 4 * 4 * 4
    assert found["peak_bytes"] > found["state_bytes"]


def test_nothing_is_timed_when_the_numbers_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = memory_sides.Memory.forward
    monkeypatch.setattr(memory_sides.Memory, "forward", lambda *given: (forward(*given)[0] * (1 + 1e-8), None))
    assert memory_speed.main(["--rows", "exact", "--output", str(tmp_path / "found.json")], TINY) != 0
    assert "Nothing is timed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_missing_peer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "titans_pytorch", None)
    with pytest.raises(common.BenchmarkError, match=r"pip install -e '\.\[dev\]'"):
        memory_sides.peer("memory", 16, 1, is_exact=True)


def test_a_missing_gpu_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    results, errors = memory_speed.measure(TINY, ["gpu"])
    assert {result.met for result in results} == {"not measured"}
    assert not errors


def test_what_the_gpu_would_run() -> None:
    scan = memory_speed._GpuScan(16, 1, 1, 70, "chunked", device="cpu")
    scan()
    assert scan.outputs().isfinite().all()


def test_multiply_adds_of_one_layer() -> None:
    # Per token and head of width 4: 5 D^2 + 2 C D forward, twice that backward.
    assert memory_speed.multiply_adds(16, 1, 1) == 3 * 4 * (5 * 16 + 2 * 64 * 4)


def test_an_unknown_row_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        memory_speed.main(["--rows", "exact,no"])
    assert "expected rows of exact" in capsys.readouterr().err
