"""Planning and refusals load nothing that takes seconds: no torch, no library of arrays on disk, no figures."""

import importlib.util
import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "lightning", "monai", "matplotlib", "pandas", "scipy", "sklearn", "nilearn", "nibabel")
PROGRAM = """
import contextlib, io, json, sys
from titan_neuro.cli import main
stderr = io.StringIO()
with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
    code = main(sys.argv[2:])
loaded = [name for name in sys.argv[1].split() if name in sys.modules]
print(json.dumps({"code": code, "text": stderr.getvalue(), "loaded": loaded}))
"""


@pytest.fixture
def annexed(tmp_path):
    """A dataset of two runs, whose images are annexed and not on this machine."""
    root = tmp_path / "bids"
    for subject in ("01", "02"):
        stem = root / f"sub-{subject}" / "func" / f"sub-{subject}_task-movie"
        stem.parent.mkdir(parents=True)
        key = "MD5E-s227526384--1a20752ace79b263bcd8662d974e9fc8.nii.gz"
        stem.with_name(f"{stem.name}_bold.nii.gz").symlink_to(f"../../.git/annex/objects/xQ/vg/{key}/{key}")
        stem.with_name(f"{stem.name}_bold.json").write_text('{"RepetitionTime": 1}')
        stem.with_name(f"{stem.name}_events.tsv").write_text("onset\tduration\ttrial_type\n0\t10\tmovie\n")
    (root / "dataset_description.json").write_text('{"Name": "annexed", "BIDSVersion": "1.8.0"}')
    return root


def run(*arguments, heavy=HEAVY):
    command = [sys.executable, "-c", PROGRAM, " ".join(heavy), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_names_of_heavy_modules_are_those_of_modules():
    assert [name for name in HEAVY if importlib.util.find_spec(name) is None] == []


def test_planning_loads_nothing_heavy(annexed, tmp_path):
    result = run("run", annexed, tmp_path / "out", "participant", "--dry-run", heavy=(*HEAVY, "zarr"))
    assert (result["code"], result["loaded"]) == (0, [])
    assert "2 subjects, 2 runs:" in result["text"]
    assert "repetition time: 1 s, from the sidecar" in result["text"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["prepare", "BIDS", "OUT", "--set", "training.max_epoch=3"], 10, "Did you mean 'max_epochs'"),
        (["prepare", "BIDS", "OUT", "--set", "model.backbone.dim=30"], 10, "each head"),
        (["run", "BIDS", "OUT", "participant", "--participant-label", "99"], 5, "no run matches subject 99"),
        (["run", "NOTHING", "OUT", "participant"], 3, "no such folder"),
        (["run", "BIDS", "OUT", "group"], 3, "contains no prepared run"),
        (["train", "NOTHING"], 3, "contains no prepared run"),
        (["evaluate", "NOTHING"], 3, "contains no prepared run"),
        (["report", "NOTHING"], 3, "no such folder"),
    ],
)
def test_refusals_load_nothing_heavy(annexed, tmp_path, arguments, code, message):
    folders = {"BIDS": annexed, "OUT": tmp_path / "out", "NOTHING": tmp_path / "nothing"}
    result = run(*(folders.get(argument, argument) for argument in arguments))
    assert message in result["text"]
    assert (result["code"], result["loaded"]) == (code, [])
