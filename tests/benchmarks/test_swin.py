"""The benchmark of the Swin, on a small grid; how fast anything is, is not tested."""

import json

import pytest
import swin
import torch


@pytest.fixture(autouse=True)
def _threads():
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


def test_all_rows_are_measured_and_written(tmp_path, monkeypatch):
    # Importing torch and MONAI twice more would take most of the time; `growth_of` is called as it is.
    monkeypatch.setattr(swin, "in_fresh_process", lambda function, **arguments: function(**arguments))
    target = tmp_path / "found.json"
    assert swin.main(["--quick", "--output", str(target)]) == 0
    content = json.loads(target.read_text())
    assert [result["row"] for result in content["results"]] == ["forward", "forward + backward", "memory", "memory"]
    assert all(result["found"] > 0 for result in content["results"])
    assert max(content["gate"].values()) < 1e-5


def test_nothing_is_timed_when_maps_differ(tmp_path, monkeypatch, capsys):
    encode = swin.MonaiTokenizer._encode
    monkeypatch.setattr(swin.MonaiTokenizer, "_encode", lambda self, series: encode(self, series) * 1.001)
    assert swin.main(["--quick", "--output", str(tmp_path / "found.json")]) != 0
    assert "Nothing is timed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_mask_has_the_fraction_of_a_brain():
    assert swin.brain("2 mm").float().mean() == pytest.approx(0.22, abs=0.005)
