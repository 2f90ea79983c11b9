"""Rows that share parts of a model compute them once, and forecast the same, bit for bit."""

import numpy as np
import pytest
import torch

from titan_neuro.evaluation import controls_of
from titan_neuro.evaluation.controls import shared_parts
from titan_neuro.evaluation.shared_calls import shared_calls
from titan_neuro.evaluation.streaming import score_run


@pytest.mark.parametrize("variant", ["lmm", "mac"])
def test_rows_share_what_they_have_in_common(make_run, make_forecaster, variant):
    model, run = make_forecaster(variant), make_run("11", 1, n_features=6)
    rows = [model, *controls_of(model, [run])]
    counts = {"tokenizer": 0, "recall": 0}
    alone = score_run(rows, run, 32, 2).low_motion.squared_error
    for name in counts:
        inner = getattr(model, name).forward

        def counted(*args, inner=inner, name=name, **kwargs):
            counts[name] += 1
            return inner(*args, **kwargs)

        vars(getattr(model, name))["forward"] = counted
    with shared_calls(shared_parts(rows)):
        shared = score_run(rows, run, 32, 2).low_motion.squared_error
    np.testing.assert_array_equal(shared, alone)
    # The row that is reset reads its own windows; all others read each of the five blocks once.
    assert counts["tokenizer"] == 5
    assert counts["recall"] == 5 + 8 + 4


def test_other_arguments_are_computed_anew():
    module = torch.nn.Linear(3, 2)
    first, second = torch.zeros(1, 4, 3), torch.ones(1, 4, 3)
    with torch.inference_mode(), shared_calls([(module, "forward")] * 2):
        found = [module(first), module(second), module(first.clone()), module(first[:, :3])]
    assert found[2] is found[0]
    assert found[3].shape == (1, 3, 2)
    with torch.inference_mode():
        torch.testing.assert_close(found[1], module(second), rtol=0, atol=0)
    assert "forward" not in vars(module)
