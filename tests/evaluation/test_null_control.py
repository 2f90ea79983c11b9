import pandas as pd
import pytest

from titan_neuro.errors import LeakageError
from titan_neuro.evaluation.null_control import check_null


def table(**changed):
    rows = [
        {"model": model, "lead_time_points": h, "protocol": "strict", "r2": -0.01, "skill_ar": -0.02}
        for model in ("titan-mac", "ar")
        for h in (1, 2)
    ]
    rows[3] |= changed
    return pd.DataFrame(rows)


def test_scores_at_chance_pass():
    assert check_null(table(r2=0.02), "white") == (
        "Null control white passed: no row has r2 above 0.02; the largest is 0.0200, ar at h = 2."
    )
    assert "phase passed" in check_null(table(r2=0.4), "phase")


@pytest.mark.parametrize("kind", ["white", "phase"])
@pytest.mark.parametrize("score", [0.021, float("nan")])
def test_scores_above_chance_are_refused(kind, score):
    metric = {"white": "r2", "phase": "skill_ar"}[kind]
    with pytest.raises(LeakageError, match=rf"protocol strict: expected {metric} .* found ar {score:.3f} at h = 2\."):
        check_null(table(**{metric: score}), kind)
