"""A whole study on noise, preparation included: nothing is forecast under any protocol, and a leak is found."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy.signal import lfilter

from titan_neuro import errors
from titan_neuro.cli import main
from titan_neuro.data.simulate.surrogate import surrogate
from titan_neuro.study import Study

N_TIME_POINTS, N_PARCELS = 260, 12
# As small as a model can be.
SMALL = (
    *("--set", "model.backbone.dim=16", "--set", "model.backbone.n_layers=1", "--set", "model.backbone.n_heads=2"),
    *("--set", "model.horizons=[1,3]", "--set", "model.decoder.rank=4"),
    *("--set", "training.max_epochs=2", "--set", "training.steps_per_epoch=4"),
    *("--set", "evaluation.n_resamples=1000", "--set", "evaluation.rollout_every_time_points=0", "--random-seed", "0"),
)

PART = ("--fold", "1", "--set", "comparison_models=false")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Parcels of four subjects and three runs, autocorrelated and with a stimulus in common, prepared."""
    root = tmp_path_factory.mktemp("null")
    rng = np.random.default_rng(5)
    bids = root / "bids"
    bids.mkdir()
    (bids / "dataset_description.json").write_text('{"Name": "stimulus", "BIDSVersion": "1.8.0"}')
    for run in (1, 2, 3):
        stimulus = rng.normal(size=(N_TIME_POINTS, N_PARCELS))
        for subject in ("01", "02", "03", "04"):
            func = bids / f"sub-{subject}/func"
            func.mkdir(parents=True, exist_ok=True)
            own = lfilter([1], [1, -0.7], stimulus + rng.normal(size=stimulus.shape), axis=0)
            stem = f"sub-{subject}_task-movie_run-{run}"
            table = pd.DataFrame(own + 50, columns=[f"P{parcel}" for parcel in range(N_PARCELS)])
            table.to_csv(func / f"{stem}_atlas-x_timeseries.tsv", sep="\t", index=False)
            (func / f"{stem}_atlas-x_timeseries.json").write_text(json.dumps({"RepetitionTime": 1.0}))
    assert main(["prepare", str(bids), str(root / "out")]) == 0
    return root / "out"


def control(output, kind, protocol, *more):
    settings = (*SMALL, "--set", f"split.by={protocol}", "--set", "split.n_folds=2")
    return main(
        ["evaluate", str(output), "--null-control", kind, "-w", str(output.parent / protocol), *settings, *more]
    )


def table_of(output, kind):
    return pd.read_csv(output / f"null-{kind}/group/task-movie_desc-forecast_scores.tsv", sep="\t")


@pytest.mark.parametrize(
    "protocol", [pytest.param("subject", marks=pytest.mark.slow), pytest.param("run", marks=pytest.mark.slow), "strict"]
)
def test_on_white_noise_nobody_forecasts_anything(prepared, protocol, capsys):
    assert control(prepared, "white", protocol) == 0
    table = table_of(prepared, "white")
    assert (table["protocol"] == protocol).all()
    assert {"titan-mac", "titan-mac-frozen", "titan-mac-reset20", "ar", "mean"} <= set(table["model"])
    assert (table["r2"] <= 0.02).all()
    said = capsys.readouterr().out
    assert "Null control white passed" in said and "NULL CONTROL" in said
    sidecar = json.loads((prepared / "null-white/group/task-movie_desc-forecast_scores.json").read_text())
    assert sidecar["Caveats"][0].startswith("NULL CONTROL")
    # What was measured is as it was, and no noise is left behind.
    assert not (prepared / "group").exists()
    assert not list((prepared.parent / protocol).rglob("*_timeseries.tsv"))


def test_shuffled_phases_have_no_stimulus_in_common(prepared, capsys):
    assert control(prepared, "phase", "subject", *PART) == 0
    table = table_of(prepared, "phase").set_index(["model", "lead_time_points"])
    assert table.loc[("ar", 1), "r2"] > 0.3
    assert (table.loc[table["kind"] != "baseline", "skill_ar"] <= 0.02).all()
    said = capsys.readouterr().out
    assert "Null control phase passed" in said and "which are not judged: the largest is" in said
    # Each run is a stimulus of its own, of which nothing is remembered; runs are split as those of the data.
    study = Study.open(None, prepared / "null-phase", work_dir=prepared.parent / "subject/null-phase")
    assert study.forecaster(fold=1).recall.stimulus.n_positions == 0
    fold = study.folds()[0]
    assert {run.stimulus for run in fold.runs.values()} == set(fold.runs)
    assert {run.store.stimulus for run in fold.runs.values()} == {f"task-movie_run-{run}" for run in (1, 2, 3)}
    data = Study.open(None, prepared).folds()[0]
    assert {run.stimulus for run in data.runs.values()} == {f"task-movie_run-{run}" for run in (1, 2, 3)}


def test_future_time_points_in_the_recordings_are_found_out(prepared, monkeypatch, capsys):
    def smoothed(*given, **options):
        """Smooth in time, as a preparation must not: each time point contains the one after it."""
        series = surrogate(*given, **options)
        return (series + np.roll(series, -1, axis=0)) / np.sqrt(2)

    monkeypatch.setattr("titan_neuro.data.simulate.surrogate.surrogate", smoothed)
    code = control(prepared, "white", "strict", *PART)
    assert code == errors.LeakageError.exit_code
    said = capsys.readouterr().err
    assert re.search(r"expected r2 at most 0.02 of the model, .* found 0\.\d+ of titan-mac at h = 1", said)


def test_the_source_must_be_there(prepared, tmp_path, capsys):
    description = prepared / "dataset_description.json"
    before = description.read_text()
    content = json.loads(before)
    content["SourceDatasets"][0]["URL"] = (tmp_path / "gone").as_uri()
    description.write_text(json.dumps(content))
    try:
        assert control(prepared, "white", "strict") == errors.InputNotFoundError.exit_code
    finally:
        description.write_text(before)
    assert "its recordings are needed again" in capsys.readouterr().err
