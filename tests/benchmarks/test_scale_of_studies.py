"""The benchmark of studies with many runs, at sizes that take seconds."""

import json

import common
import pytest
import scale_of_studies


def test_stages_are_measured_by_size(tmp_path, capsys):
    target = tmp_path / "found.json"
    arguments = ["--subjects", "1", "2", "--stages", "help", "prepare", "--folder", str(tmp_path)]
    assert scale_of_studies.main([*arguments, "--output", str(target)]) == 0
    found = {(line["row"], line["case"]): line for line in json.loads(target.read_text())["results"]}
    for row in ("help", "prepare"):
        cases = [found[row, f"{n} subjects x 5 runs: CPU, s"] for n in (1, 2)]
        assert all(case["found"] > 0 and case["details"]["peak_bytes"] > 10**7 for case in cases)
        growth = found[row, "2 over 1 subjects: CPU"]
        assert growth["found"] == pytest.approx(cases[1]["found"] / cases[0]["found"])
        assert growth["reach"] == pytest.approx(2.4)
    assert found["prepare", cases[0]["case"]]["found"] > found["help", cases[0]["case"]]["found"]
    assert "prepare, 2 subjects" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == [target, target.with_suffix(".md")]


def test_a_stage_that_fails_is_named(tmp_path):
    with pytest.raises(common.BenchmarkError, match="titan-neuro train ended with code 2"):
        scale_of_studies.measure_command(["train"], tmp_path / "log.txt")
