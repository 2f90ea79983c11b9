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
        "Null control white passed: r2 is at most 0.02 for the model, its controls and comparison models; the largest "
        "is 0.0200 of gru at h = 6. Baselines and oracle references, which are not judged: the largest is -0.0100 of "
        "var-online at h = 6."
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


def test_models_may_gain_what_a_baseline_finds_in_the_spectrum():
    """A filter over whole runs leaves a gap in it: skill over AR that is no leak. White noise has none."""
    found = table("var-online", skill_ar=0.07, r2=0.07)
    is_gru = (found["model"] == "gru") & (found["lead_time_points"] == 6)
    assert "passed: skill_ar is at most 0.02 above the best" in check_null(
        found.assign(skill_ar=found["skill_ar"].mask(is_gru, 0.09)), "phase"
    )
    for kind, metric, score in (("phase", "skill_ar", 0.091), ("white", "r2", 0.03)):
        with pytest.raises(LeakageError, match=f"found {score:.3f} of gru at h = 6"):
            check_null(found.assign(**{metric: found[metric].mask(is_gru, score)}), kind)


def test_a_table_without_baselines_is_judged():
    only = table()[lambda rows: rows["kind"] != "baseline"]
    assert check_null(only, "white").endswith("at h = 6.")
