"""Scores of some folds and seeds: they say so, and nobody takes them for the whole study's."""

import json

import pandas as pd
import pytest
import tiny_study

from titan_neuro.cli import main
from titan_neuro.errors import InputNotFoundError, UsageError
from titan_neuro.study import Study

TWO_SEEDS = ("--set", "seeds=[0, 1]")


@pytest.fixture
def output(tiny, tmp_path):
    tiny_study.copy(tiny, tmp_path)
    return tmp_path / "out"


def scores_state(output):
    return str(Study.open(None, output).status().checks["evaluate"])


def sidecar(output):
    return json.loads((output / "group/task-movie_desc-forecast_scores.json").read_text())


def test_scores_of_a_part_say_so_and_are_stale(output, capsys):
    assert main(["train", str(output), "--seed", "1", "--fold", "2", *TWO_SEEDS]) == 0
    assert main(["evaluate", str(output), "--seed", "1", "--fold", "2"]) == 0
    said = "PART OF THE STUDY: 1 of 2 folds (2) and 1 of 2 seeds (1) are scored; without --fold and --seed all are."
    shown = capsys.readouterr()
    assert said in shown.out
    # A line for each row, each run and seed: no terminal is here.
    for done in ("var-online is fitted (", "every row is causal (", "sub-02_task-movie is scored with seed 1 (1 of 2;"):
        assert f"Fold 2 of 2: {done}" in shown.err
    table = pd.read_csv(output / "group/task-movie_desc-forecast_scores.tsv", sep="\t")
    assert (table["n_seeds"] == 1).all() and (table["n_subjects"] == 2).all()
    assert sidecar(output)["Caveats"][0] == said and sidecar(output)["Seeds"] == [1]
    assert len(sidecar(output)["Folds"]) == 1
    state = scores_state(output)
    assert state.startswith("stale: ") and "seeds was [1], is [0, 1]" in state and "tested.1 was not set" in state
    page = Study.open(None, output).report().read_text()
    assert said in page and "1, which tests" in page and "seeds was [1], is [0, 1]" in page
    # The same part again is done; the other is not.
    before = (output / "manifests/evaluate.json").read_bytes()
    assert main(["evaluate", str(output), "--seed", "1", "--fold", "2"]) == 0
    assert (output / "manifests/evaluate.json").read_bytes() == before
    with pytest.raises(InputNotFoundError, match=r"seed-1/fold-1/titan-mac: no trained model"):
        Study.open(None, output).evaluate(seeds=[1])


def test_the_whole_study_replaces_a_part(output):
    whole = {path.name: path.read_bytes() for path in (output / "group").glob("*forecast*")}
    study = Study.open(None, output)
    study.evaluate(folds=[1])
    assert sidecar(output)["Caveats"][0].startswith("PART OF THE STUDY: 1 of 2 folds (1) and 1 of 1 seeds (0)")
    study.evaluate(folds=[2, 1], seeds=[0])
    assert scores_state(output) == "done"
    assert {path.name: path.read_bytes() for path in (output / "group").glob("*forecast*")} == whole


def test_folds_and_seeds_that_are_not_there_are_named(output):
    with pytest.raises(UsageError, match="--fold 1 3: the study has the folds 1, 2"):
        Study.open(None, output).evaluate(folds=[1, 3])
    with pytest.raises(UsageError, match="--seed 7: the study has the seeds 0"):
        Study.open(None, output).evaluate(seeds=[7])
