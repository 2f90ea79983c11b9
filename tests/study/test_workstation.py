"""The study of ds003017 as a workstation runs it, on a synthetic dataset of a few dozen voxels: every stage, strict."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from titan_neuro.cli import main
from titan_neuro.data.simulate import SimulateConfig, simulate
from titan_neuro.training import closed_form

BUDAPEST = Path(__file__).parents[2] / "pipelines" / "budapest.yaml"
SMALL = (
    # The images lie in the template's space already, on a coarse grid.
    "prepare.confounds=none",
    "prepare.resolution_mm=null",
    "prepare.calibration_s=20",
    "prepare.warmup_s=5",
    "model.backbone={variant: mac, dim: 8, n_layers: 1, n_heads: 1, segment_time_points: 16, memory: {n_heads: 1}}",
    "model.recall={width: 16, n_components: 8, autoregressive_lags: 1, longest_lag: 16}",
    "model.lookahead={n_lags: 2, n_components: 4, key_width: 16}",
    "model.decoder.rank=2",
    "probe.n_permutations=200",
    "evaluation={n_resamples: 1000, rollout_every_time_points: 0}",
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    simulate(root / "bids", SimulateConfig(n_subjects=3, n_runs=3, volume_scale=0.15, voxel_size_mm=30))
    flags = ["--config-file", BUDAPEST, *itertools.chain(*(("--set", setting) for setting in SMALL))]
    bids, output = root / "bids", root / "output"
    for stage in (["prepare", bids, output], ["train", output], ["evaluate", output]):
        assert main([str(word) for word in (*stage, *flags)]) == 0
    return output


def test_one_model_of_each_fold_is_fitted_and_scored(study):
    models = sorted(path.parent.relative_to(study / "models") for path in study.glob("models/**/config.json"))
    assert [str(path) for path in models] == [f"seed-0/fold-{fold}/titan-mac" for fold in (1, 2, 3)]
    record = json.loads((study / "group/task-movie_desc-forecast_scores.json").read_text())
    assert record["Protocol"] == "strict"
    assert "closed form alone" in json.dumps(record)


def test_references_to_a_held_out_stimulus_are_their_baselines(study):
    scores = pd.read_csv(study / "group/task-movie_desc-forecast_scores.tsv", sep="\t").set_index(
        ["model", "lead_time_points"]
    )
    for reference, baseline in (("intersubject-average", "mean"), ("intersubject-average+ar", "ar")):
        np.testing.assert_allclose(scores.r2[reference], scores.r2[baseline], rtol=0, atol=1e-9)


def test_the_autoregression_of_a_fold_is_fitted_once(study, monkeypatch):
    """Scoring again reads what training has left, and comes to the same table."""
    path = study / "group/task-movie_desc-forecast_scores.tsv"
    before = path.read_bytes()
    next(iter(study.glob("manifests/evaluate*"))).unlink()

    def refuse(*arguments, **settings):
        raise AssertionError("fitted again")

    monkeypatch.setattr(closed_form, "fit_autoregression", refuse)
    assert main(["evaluate", str(study)]) == 0
    assert path.read_bytes() == before


@pytest.mark.slow
def test_probes_and_report_follow(study):
    for probe in ("context-length", "history-swap", "surprise", "time-segment-matching", "decoding"):
        assert main(["probe", probe, str(study)]) == 0
    assert main(["report", str(study)]) == 0
    assert (study / "group/task-movie_desc-contextlength_curve.tsv").is_file()
    assert (study / "report.html").is_file()
