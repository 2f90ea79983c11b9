"""What only a memory can know is found where it was planted, and nowhere else: the benchmark at a size of seconds."""

import json
from pathlib import Path

import pandas as pd
import pytest
import truth

SMALL = truth.Size(
    n_subjects=6,
    n_runs=1,
    volume_scale=0.8,
    voxel_size_mm=20,
    settings=(
        *("model.horizons=[1, 10]", "split.n_folds=2", "training.max_epochs=1", "training.steps_per_epoch=1"),
        *(
            "model.backbone.dim=16",
            "model.backbone.n_layers=1",
            "model.recall.width=40",
            "model.recall.n_components=24",
        ),
        *("model.recall.key_lags=2", "model.recall.key_components=16", "model.recall.group_width=16"),
    ),
)


def of(found: list[dict], **wanted: object) -> pd.Series:
    [row] = [row for row in found if all(row[name] == value for name, value in wanted.items())]
    return pd.Series(row)


@pytest.fixture(scope="module", params=["associations", "nothing"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    folder = tmp_path_factory.mktemp("truth")
    return request.param, truth.run(request.param, SMALL, ["mac"], [0], folder)


def test_associations_are_learned_at_test_time_and_nothing_is_where_there_are_none(made: tuple[str, dict]) -> None:
    synthetic, result = made
    for other in ("ar", "titan-mac-frozen", truth.COMPARISON_MODEL):
        row = of(result["differences"], other=other, place="all", horizon=10)
        if synthetic == "nothing":
            # The benchmark asks for an interval that holds 0, and says where it does not; here: next to nothing, which
            # is a tenth of what associations give and less.
            assert row["difference"] < 0.002, f"{other}: {row['difference']}"
        else:
            assert row["low"] > 0.002, f"{other}: {row['low']}"
        if synthetic == "associations":
            # The response is where the gain is.
            assert of(result["differences"], other=other, place="response", horizon=10)["low"] > 2 * row["low"]
            assert of(result["differences"], other=other, place="cue", horizon=10)["difference"] < row["difference"]


def test_demands_are_judged_by_intervals() -> None:
    time_point = pd.DataFrame(
        [
            {
                "model": "titan-mac",
                "other": other,
                "place": place,
                "horizon": 1,
                "difference": 0.1,
                "low": low,
                "high": 1,
            }
            for other, place, low in (
                ("ar", "all", 0.01),
                ("titan-mac-frozen", "all", -0.01),
                ("titan-mac-reset20", "delayed-1", 0.01),
                ("var", "all", 0.01),
            )
        ]
    )
    judged = {(row["other"], row["as expected"]) for row in truth.demands("associations", time_point)}
    assert judged == {("ar", True), ("titan-mac-frozen", False)}
    judged = {(row["other"], row["as expected"]) for row in truth.demands("nothing", time_point)}
    assert judged == {("ar", False), ("titan-mac-frozen", True)}
    assert [row["other"] for row in truth.demands("delayed_responses", time_point)] == ["titan-mac-reset20"]


def test_a_subjects_skill_pools_its_runs_and_averages_its_seeds() -> None:
    told = {"place": "all", "horizon": 1, "subject": "01"}
    errors = [(0, "ar", 1.0), (0, "ar", 3.0), (0, "m", 1.0), (0, "m", 1.0), (1, "ar", 4.0), (1, "m", 1.0)]
    time_point = pd.DataFrame(
        [told | {"seed": seed, "row": row, "squared_error": error} for seed, row, error in errors]
    )
    assert truth.skills(time_point)["m"].item() == pytest.approx((0.5 + 0.75) / 2)


def test_the_page_is_written(made: tuple[str, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic, result = made
    monkeypatch.setattr(truth, "run", lambda *_: result)
    unmet = truth.main(["--twins", synthetic, "--output", str(tmp_path / "found.json")])
    content = json.loads((tmp_path / "found.json").read_text())
    assert unmet == any(not row["as expected"] for row in content["synthetic_datasets"][synthetic]["demands"])
    page = (tmp_path / "found.md").read_text()
    assert f"## {synthetic}" in page and "| titan-mac-frozen " in page and "demands are met" in page
