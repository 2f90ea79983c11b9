"""Marker files of the workflow: those of done results alone, whatever happened to these since the last start."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny_study

from titan_neuro.probing import PROBES
from titan_neuro.study import Selection, Study
from titan_neuro.study.marks import Marks

PREPARED = {f"prepared/sub-{subject}_task-movie" for subject in tiny_study.SUBJECTS}
TRAINED = {"trained/seed-0_fold-1", "trained/seed-0_fold-2"}
PROBED = {f"probed/{name}" for name in PROBES}
FOLLOWS = {*TRAINED, *PROBED, "evaluated", "reported"}
ALL = {"runs", "folds.txt", *PREPARED, *FOLLOWS}


class Workflow:
    """What the Snakefile does at its start, without Snakemake."""

    def __init__(self, root: Path) -> None:
        self.bids, self.output, self.sources = root / "bids", root / "out", []
        self.folder = self.output / ".work/workflow"
        self.settings = root / "settings.yaml"

    def marks(self, *overrides: str, **selection) -> Marks:
        given = {"config_file": self.settings, "overrides": overrides}
        preparation = Study.open(self.bids, self.output, **given, **selection)
        group, page = Study.open(None, self.output, **given), Study.open(None, self.output)
        return Marks(folder=self.folder, preparation=preparation, group=group, page=page)

    def start(self, *overrides: str) -> list[str]:
        return self.marks(*overrides).match(self.sources)

    def list_runs(self) -> None:
        """The checkpoint `runs`."""
        study = self.marks().preparation
        study.write_filters(self.folder / "runs", study.plan())

    def list_folds(self) -> None:
        (self.folder / "folds.txt").touch()

    @property
    def there(self) -> set[str]:
        """Marker files, and the folder with the list of runs."""
        paths = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}
        return {"runs" if name.startswith("runs/") else name for name in paths}


@pytest.fixture(scope="session")
def reported(tiny, tmp_path_factory):
    """The study of `tiny`, and a report that knows of its forecasts; seen by a workflow that listed runs and folds."""
    root = tmp_path_factory.mktemp("reported")
    tiny_study.copy(tiny, root)
    Study.open(None, root / "out").report()
    workflow = Workflow(root)
    workflow.list_runs()
    workflow.list_folds()
    return root


@pytest.fixture
def workflow(reported, tmp_path):
    shutil.copytree(reported, tmp_path, dirs_exist_ok=True)
    return Workflow(tmp_path)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_new_study_has_no_marks(tmp_path):
    tiny_study.write_dataset(tmp_path / "bids")
    (tmp_path / "settings.yaml").write_text(tiny_study.SETTINGS)
    workflow = Workflow(tmp_path)
    assert workflow.start() == []
    assert not workflow.output.exists()


def test_everything_done_is_marked_whoever_made_it(workflow):
    assert workflow.start() == []
    assert workflow.there == ALL
    assert workflow.start() == []
    assert workflow.there == ALL
    shutil.rmtree(workflow.folder)
    # Without the lists it is not known what follows from them.
    assert workflow.start() == []
    assert workflow.there == PREPARED
    workflow.list_runs()
    workflow.list_folds()
    assert workflow.start() == []
    assert workflow.there == ALL


def test_marks_without_results_are_removed(workflow):
    workflow.start()
    for name in ("models", "manifests", "group"):
        shutil.rmtree(workflow.output / name)
    (workflow.folder / "trained/seed-7_fold-1").touch()
    workflow.start()
    assert workflow.there == {"runs"}


@pytest.mark.parametrize(
    ("damaged", "gone"),
    [
        ("group/*_desc-forecast_scores.tsv", {"evaluated", "reported"}),
        ("group/*_desc-surprise_scores.tsv", {"probed/surprise", "reported"}),
        ("report.html", {"reported"}),
        ("models/seed-0/fold-2/*/model.safetensors", {"trained/seed-0_fold-2", "evaluated", *PROBED, "reported"}),
    ],
)
@pytest.mark.parametrize("how", ["removed", "flipped"])
def test_damaged_results_lose_their_marks(workflow, damaged, gone, how):
    workflow.start()
    path = next(iter(sorted(workflow.output.glob(damaged))))
    flip_a_bit(path) if how == "flipped" else path.unlink()
    said = workflow.start()
    assert workflow.there == ALL - gone
    assert len(said) == 1
    assert "damaged" in said[0]
    assert workflow.start() == said


@pytest.mark.parametrize("how", ["removed", "flipped"])
def test_a_damaged_run_is_prepared_before_anything_else_is_decided(workflow, how):
    workflow.start()
    path = next(path for path in sorted(workflow.output.glob("sub-02/func/*.zarr/**/c/*")) if path.is_file())
    whole = path.read_bytes()
    flip_a_bit(path) if how == "flipped" else path.unlink()
    [line] = workflow.start()
    assert line.startswith("prepare/sub-02_task-movie: damaged")
    assert workflow.there == {"runs", *PREPARED} - {"prepared/sub-02_task-movie"}
    # Prepared again, it is the same: with the list of folds everything else is found done.
    path.write_bytes(whole)
    (workflow.folder / "prepared/sub-02_task-movie").touch()
    workflow.list_folds()
    assert workflow.marks().match_group() == []
    assert workflow.there == ALL


def test_a_changed_recording_is_followed_to_the_report(workflow, reported):
    workflow.start()
    tiny_study.write_recording(workflow.bids, "03", version=1)
    [line] = workflow.start()
    assert line.startswith("prepare/sub-03_task-movie: stale")
    assert workflow.there == {"runs", *PREPARED} - {"prepared/sub-03_task-movie"}
    description = workflow.output / "dataset_description.json"
    description.write_text(description.read_text().replace(reported.as_uri(), workflow.bids.parent.as_uri()))
    workflow.marks().preparation.prepare()
    workflow.list_folds()
    workflow.marks().match_group()
    # Fold 1 tests this subject, and is trained on others alone.
    kept = ALL - FOLLOWS | {"trained/seed-0_fold-1"}
    assert workflow.there == kept - {"prepared/sub-03_task-movie"}
    workflow.marks().match_runs()
    assert workflow.there == kept


def test_a_new_subject_is_listed(workflow):
    workflow.start()
    tiny_study.write_recording(workflow.bids, "05")
    workflow.start()
    assert workflow.there == PREPARED
    workflow.list_runs()
    workflow.marks().match_runs()
    assert workflow.there == {"runs", *PREPARED}
    assert len(list((workflow.folder / "runs").iterdir())) == len(PREPARED) + 1


@pytest.mark.parametrize(
    ("setting", "gone"),
    [
        ("evaluation.n_resamples=1001", {"evaluated", *PROBED, "reported"}),
        ("probe.surprise.n_components=3", {"probed/surprise", "reported"}),
        ("training.max_epochs=2", FOLLOWS),
        ("seeds=[0, 1]", {"evaluated", "reported"}),
        # The runs are prepared with others, and must be prepared again before models can be compared with them.
        ("prepare.warmup_s=6", {*PREPARED, "folds.txt", *FOLLOWS}),
    ],
)
def test_changed_settings_make_stale_what_depends_on_them(workflow, setting, gone):
    workflow.start()
    said = workflow.start(setting)
    assert workflow.there == ALL - gone
    assert said
    # As it was, everything is done.
    workflow.list_folds()
    assert workflow.start() == []
    assert workflow.there == ALL


def test_another_choice_of_the_runs_is_listed(workflow):
    workflow.start()
    filters = workflow.bids.parent / "filters.json"
    filters.write_text('{"bold": {"task": "movie"}}')
    workflow.marks(selection=Selection(filter_file=filters)).match(workflow.sources)
    assert workflow.there == PREPARED


def test_what_was_fetched_from_elsewhere_is_fetched_again(workflow):
    workflow.sources = [("fetched", "there here", workflow.bids)]
    workflow.start()
    assert workflow.there == PREPARED
    workflow.list_runs()
    workflow.list_folds()
    (workflow.folder / "fetched").write_text("there here")
    workflow.start()
    assert workflow.there == {*ALL, "fetched"}
    shutil.rmtree(workflow.bids)
    workflow.start()
    assert workflow.there == set()
