"""Every notebook runs from its first cell to its last, and shows what its stored outputs show."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
READ_THE_DEMO = ("00", "04", "05")
CASES = [
    pytest.param(path, marks=[pytest.mark.slow] if path.name.startswith(READ_THE_DEMO) else [], id=path.stem)
    for path in NOTEBOOKS
]
# What `make demo` makes, in seconds: a few people with large voxels, and a retelling in searchlights that fit these.
SIMULATED = "--subjects 3 --runs 2 --volume-scale 0.12 --voxel-size-mm 20 --set story_fraction=0.15"
SETTINGS = """\
preset: debug
training: {max_epochs: 0}
comparison_models: false
evaluation: {n_resamples: 1000, rollout_every_time_points: 0}
probe:
  n_permutations: 100
  recall: {tasks: {watching: movie, retelling: recall}, delay_s: 0, radius_mm: 40}
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory, titan_neuro):
    """A small stand-in for the folder of `make demo`."""
    root = tmp_path_factory.mktemp("demo")
    (root / "settings.yaml").write_text(SETTINGS)
    titan_neuro("simulate", root / "ds003017-synthetic", *SIMULATED.split())
    titan_neuro("fetch", root / "ds003017-synthetic", root / "bids")
    for level in ("participant", "group"):
        titan_neuro("run", root / "bids", root / "output", level, "--config-file", root / "settings.yaml")
    return root


def kinds(cell):
    """Return what kinds of outputs a cell shows: pictures, tables, text."""
    shown = [output.get("data", {}) for output in cell.get("outputs", []) if output.output_type != "stream"]
    return ["picture" if "image/png" in data else "table" if "text/html" in data else "text" for data in shown]


def test_they_are_numbered():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{number:02d}" for number in range(len(NOTEBOOKS))]
    assert len(NOTEBOOKS) == 7


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stored(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run `make notebooks`"
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert path.stat().st_size < 1_000_000
    # A path of the machine where it was executed tells a reader nothing; that of a temporary folder is no one's.
    assert not re.search(r"/(home|root|Users|site-packages)/", path.read_text())


# What is made for the first of them serves the others, in one process.
@pytest.mark.xdist_group("notebooks")
@pytest.mark.parametrize("path", CASES)
# The kernel's transport leaves its sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_notebook_runs(path, request, monkeypatch):
    if path.name.startswith(READ_THE_DEMO):
        monkeypatch.setenv("TITAN_NEURO_DEMO", str(request.getfixturevalue("demo")))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    notebook = nbformat.read(path, as_version=4)
    stored = [kinds(cell) for cell in notebook.cells]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert [kinds(cell) for cell in notebook.cells] == stored, "run `make notebooks`"
    assert not [output for cell in notebook.cells for output in cell.get("outputs", []) if "Traceback" in str(output)]
