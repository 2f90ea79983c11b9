"""``titan-neuro simulate``: its flags reach the settings, and what is wrong is said."""

from __future__ import annotations

import json

import pytest

from titan_neuro import cli
from titan_neuro.data.simulate import PRESETS
from titan_neuro.errors import ConfigError, UsageError


def test_flags_and_settings_reach_the_dataset(tmp_path):
    small = ["--subjects", "1", "--runs", "1", "--volume-scale", "0.1", "--voxel-size-mm", "25", "--random-seed", "3"]
    overrides = [
        "--set",
        "association_fraction=0.1",
        "--set",
        "delayed_response_lags_s=[5, 9]",
        "--set",
        "motion_sd_mm=0.5",
        "--set",
        "fine_pattern_fraction=0.1",
    ]
    root = tmp_path / "synthetic"
    assert cli.main(["simulate", str(root), *small, "--transforms", *overrides]) == 0
    truth = json.loads((root / "truth.json").read_text())
    [sequence] = root.glob(truth["fine_patterns"]["sequence"])
    shown = sequence.read_text().splitlines()[1:]
    assert len(shown) == truth["fine_patterns"]["lag_s"] + truth["runs"][0]["stimulus"]
    assert all((root / image).exists() for image in truth["fine_patterns"]["patterns"].values())
    simulated = truth["simulated"]
    expected = {
        "n_subjects": 1,
        "n_runs": 1,
        "volume_scale": 0.1,
        "voxel_size_mm": 25,
        "seed": 3,
        "transforms": True,
        "association_fraction": 0.1,
        "delayed_response_lags_s": [5, 9],
        "motion_sd_mm": 0.5,
        "fine_pattern_fraction": 0.1,
        "delayed_response_fraction": 0,
    }
    assert simulated.items() >= expected.items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "echo_lag=30"], "unknown setting 'echo_lag'"),
        (["--set", "delayed_response_lags_s"], "expected KEY=VALUE"),
        (["--set", "delayed_response_lags_s=[30"], "not valid YAML"),
        (
            ["--set", "delayed_response_lags_s=[30, 999]"],
            "delayed_response_lags_s.1: Input should be less than",
        ),
        (["--runs", "6"], "n_runs: Input should be less than or equal to 5; found 6"),
        (["--set", "delayed_response_fraction=0.5"], "must not exceed 1"),
    ],
)
def test_invalid_settings_are_named(tmp_path, capsys, arguments, message):
    assert cli.main(["simulate", str(tmp_path / "synthetic"), *arguments]) == ConfigError.exit_code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "synthetic").exists()


def test_settings_lie_over_those_of_a_preset(tmp_path):
    small = ["--subjects", "1", "--volume-scale", "0.1", "--voxel-size-mm", "25", "--set", "n_associations=3"]
    assert cli.main(["simulate", str(tmp_path / "synthetic"), "--preset", "story", *small]) == 0
    simulated = json.loads((tmp_path / "synthetic/truth.json").read_text())["simulated"]
    given = {"n_subjects": 1, "volume_scale": 0.1, "voxel_size_mm": 25, "n_associations": 3}
    assert simulated.items() >= {**PRESETS["story"], **given}.items()


def test_unknown_presets_are_named(tmp_path, capsys):
    assert cli.main(["simulate", str(tmp_path / "synthetic"), "--preset", "tale"]) == UsageError.exit_code
    message = capsys.readouterr().err
    assert "'tale'" in message and "small, story" in message
