"""The whole workflow on this machine: it does what `titan-neuro run` does, once, and survives being killed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import tiny_study

from titan_neuro.study import Study
from titan_neuro.study.pipelines import find_pipelines

# The results of a study; the other files record when and by whom they were made.
RESULTS = ("sub-*/func/*.zarr/**/*", "models/**/*", "group/*")


@pytest.fixture
def config(study, tmp_path):
    """A study that `titan-neuro run` has gone through, seen through the workflow: nothing is fetched."""
    shutil.copytree(study / "output", tmp_path / "output", symlinks=True)
    settings = "[training.max_epochs=2, training.steps_per_epoch=2]"
    return {
        **{"study": "demo", "source": "null", "bids_dir": study / "bids", "output_dir": tmp_path / "output"},
        **{"settings": study / "debug.yaml", "set": settings},
    }


def contents(output: Path) -> dict[str, tuple[str, int]]:
    files = {path for pattern in RESULTS for path in output.glob(pattern) if path.is_file()}
    # Logs tell of times.
    files = {path for path in files if "logs" not in path.parts}
    return {
        str(path.relative_to(output)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in files
    }


@pytest.mark.slow
def test_the_workflow_equals_the_two_run_calls(snakemake, config, tmp_path):
    output = tmp_path / "output"
    before = contents(output)
    assert len(before) > 30
    # One model is to be made, and with it what follows from all of them.
    shutil.rmtree(output / "models/seed-0/fold-2")
    done = snakemake(**config)
    assert done.returncode == 0, done.stdout
    assert f"Report: {output / 'report.html'}" in done.stdout
    after = contents(output)
    assert after.keys() == before.keys()
    kept = [name for name in before if not name.startswith(("models/seed-0/fold-2", "group/"))]
    assert [name for name in kept if after[name] != before[name]] == []
    weights = "models/seed-0/fold-2/titan-mac/model.safetensors"
    assert after[weights][0] == before[weights][0]
    # Then nothing is left to do. A changed setting makes the models stale, and no run.
    assert "Nothing to be done" in snakemake(**config).stdout
    said = snakemake("--dry-run", **{**config, "set": "[training.max_epochs=3, training.steps_per_epoch=2]"}).stdout
    assert re.search(r"^train +3$", said, re.MULTILINE)
    assert not re.search(r"^(prepare|runs|folds) ", said, re.MULTILINE)


def jobs_in(said: str) -> list[str]:
    """Rules of the jobs that were run, in order."""
    return re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):$", said, re.MULTILINE)


def test_a_damaged_run_is_prepared_and_nothing_trained_again(snakemake, listed):
    output = listed["output_dir"]
    before = {name: digest for name, (digest, _) in contents(output).items()}
    damaged = next(path for path in sorted(output.glob("sub-02/func/*.zarr/**/c/*")) if path.is_file())
    damaged.write_bytes(bytes(reversed(damaged.read_bytes())))
    done = snakemake(**listed)
    assert done.returncode == 0, done.stdout
    # The report tells of the stages since; it is made from them again.
    assert [job for job in jobs_in(done.stdout) if job not in {"all", "report"}] == ["prepare", "folds"]
    assert {name: digest for name, (digest, _) in contents(output).items()} == before


@pytest.mark.slow
def test_a_new_subject_becomes_part_of_everything(snakemake, listed):
    output = listed["output_dir"]
    tiny_study.write_recording(listed["bids_dir"], "05")
    done = snakemake(**listed)
    assert done.returncode == 0, done.stdout
    jobs = Counter(jobs_in(done.stdout))
    # Another fold trains on the new subject; one tests it, and keeps its model.
    assert jobs == Counter(
        {"all": 1, "runs": 1, "prepare": 1, "folds": 1, "train": 1, "evaluate": 1, "probe": 6, "report": 1}
    )
    status = Study.open(None, output, config_file=listed["settings"]).status()
    assert {
        name: str(check) for name, check in status.checks.items() if not check.is_done and "predict" not in name
    } == {}
    assert "Nothing to be done" in snakemake(**listed).stdout


@pytest.mark.slow
def test_a_killed_workflow_can_be_unlocked(snakemake, config, tmp_path):
    pipelines = find_pipelines()
    command = [Path(sys.executable).with_name("snakemake"), "--snakefile", pipelines / "Snakefile", "--profile"]
    command += [
        pipelines / "profiles/local",
        "runs",
        "--config",
        *(f"{name}={value}" for name, value in config.items()),
    ]
    marks = tmp_path / "output/.work/workflow"
    with subprocess.Popen(
        list(map(str, command)),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        while not (marks / "logs/runs.log").exists() and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    locked = snakemake("runs", **config)
    assert locked.returncode != 0
    assert "--unlock" in locked.stdout
    assert snakemake("--unlock", **config).returncode == 0
    done = snakemake("runs", **config)
    assert done.returncode == 0, done.stdout
    assert len(list((marks / "runs").glob("*.json"))) == 6


# Braces are wildcards to Snakemake; quotes, blanks and dollars mean something to a shell.
NAME = "{x} 50% $HOME 'it' \"{y,a}\" ü"


@pytest.fixture
def odd_names(tmp_path):
    bids, output, settings = (tmp_path / f"{NAME} {part}" for part in ("bids", "output", "settings"))
    tiny_study.write_dataset(bids)
    settings.write_text(tiny_study.SETTINGS)
    return {"study": "sitcom", "bids_dir": bids, "output_dir": output, "settings": settings}


def test_the_folders_may_have_any_name(snakemake, odd_names, tmp_path):
    done = snakemake("runs", **odd_names)
    assert done.returncode == 0, done.stdout
    assert len(list((odd_names["output_dir"] / ".work/workflow/runs").glob("*.json"))) == 4
    said = snakemake("--dry-run", **odd_names).stdout
    assert {line.split()[1] for line in said.splitlines() if line.startswith("prepare ")} == {"4"}
    assert {path.name for path in tmp_path.iterdir()} == {
        *(odd_names[part].name for part in ("bids_dir", "output_dir", "settings")),
        ".snakemake",
    }


@pytest.mark.slow
def test_the_whole_workflow_runs_in_folders_of_any_name(snakemake, odd_names):
    done = snakemake(**odd_names)
    assert done.returncode == 0, done.stdout
    output = odd_names["output_dir"]
    assert f"Report: {output / 'report.html'}" in done.stdout
    assert "Nothing to be done" in snakemake(**odd_names).stdout
