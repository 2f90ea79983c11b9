"""Every kind of file of a study, damaged in every way: said in words, made again, and then as before."""

from __future__ import annotations

import os
import shutil

import pytest
from histories import History

from titan_neuro.errors import ConfigError, ImageError, InputNotFoundError, MismatchError, OutputError

# A kind of file; a file of it; the subcommand that is called next; the error with which it ends, and what that names.
# Without an error it goes on without the file, or makes it again.
RUN, MODEL = "sub-01/func/sub-01_task-movie_seg-x_desc-", "models/seed-0/fold-1/titan-mac"
OF_RUN = ("train", InputNotFoundError, "sub-01_task-movie_seg-x")
OF_MODEL = ("evaluate", MismatchError, "seed-0/fold-1/titan-mac")
FILES = {
    "the values of a prepared run": (f"{RUN}prepared_timeseries.zarr/series/c/0/0", *OF_RUN),
    "the header of a prepared run": (f"{RUN}prepared_timeseries.zarr/zarr.json", *OF_RUN),
    "the sidecar of a prepared run": (f"{RUN}prepared_timeseries.json", *OF_RUN),
    "the manifest of a prepared run": ("manifests/prepare/sub-01_task-movie_seg-x.json", *OF_RUN),
    "the weights of a model": (f"{MODEL}/model.safetensors", *OF_MODEL),
    "the settings of a model": (f"{MODEL}/config.json", *OF_MODEL),
    "the epochs of a model": (f"{MODEL}/training.csv", *OF_MODEL),
    "the manifest of a model": ("manifests/train/seed-0_fold-1_titan-mac.json", *OF_MODEL),
    "a forecast": (f"{RUN}forecastH1_timeseries.tsv", "predict", None, ""),
    "the manifest of a forecast": ("manifests/predict/sub-01_task-movie_H1.json", "predict", None, ""),
    "the table of scores": ("group/task-movie_desc-forecast_scores.tsv", "evaluate", None, ""),
    "a map": ("group/task-movie_seg-x_stat-r2_desc-arH1_statmap.tsv", "evaluate", None, ""),
    "the manifest of the scores": ("manifests/evaluate.json", "evaluate", None, ""),
    "a table of a probe": ("group/task-movie_desc-contextlength_curve.tsv", "probe", None, ""),
    "the summary of a probe": ("group/task-movie_desc-contextlength_result.json", "probe", None, ""),
    "the manifest of a probe": ("manifests/probe/context-length.json", "probe", None, ""),
    "the report": ("report.html", "report", None, ""),
    "the manifest of the report": ("manifests/report.json", "report", None, ""),
    "the description of the folder": ("dataset_description.json", "prepare", None, ""),
    "the record of all commands": ("provenance.json", "prepare", None, ""),
    "the settings in force": ("config.resolved.yaml", "prepare", None, ""),
}


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()
    (path / "x").write_text("x")


def replace_by_other_version(path):
    path.write_text('{"schema": "titan-neuro-manifest", "schema_version": 99}')


def forbid(path):
    path.chmod(0)


DAMAGES = {
    "is empty": empty,
    "is cut": cut,
    "has a changed bit": change_bit,
    "is a folder": replace_by_folder,
    "is of a newer version": replace_by_other_version,
    "may not be read": forbid,
}
CASES = {f"{file} {damage}": (file, damage) for file in FILES for damage in DAMAGES}
# What is scored or drawn again takes its time.
QUICK = {
    case: (file, damage)
    for case, (file, damage) in CASES.items()
    if damage in {"is a folder", "has a changed bit"}
    and (FILES[file][2] is not None or FILES[file][1] in {"prepare", "probe", "predict"})
}


def check(clean, folder, file, damage, *, whole_way):
    """Damage a file; the next subcommand ends as is said above, and the whole way makes all as it was."""
    name, stage, error, named = FILES[file]
    if damage == "may not be read" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    history = History(folder, clean().history.folder)
    path = history.output / name
    assert path.is_file()
    DAMAGES[damage](path)
    code = history.run(stage)
    expected = {0} if error is None else {error.exit_code}
    if damage == "is a folder" and error is None:
        # It is not removed: who knows whose it is.
        expected.add(OutputError.exit_code)
    if damage == "has a changed bit" and "prepared run" in file:
        # Noticed by who reads it; here all is done that would.
        expected |= {0, MismatchError.exit_code}
    if damage == "has a changed bit" and file == "the settings in force":
        # Any settings are as good as others.
        expected |= {ConfigError.exit_code, MismatchError.exit_code}
    assert code in expected, history.describe(f"exit code {code}")
    if code:
        assert (named or name) in history.messages.read_text(), history.describe(f"{name} is not named")
    if path.is_dir():
        shutil.rmtree(path)
    if whole_way or error is None:
        history.finish(clean().after["report"], None if whole_way else [stage])


@pytest.mark.xdist_group("tiny-study")
@pytest.mark.parametrize(("file", "damage"), QUICK.values(), ids=QUICK)
def test_damage_is_noticed(clean, tmp_path, file, damage):
    check(clean, tmp_path / "study", file, damage, whole_way=False)


@pytest.mark.slow
@pytest.mark.endurance
@pytest.mark.xdist_group("tiny-study-slow")
@pytest.mark.parametrize(("file", "damage"), CASES.values(), ids=CASES)
def test_damage_is_mended(clean, tmp_path, file, damage):
    check(clean, tmp_path / "study", file, damage, whole_way=True)


@pytest.mark.xdist_group("tiny-study")
def test_changed_values_are_noticed_when_they_are_read(clean, tmp_path):
    history = History(tmp_path / "study", clean().history.folder)
    history.flip(f"{RUN}prepared_timeseries.zarr/series/c/0/0", 1000)
    history.set("evaluate")
    assert history.run("evaluate") == ImageError.exit_code, history.describe("the values were used")
    assert f"{RUN}prepared_timeseries.zarr" in history.messages.read_text()
