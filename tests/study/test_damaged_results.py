"""Damaged models and tables are refused in words, and a dry run says what a run would do."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from titan_neuro.errors import MetadataError, TitanNeuroError
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
    with pytest.raises(TitanNeuroError, match=message) as caught:
        copied.predict(horizon=1)
    assert "rain again" in caught.value.hint or "titan-neuro train" in caught.value.hint
    assert not list(copied.output.path.glob("sub-*/**/*desc-forecast*"))


@pytest.mark.parametrize(("n_lines", "message"), [(0, "can't be read as a table"), (1, "the table has no row")])
def test_an_empty_scores_table_is_refused(copied, n_lines, message):
    path = copied.output.path / "group/task-movie_desc-forecast_scores.tsv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:n_lines]))
    with pytest.raises(MetadataError, match=message) as caught:
        copied.evaluate()
    assert str(path) in caught.value.message and "Remove the file" in caught.value.hint


def test_a_dry_run_counts_models_as_training_does(copied, study):
    def counts(study):
        return [(fold.n_trained, fold.n_models) for fold in study.plan_group()]

    assert counts(copied) == [(3, 3)] * 3
    other = Study.open(study / "bids", copied.output.path, training={**TRAINING, "learning_rate": 0.02})
    assert counts(other) == [(0, 3)] * 3
    (copied.output.path / "models/seed-0/fold-2/gru/config.json").write_text("{")
    assert counts(copied) == [(3, 3), (2, 3), (3, 3)]
