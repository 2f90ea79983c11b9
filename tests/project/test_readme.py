"""What the README shows is true: its Python runs, its commands parse, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from titan_neuro.cli.command import build_parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_ten_lines_run(study, tmp_path, monkeypatch):
    (tmp_path / "demo").symlink_to(study)
    monkeypatch.chdir(tmp_path)
    [code] = blocks("python")
    names = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102 - our own README
    assert names["forecasts"].shape[:2] == (min(100, names["run"].n_time_points), len(names["model"].horizons))
    assert len([line for line in code.splitlines() if line]) <= 10


def test_every_command_parses():
    lines = [line.split(" # ")[0] for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("titan-neuro ")]
    assert len(commands) >= 4
    for command in commands:
        assert build_parser().parse_args(command).subcommand == command[0]


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE)
    assert {"demo", "test", "test-all"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("path", re.findall(r"`((?:docs|pipelines|notebooks|titan_neuro)/[\w./-]+)`", README))
def test_files_that_are_named_are_there(path):
    assert (ROOT / path).exists()


def test_pictures_are_there():
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).stat().st_size > 1000
