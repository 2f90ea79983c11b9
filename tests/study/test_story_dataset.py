"""The demo's dataset through a whole study: what is planted is found, where it is; without it, nothing is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from titan_neuro.data.simulate import PRESETS, SimulateConfig, simulate
from titan_neuro.study import Study

PIPELINES = Path(__file__).parents[2] / "pipelines"
SETTINGS = ["probe.recall={tasks: {watching: movie, retelling: recall}, delay_s: 0}"]
NOTHING = {"association_fraction": 0.0, "memory_gain": 0.0, "retelling_fraction": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("is_planted", [True, False], ids=["planted", "absent"])
def test_memory_and_recall_find_what_is_planted_alone(tmp_path, is_planted):
    settings = {**PRESETS["story"], "voxel_size_mm": 12.0, **({} if is_planted else NOTHING)}
    simulate(tmp_path / "bids", SimulateConfig(**settings))
    study = Study.open(tmp_path / "bids", tmp_path / "out", config_file=PIPELINES / "demo.yaml", overrides=SETTINGS)
    study.prepare()
    study.train()
    evaluation, recall = study.evaluate(), study.probe("recall")
    by_learning = evaluation.differences.set_index(["compared_with", "lead_time_points"]).loc["titan-mac-frozen"]
    skill = evaluation.scores.set_index(["model", "lead_time_points"])["skill_ar"]
    rows = recall.tables["scores"].set_index(["measure", "condition"])
    others, p = rows.loc["reinstatement", "other people's watching"], recall.metadata["PCorrected"]
    if is_planted:
        assert by_learning.loc[10, "difference"] > 0.02 and by_learning.loc[10, "difference_low"] > 0
        # A memory of this person alone, without the story, gives much less.
        assert skill["titan-mac", 10] > skill["var-online", 10] + 0.1
        assert rows.loc["retold or forgotten (AUC)", "skill over autoregression"].value > 0.6
        assert p["skill over autoregression"] < 0.01 and others.p < 0.001
    else:
        assert np.abs(by_learning["difference"]).max() < 0.005
        assert min(p.values()) > 0.01 and others.p > 0.01
