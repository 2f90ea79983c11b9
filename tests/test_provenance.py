import json
import re
import subprocess
import sys

import pytest

from titan_neuro.provenance import commit, digest, read_stage, recorded, versions

RECORD = """
import sys
from pathlib import Path
from titan_neuro.provenance import recorded
folder, number = Path(sys.argv[1]), int(sys.argv[2])
with recorded(folder, folder / ".work", f"prepare sub-{number}", seed=number):
    pass
"""


def test_parallel_jobs_lose_no_record(tmp_path):
    commands = [[sys.executable, "-c", RECORD, str(tmp_path), str(number)] for number in range(12)]
    jobs = [subprocess.Popen(command) for command in commands]
    assert [job.wait(timeout=60) for job in jobs] == [0] * 12
    stages = json.loads((tmp_path / "provenance.json").read_text())["stages"]
    assert set(stages) == {f"prepare sub-{number}" for number in range(12)}
    record = stages["prepare sub-7"]
    assert record["seed"] == 7
    assert record["wall_time_s"] >= 0
    assert 10**7 < record["peak_memory_bytes"] < 10**11
    assert record["versions"]["torch"] == versions()["torch"]
    assert record["started"].endswith("+00:00")


def test_a_failed_stage_leaves_no_record(tmp_path):
    with pytest.raises(ZeroDivisionError), recorded(tmp_path, tmp_path / ".work", "evaluate"):
        raise ZeroDivisionError
    assert read_stage(tmp_path, "evaluate") == {}


def test_idle_stages_keep_their_record(tmp_path):
    for empty in (False, True):
        with recorded(tmp_path, tmp_path / ".work", "evaluate", empty=empty) as record:
            if empty:
                record.clear()
    assert read_stage(tmp_path, "evaluate")["empty"] is False


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stages": []}', '{"stages": {"prepare": 1}}'])
def test_a_damaged_file_is_begun_anew(tmp_path, caplog, content):
    (tmp_path / "provenance.json").write_text(content)
    with recorded(tmp_path, tmp_path / ".work", "evaluate"):
        pass
    assert re.search(r"provenance\.json: (is not|expected|the keys stages)", caplog.text)
    assert "records of earlier stages are lost" in caplog.text
    assert list(json.loads((tmp_path / "provenance.json").read_text())["stages"]) == ["evaluate"]


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    (tmp_path / ".provenance.json.0123abcd.tmp").write_text("{")
    with recorded(tmp_path, tmp_path / ".work", "evaluate") as record:
        record.clear()
    assert [path.name for path in tmp_path.iterdir()] == [".work"]


def test_digest_ignores_the_order_of_keys():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


def test_the_commit_of_a_checkout_is_found():
    found = commit()
    assert found is None or len(found.removesuffix("-dirty")) == 40
