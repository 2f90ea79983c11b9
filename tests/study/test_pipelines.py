"""The commands of whole studies in the help: exact, and quick to say."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from titan_neuro.study import pipelines as studies

ROOT = Path(__file__).parents[2]
STUDIES = yaml.safe_load((ROOT / "pipelines/studies.yaml").read_text())


def commands_in(text: str) -> dict[str, list[str]]:
    lines = [shlex.split(line) for line in text.splitlines() if "--snakefile" in line]
    return {re.search(r"study=(\w+)", " ".join(words))[1]: words for words in lines}


def test_bare_command_shows_help_and_studies(titan_neuro):
    done = titan_neuro()
    assert done.stdout == titan_neuro("--help").stdout
    assert commands_in(done.stdout).keys() == STUDIES.keys()
    for name, parts in STUDIES.items():
        assert f"  {name}: {parts['about']}\n" in done.stdout
    assert "snakemake" not in titan_neuro("train", "--help").stdout


def test_the_commands_work_when_pasted(titan_neuro, tmp_path):
    for name, command in commands_in(titan_neuro().stdout).items():
        asked = [word for word in command if word.startswith("bids_dir=")]
        if asked:
            assert name in ("sitcom", "sherlock", "haxby"), name
            continue
        done = subprocess.run([*command[:-2], "--dry-run", *command[-2:]], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "This was a dry-run" in done.stdout + done.stderr


def test_missing_data_must_be_named(tmp_path, monkeypatch):
    (tmp_path / "pipelines/profiles/local").mkdir(parents=True)
    (tmp_path / "pipelines/studies.yaml").write_text("mine: {about: x, bids_dir: data, output_dir: out}")
    (tmp_path / "pipelines/Snakefile").touch()
    monkeypatch.setattr(studies, "find_pipelines", lambda: tmp_path / "pipelines")
    assert studies.describe_pipelines().endswith("--config study=mine bids_dir=BIDS_DIR")
    (tmp_path / "data").mkdir()
    assert studies.describe_pipelines().endswith("--config study=mine")


def test_what_an_installation_without_snakemake_or_pipelines_says(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert "pip install 'titan-neuro[pipelines]'" in studies.describe_pipelines()
    monkeypatch.setattr(studies, "find_pipelines", lambda: None)
    assert "in the project's repository" in studies.describe_pipelines()


def test_an_installation_brings_the_whole_workflow():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    shipped = {path for patterns in data.values() for pattern in patterns for path in ROOT.glob(pattern)}
    assert shipped == {path for path in (ROOT / "pipelines").rglob("*") if path.is_file()}
    for folder, patterns in data.items():
        [source] = {(ROOT / pattern).parent.relative_to(ROOT) for pattern in patterns}
        assert Path(folder) == Path("share/titan-neuro") / source


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_its_settings(name):
    assert (ROOT / f"pipelines/{name}.yaml").is_file()
