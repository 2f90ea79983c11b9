"""The files that say what is installed agree with each other, and what is installed works."""

import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


@dataclass
class Locked:
    """An entry of constraints.txt."""

    requirement: Requirement
    hashes: list[str]
    needed_by: set[str]

    @property
    def version(self):
        [pin] = self.requirement.specifier
        assert pin.operator == "=="
        return pin.version


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def project(pyproject):
    return pyproject["project"]


@pytest.fixture(scope="module")
def entries():
    """What constraints.txt locks, for all systems."""
    text = (ROOT / "constraints.txt").read_text()
    found = []
    for entry in re.split(r"\n(?=\w)", text)[1:]:
        requirement = Requirement(entry.partition(" \\\n")[0])
        needed_by = re.findall(r"^    #(?:  | via) (\S.*)$", entry, re.MULTILINE)
        found.append(Locked(requirement, re.findall(r"--hash=(\S+)", entry), set(needed_by)))
    return found


@pytest.fixture(scope="module")
def pins(entries):
    """What is locked for this system, by name."""
    here = [entry for entry in entries if not entry.requirement.marker or entry.requirement.marker.evaluate()]
    pins = {entry.requirement.name: entry for entry in here}
    assert len(pins) == len(here)
    return pins


@pytest.fixture(scope="module")
def conda():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    [pip] = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    names = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    return names, pip


def requirements(project):
    extras = project["optional-dependencies"]
    return [Requirement(text) for group in (project["dependencies"], *extras.values()) for text in group]


def is_locked(requirement, pins):
    """Whether the requirement is not for this system, or is locked within its range."""
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
        return True
    locked = pins.get(canonicalize_name(requirement.name))
    return locked is not None and requirement.specifier.contains(locked.version, prereleases=True)


def test_every_requirement_is_locked_within_its_range(pyproject, project, pins):
    build = [Requirement(text) for text in pyproject["build-system"]["requires"]]
    for requirement in [*build, *requirements(project)]:
        assert is_locked(requirement, pins), f"{requirement}: not so in constraints.txt; run `make constraints`"


def test_the_lock_is_of_these_requirements(project, entries):
    direct = {entry.requirement.name for entry in entries if "titan-neuro (pyproject.toml)" in entry.needed_by}
    assert direct == {canonicalize_name(requirement.name) for requirement in requirements(project)}


def test_every_locked_package_has_hashes_and_no_address(entries):
    assert len(entries) > 200
    for entry in entries:
        assert entry.version and entry.hashes
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", text) for text in entry.hashes), entry
    assert "://" not in (ROOT / "constraints.txt").read_text()


def test_what_locked_packages_need_is_locked(pins):
    """It is installed without a look at what packages need. Here, that of those whose locked version is installed."""
    n_compared = 0
    for name, locked in pins.items():
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue  # another build of torch needs it
        if installed.version.partition("+")[0] == locked.version:
            n_compared += 1
            for text in installed.requires or []:
                assert is_locked(Requirement(text), pins), f"{name} needs {text}"
    assert n_compared > 100


def test_the_extras_are_those_that_are_documented(project):
    assert set(project["optional-dependencies"]) == {"pipelines", "notebooks", "raw", "docs", "dev"}


def test_conda_installs_the_locked_packages(project, conda):
    names, pip = conda
    assert {"git", "git-annex", "pip"} <= set(names)
    [python] = [name for name in names if name.startswith("python=")]
    assert SpecifierSet(project["requires-python"]).contains(python.removeprefix("python="))
    assert pip == ["--requirement constraints.txt"]


def test_the_command_is_installed_under_its_name(project):
    assert project["scripts"] == {"titan-neuro": "titan_neuro.cli:main"}


def test_the_citation_is_of_this_version(project):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert [citation[name] for name in ("version", "license", "abstract", "keywords")] == [
        project[name] for name in ("version", "license", "description", "keywords")
    ]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project["authors"]]
    assert {"message", "title", "type"} <= set(citation)


def test_a_users_own_trainer_works(tmp_path):
    """In a process of its own. Lightning asks mpi4py, where it is installed, for MPI, which pip does not bring."""
    code = """
import lightning, torch

class Line(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    def training_step(self, batch, index):
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

trainer = lightning.Trainer(accelerator="cpu", fast_dev_run=True, enable_progress_bar=False)
trainer.fit(Line(), torch.utils.data.DataLoader(torch.ones(4, 1), batch_size=2))
print("steps:", trainer.global_step)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "steps: 1" in ended.stdout


def test_pipeline_presets_are_valid():
    from titan_neuro.study import load_study

    demo, budapest = (
        load_study(default_preset="debug", config_file=ROOT / f"pipelines/{name}.yaml") for name in ("demo", "budapest")
    )
    assert (demo.seeds, demo.comparison_models) == ((0,), False)
    assert (budapest.seeds, budapest.comparison_models) == ((0,), False)
    assert demo.split.by == "subject"
    assert budapest.split.by == "strict"
    sitcom, haxby = (
        load_study(default_preset="debug", config_file=ROOT / f"pipelines/{name}.yaml") for name in ("sitcom", "haxby")
    )
    assert (sitcom.split.by, haxby.split.by, haxby.split.n_folds) == ("subject", "run", 12)
    assert sitcom.model.tokenizer.kind == "linear"
    # The closed form alone, which draws nothing at random.
    assert sitcom.seeds == haxby.seeds == (0,)
    assert [study.training.max_epochs for study in (demo, budapest, sitcom, haxby)] == [0, 0, 0, 0]
    assert budapest.model.tokenizer.kind == "linear"
    assert budapest.model.horizons == (1, 2, 3, 6, 10, 20)
    given = yaml.safe_load((ROOT / "pipelines/budapest.yaml").read_text())
    assert {"prepare", "split", "model", "training", "evaluation", "probe", "seeds", "comparison_models"} <= set(given)
