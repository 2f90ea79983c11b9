import re

import pandas as pd
import pytest

from titan_neuro.errors import LeakageError
from titan_neuro.evaluation.null_control import check_null

KINDS = {"titan-mac": "model", "titan-mac-frozen": "control", "gru": "comparison_model", "var-online": "baseline"}


def table(row="gru", **changed):
    """Scores of four rows at two lead times; those of `row` at the longer one are changed."""
    rows = [
        {
            **{"model": model, "kind": kind, "lead_time_points": h, "protocol": "strict"},
            **{"r2": -0.01, "skill_ar": -0.02},
            **(changed if (model, h) == (row, 6) else {}),
        }
        for model, kind in KINDS.items()
        for h in (1, 6)
    ]
    return pd.DataFrame(rows)


def test_scores_at_chance_pass():
    assert check_null(table(r2=0.02), "white") == (
        "Null control white passed: neither the model nor its controls and comparison models have r2 above 0.02; the "
        "largest is 0.0200 of gru at h = 6. Baselines and oracle references, which are not judged: the largest is "
        "-0.0100 of var-online at h = 6."
    )
    assert "phase passed" in check_null(table(r2=0.4), "phase")


@pytest.mark.parametrize("kind", ["white", "phase"])
@pytest.mark.parametrize("score", [0.021, float("nan")])
@pytest.mark.parametrize("row", ["titan-mac", "titan-mac-frozen", "gru"])
def test_models_above_chance_are_refused(kind, score, row):
    metric = {"white": "r2", "phase": "skill_ar"}[kind]
    found = rf"protocol strict: expected {metric} .* found {score:.3f} of {row} at h = 6\. Baselines"
    with pytest.raises(LeakageError, match=found):
        check_null(table(row, **{metric: score}), kind)


@pytest.mark.parametrize(("score", "printed"), [(0.31, r"0\.3100 of var-online at h = 6"), (float("nan"), "at h = 1")])
def test_baselines_are_printed_and_not_judged(score, printed):
    changed = table("var-online", skill_ar=score)
    assert re.search(rf"passed: .* not judged: .* {printed}", check_null(changed, "phase"))
    with pytest.raises(LeakageError, match=rf"found 0\.100 of titan-mac at h = 1\. .* not judged: .* {printed}"):
        check_null(changed.assign(skill_ar=changed["skill_ar"].mask(changed.index == 0, 0.1)), "phase")


def test_a_table_without_baselines_is_judged():
    only = table()[lambda rows: rows["kind"] != "baseline"]
    assert check_null(only, "white").endswith("at h = 6.")
