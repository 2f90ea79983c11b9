"""The benchmark of the linear autoregression, at sizes that take seconds."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

# By its path: the package has a module of the same name.
_SPEC = importlib.util.spec_from_file_location(
    "benchmark_of_autoregression", Path(__file__).parents[2] / "benchmarks/autoregression.py"
)
benchmark = importlib.util.module_from_spec(_SPEC)


@pytest.fixture(autouse=True, scope="module")
def _threads() -> object:
    import sys

    n_threads = torch.get_num_threads()
    sys.modules[_SPEC.name] = benchmark
    _SPEC.loader.exec_module(benchmark)
    yield
    del sys.modules[_SPEC.name]
    torch.set_num_threads(n_threads)


def test_both_rows_are_measured_and_written(tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    assert benchmark.main(["--quick", "--threads", "1", "--output", str(target)]) == 0
    content = json.loads(target.read_text())
    assert [result["row"] for result in content["results"]] == ["seconds", "peer"]
    assert all(result["found"] > 0 for result in content["results"])
    assert content["results"][0]["details"]["gate"] < 1e-5
    assert str(tmp_path) not in target.read_text() + target.with_suffix(".md").read_text()


def test_rows_are_the_frames_up_to_the_target() -> None:
    run = benchmark.NoiseRun("r", torch.arange(30.0)[:, None])
    design, target = benchmark.rows_of([run], 0, 3, 2)
    np.testing.assert_array_equal(design[0], [7, 6])
    assert target[0] == 10
    assert target[-1] == 29
    assert len(design) == len(target)


def test_nothing_is_timed_when_the_weights_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "Ridge", lambda alpha: Ridge(alpha=2 * alpha))
    assert benchmark.main(["--quick", "--threads", "1", "--output", str(tmp_path / "found.json")]) != 0
    assert "Nothing is timed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
