"""Damaged models and tables are refused in words or made again, and `status` says which."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from titan_neuro import manifests
from titan_neuro.errors import InputNotFoundError, MismatchError, TitanNeuroError
from titan_neuro.manifests import State
from titan_neuro.study import Study

# As small as the session's study was trained; see `conftest.study`.
TRAINING = {"max_epochs": 2, "steps_per_epoch": 2}


@pytest.fixture
def copied(study, tmp_path):
    """A study that is done, in an output folder of the test."""
    output = shutil.copytree(study / "output", tmp_path / "output")
    return Study.open(study / "bids", output, training=TRAINING)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("decoder.", r"fold-1/titan-mac: the weights decoder\..* are not all finite"),
        ("linear_skip.coefficients", "model titan-mac gave a forecast that is not finite at time point 0"),
    ],
)
def test_weights_that_are_not_finite_are_refused(copied, part, message, value):
    for path in copied.output.path.glob("models/seed-*/fold-*/titan-mac/model.safetensors"):
        weights = load_file(path)
        name = next(name for name in weights if name.startswith(part))
        save_file({**weights, name: torch.full_like(weights[name], value)}, path)
    with pytest.raises(MismatchError, match=r"titan-mac: the model is damaged: .*safetensors was changed"):
        copied.predict(horizon=1)
    # As if they had been trained so.
    for model in copied.plan_group().main_models:
        path = model.result.path
        manifest = json.loads(path.read_text())
        for name, record in manifest["files"].items():
            content = (copied.output.path / name).read_bytes()
            record.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        path.write_text(json.dumps({**manifest, "digest": manifests.content_digest(manifest)}))
    with pytest.raises(TitanNeuroError, match=message) as caught:
        copied.predict(horizon=1)
    assert "rain again" in caught.value.hint or "titan-neuro train" in caught.value.hint
    assert not list(copied.output.path.glob("sub-*/**/*desc-forecast*"))


def states(study):
    return {name: check.state for name, check in study.status().checks.items() if check.state is not State.DONE}


@pytest.mark.parametrize("content", ["", "model\n", None])
def test_a_table_that_was_changed_or_removed_is_damaged(copied, content):
    path = copied.output.path / "group/task-movie_desc-forecast_scores.tsv"
    whole = path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    found = copied.status()
    assert states(copied)["evaluate"] is State.DAMAGED
    assert str(path.relative_to(copied.output.path)) in found.checks["evaluate"].why
    assert "`titan-neuro run ... group` would make: evaluate" in "\n".join(found.lines())
    assert copied.evaluate().path.read_bytes() == whole
    assert "evaluate" not in states(copied)


def test_status_says_what_train_would_make(copied, study):
    assert states(copied) == {}
    other = Study.open(study / "bids", copied.output.path, training={**TRAINING, "learning_rate": 0.02})
    found = other.status().of("train")
    assert len(found) == 9
    assert {str(check) for check in found.values()} == {"stale: training.learning_rate was 0.002, is 0.02"}
    assert states(other)["evaluate"] is State.STALE
    (copied.output.path / "models/seed-0/fold-2/gru/config.json").write_text("{")
    assert {name for name in states(copied) if name != "report"} == {"train/seed-0_fold-2_gru"}
    (copied.output.path / "models/seed-0/fold-2/gru/config.json").unlink()
    assert {name for name in states(copied) if name != "report"} == {"train/seed-0_fold-2_gru"}


@pytest.mark.parametrize("name", ["evaluate", "probe/surprise", "train/seed-0_fold-1_titan-mac"])
@pytest.mark.parametrize(
    ("edit", "state"),
    [
        (lambda content: "", State.DAMAGED),
        (lambda content: "[]", State.DAMAGED),
        (lambda content: content[: len(content) // 2], State.DAMAGED),
        (lambda content: content.replace('"schema_version": 1', '"schema_version": 2'), State.DAMAGED),
        (lambda content: content.replace('"group/', '"../').replace('"models/', '"/models/'), State.DAMAGED),
        (lambda content: json.dumps({**json.loads(content), "method": 0}), State.DAMAGED),
        (lambda content: json.dumps({**json.loads(content), "stage": "other"}), State.DAMAGED),
    ],
)
def test_a_manifest_that_was_edited_is_no_result(copied, name, edit, state):
    path = manifests.manifest_path(copied.output.path, name)
    path.write_text(edit(path.read_text()))
    found = copied.status()
    assert found.checks[name].state is state
    assert all(
        check.state is not State.DAMAGED for other, check in found.checks.items() if other not in {name, "report"}
    )


def test_a_prepared_run_that_is_not_whole_stops_what_follows(copied):
    store = next(copied.output.path.glob("sub-*/func/*run-01*.zarr"))
    key = store.name.split("_desc-")[0]
    shutil.rmtree(store)
    for stage in (copied.train, copied.evaluate, copied.predict, copied.plan_group):
        with pytest.raises(InputNotFoundError, match=f"1 of 6 prepared runs are not whole any more: {key}"):
            stage()
    assert copied.status().checks[f"prepare/{key}"].state is State.DAMAGED
    # Taken out of the study on purpose: it becomes another study, and says so.
    manifests.manifest_path(copied.output.path, f"prepare/{key}").unlink()
    assert "no longer there" in copied.status().checks["evaluate"].why


def test_a_store_without_a_manifest_is_not_finished(copied):
    path = next((copied.output.path / "manifests/prepare").glob("*run-02.json"))
    path.unlink()
    with pytest.raises(InputNotFoundError, match=f"the preparation of {path.stem} was not finished"):
        copied.runs()
