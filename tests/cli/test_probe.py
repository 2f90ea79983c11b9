"""The probes on the command line: what they write, and when they are run again."""

import json
import shutil

import pandas as pd
import pytest

from titan_neuro.probing import PROBES
from titan_neuro.probing.tools.results import SCORES


@pytest.mark.parametrize("name", PROBES)
def test_each_probe_writes_a_table_and_a_summary(study, name):
    short = name.replace("-", "")
    result = json.loads((study / f"output/group/task-movie_desc-{short}_result.json").read_text())
    assert result["Probe"] == name
    assert result["Asks"] == PROBES[name].question
    assert result["Summary"].endswith(".")
    assert result["Protocol"] == "subject"
    assert "Interval" in result
    assert "Test" in result
    table = pd.read_csv(study / f"output/group/task-movie_desc-{short}_scores.tsv", sep="\t", na_values="n/a")
    assert tuple(table.columns) == SCORES
    assert (table["n_subjects"] <= 3).all()
    assert table["p"].dropna().between(0, 1).all()
    sidecar = json.loads((study / f"output/group/task-movie_desc-{short}_scores.json").read_text())
    assert sidecar["Test"] == result["Test"]


def test_a_changed_table_is_decoded_again(study, titan_neuro, tmp_path):
    output = tmp_path / "output"
    shutil.copytree(study / "output", output)
    table = tmp_path / "task-movie_desc-scene_events.tsv"
    rows = "".join(f"{onset}\t4\t{'day' if onset % 16 else 'night'}\n" for onset in range(0, 60, 8))
    table.write_text(f"onset\tduration\ttrial_type\n{rows}")
    asked = ("probe", "decoding", output, "--set", f"probe.decoding.tables=[{table}]")
    assert "scene" in titan_neuro(*asked).stderr
    assert "run before" in titan_neuro(*asked).stderr
    table.write_text(table.read_text().replace("night", "dusk"))
    assert "run before" not in titan_neuro(*asked).stderr
    table.unlink()
    refused = titan_neuro(*asked, check=False)
    assert refused.returncode != 0
    assert str(table) in refused.stderr
