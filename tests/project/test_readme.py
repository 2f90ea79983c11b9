"""What the README shows is true: its Python runs, its links lead somewhere, it is short, and it names what CI calls."""

import re
from pathlib import Path

import pages
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_ten_lines_run(study, tmp_path, monkeypatch):
    (tmp_path / "demo").symlink_to(study)
    monkeypatch.chdir(tmp_path)
    [code] = pages.blocks(README, "python")
    names = pages.run_python(code)
    assert names["forecasts"].shape[:2] == (min(100, names["run"].n_time_points), len(names["model"].horizons))
    assert len([line for line in code.splitlines() if line]) <= 10


def test_it_is_short():
    assert len(README.split()) <= 900


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE)
    assert {"demo", "docs", "test", "test-system", "test-slow", "test-all"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_ci_calls_its_test_commands():
    called = re.findall(r"^make (test\S*)", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert called == ["test", "test-system", "test-slow"]
    assert all(re.search(rf"(?:`|^)make {target}\b", README, re.MULTILINE) for target in called)


@pytest.mark.parametrize("path", re.findall(r"`((?:docs|pipelines|notebooks|titan_neuro)/[\w./-]+)`", README))
def test_files_that_are_named_are_there(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("path", re.findall(r"[^!]\[[^\]]*\]\(((?!https:)[^)]+)\)", README))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()


def test_pictures_are_there():
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).stat().st_size > 1000
