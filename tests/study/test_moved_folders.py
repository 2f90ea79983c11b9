"""A study whose dataset or output folder has moved goes on as before: nothing is made again."""

import json
import os
import shutil

import forked
import pytest
import tiny_study

from titan_neuro.errors import InputNotFoundError, OutputError
from titan_neuro.study import Study
from titan_neuro.study.null_control import source_of


@pytest.fixture
def moved(tiny, tmp_path):
    """Dataset, output folder and settings of a finished study, of which another place is recorded."""
    for name in ("bids", "out"):
        shutil.copytree(tiny / name, tmp_path / "new" / name)
    shutil.copy(tiny / "settings.yaml", tmp_path / "new/settings.yaml")
    path = tmp_path / "new/out/dataset_description.json"
    path.write_text(path.read_text().replace(tiny.as_uri(), (tmp_path / "old").as_uri()))
    return tmp_path / "new"


def made(output):
    """Identities of all stores, models and results."""
    kept = ("sub-*/**/*", "models/**/*", "group/*", "manifests/*/*", "manifests/evaluate.json")
    files = (path for pattern in kept for path in output.glob(pattern) if path.is_file())
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files if "logs" not in path.parts}


def study_in(folder):
    return Study.open(folder / "bids", folder / "out", config_file=folder / "settings.yaml")


def test_nothing_is_made_again_after_both_have_moved(moved, monkeypatch):
    before = made(moved / "out")
    assert len(before) > 60
    with pytest.raises(InputNotFoundError, match="no such folder") as caught:
        source_of(moved / "out")
    assert "`titan-neuro prepare BIDS_DIR" in caught.value.hint
    # By relative paths with a slash at the end, through a link.
    monkeypatch.chdir(moved)
    (moved / "link").symlink_to("bids")
    forked.run_command("run", "link/", "./out/", "participant", "--config-file", "settings.yaml")
    assert source_of(moved / "out") == moved / "bids"
    forked.run_command("run", "link/", "out/", "group", "--config-file", "settings.yaml")
    assert made(moved / "out") == before


def test_another_dataset_is_refused(moved):
    path = moved / "bids/dataset_description.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "Name": "y"}))
    with pytest.raises(OutputError, match="was made from another dataset"):
        study_in(moved).prepare()
    assert made(moved / "out")


def test_one_changed_recording_of_a_moved_dataset_is_prepared_again(moved):
    tiny_study.write_recording(moved / "bids", "02", version=1)
    before = made(moved / "out")
    study_in(moved).prepare()
    changed = {path for path, identity in made(moved / "out").items() if before.get(path) != identity}
    assert changed and all("sub-02" in path.name or "sub-02" in str(path) for path in changed)
    assert (
        os.fspath(moved / "bids")
        in json.loads((moved / "out/dataset_description.json").read_text())["SourceDatasets"][0]["URL"]
    )


@pytest.mark.parametrize(
    ("what", "stage"),
    [
        *(("a store", stage) for stage in ("train", "evaluate", "probe", "predict")),
        *((what, "train") for what in ("a folder of a subject", "a shard", "zarr.json", "a manifest")),
    ],
)
def test_a_run_that_is_gone_is_named_and_not_left_out(moved, what, stage):
    output = moved / "out"
    [store] = output.glob("sub-02/func/*.zarr")
    remove = {
        "a store": store,
        "a folder of a subject": output / "sub-02",
        "a shard": store / "series/c/0/0",
        "zarr.json": store / "zarr.json",
        "a manifest": next(output.glob("manifests/prepare/sub-02*.json")),
    }[what]
    shutil.rmtree(remove) if remove.is_dir() else remove.unlink()
    study = study_in(moved)
    run = {"train": study.train, "evaluate": study.evaluate, "probe": lambda: study.probe("surprise")}
    with pytest.raises(InputNotFoundError, match="sub-02_task-movie") as caught:
        run.get(stage, study.predict)()
    assert "`titan-neuro prepare`" in caught.value.hint
