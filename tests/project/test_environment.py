"""The files that say what is installed agree with each other."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def conda():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    [pip] = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    names = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    return names, pip


def requirements(project):
    extras = project["optional-dependencies"]
    return [Requirement(text) for group in (project["dependencies"], *extras.values()) for text in group]


def test_every_dependency_is_pinned_within_its_range(project, pins):
    for requirement in requirements(project):
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pinned, prereleases=True), requirement


def test_the_extras_are_those_that_are_documented(project):
    assert set(project["optional-dependencies"]) == {"pipelines", "notebooks", "raw", "dev"}


def test_conda_installs_the_same_project(project, pins, conda):
    names, pip = conda
    assert {"git", "git-annex", "pip"} <= set(names)
    [python] = [name for name in names if name.startswith("python=")]
    assert SpecifierSet(project["requires-python"]).contains(python.removeprefix("python="))
    assert "--constraint constraints.txt" in pip
    # torch first and pinned, as the Makefile does.
    assert pip.index(f"torch=={pins['torch']}") < next(i for i, line in enumerate(pip) if "--editable" in line)
    [editable] = [line for line in pip if line.startswith("--editable")]
    extras = set(re.search(r"\[(.*)\]", editable)[1].split(","))
    assert extras <= set(project["optional-dependencies"])


def test_the_command_is_installed_under_its_name(project):
    assert project["scripts"] == {"titan-neuro": "titan_neuro.cli:main"}


def test_pipeline_presets_are_valid():
    from titan_neuro.study import load_study

    demo, budapest = (
        load_study(default_preset="debug", config_file=ROOT / f"pipelines/{name}.yaml") for name in ("demo", "budapest")
    )
    assert (demo.seeds, demo.comparison_models) == ((0,), False)
    assert (budapest.seeds, budapest.comparison_models) == ((0, 1, 2), True)
    assert demo.split.by == "subject"
    assert budapest.split.by == "strict"
    sitcom, haxby = (
        load_study(default_preset="debug", config_file=ROOT / f"pipelines/{name}.yaml") for name in ("sitcom", "haxby")
    )
    assert (sitcom.split.by, haxby.split.by, haxby.split.n_folds) == ("subject", "run", 12)
    assert sitcom.model.tokenizer.kind == "parcels"
    assert sitcom.seeds == haxby.seeds == (0, 1, 2)
    assert budapest.model.horizons == (1, 2, 3, 6, 10, 20)
    given = yaml.safe_load((ROOT / "pipelines/budapest.yaml").read_text())
    assert {"prepare", "split", "model", "training", "evaluation", "probe", "seeds", "comparison_models"} <= set(given)
