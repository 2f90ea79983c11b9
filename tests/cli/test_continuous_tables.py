"""From BIDS to scores: continuous tables of a stimulus, found beside the runs, are decoded by the probe."""

import json

import numpy as np
import pandas as pd
import pytest
from continuous_tables import write_continuous, write_parcels

QUICK = (
    "training.max_epochs=1",
    "training.steps_per_epoch=1",
    "model.backbone.dim=16",
    "model.backbone.n_layers=1",
    "model.horizons=[1]",
    "model.recall={width: 8, n_components: 4, autoregressive_lags: 1}",
    "model.lookahead={n_lags: 1, n_components: 2, key_width: 8}",
    "seeds=[0]",
    "comparison_models=false",
)


@pytest.mark.slow
def test_tables_of_a_study_are_decoded(titan_neuro, tmp_path):
    loudness = np.random.default_rng(0).normal(size=90)
    root = write_parcels(
        tmp_path / "data", ["01", "02", "03"], n_time_points=90, repetition_time=2.0, drive=3 * loudness
    )
    # At 5 Hz, from 10 s before the run on, and less long than it.
    rows = np.concatenate([np.zeros(50), np.repeat(loudness[:80], 10)])
    write_continuous(root / "task-movie_stim.tsv.gz", {"loudness": rows, "pitch": -rows}, frequency=5.0, start=-10.0)
    write_continuous(
        root / "sub-03/func/sub-03_task-movie_stim.tsv.gz", {"loudness": np.repeat(loudness, 10)}, frequency=5.0
    )
    output, settings = tmp_path / "out", [part for setting in QUICK for part in ("--set", setting)]
    plan = titan_neuro("prepare", root, output, "--dry-run")
    assert (plan.stdout + plan.stderr).count("continuous table: ") == 3
    titan_neuro("prepare", root, output)
    titan_neuro("train", output, *settings)
    chosen = ("--set", "probe.decoding.columns=[loudness]", "--set", "probe.decoding.delay_s=0")
    titan_neuro("probe", "decoding", output, *settings, *chosen)
    [path] = output.glob("group/*_desc-decoding_scores.tsv")
    scores = pd.read_csv(path, sep="\t").set_index("condition")
    assert set(scores.measure.str.partition(",")[0]) == {"stim loudness: r"}
    # No shift of 90 time points gives as much.
    pattern = scores.loc["current activity pattern"]
    assert pattern["value"] > 0.8 and pattern["p"] == pytest.approx(1 / 90, rel=1e-3) and pattern["n_subjects"] == 3
    assert json.loads(path.with_suffix(".json").read_text())["DelaySeconds"] == 0
