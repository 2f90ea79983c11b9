"""The filter over the positions of a stimulus, against a hidden Markov model in plain loops."""

import math

import numpy as np
import pytest
import torch

from titan_neuro.forecaster.recall.stimulus_position import accumulate_evidence, position_probabilities

# Two stimuli, of seven positions and of five.
CONTINUES = torch.tensor([0.0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1])
STARTS = {0, 7}
N_POSITIONS = len(CONTINUES)


def draw(n_time_points, batch=2, seed=0):
    return torch.randn(
        batch, n_time_points, N_POSITIONS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def run(scores, decay=1.0, sharpness=1.0, evidence=None):
    evidence = scores.new_zeros(len(scores), N_POSITIONS) if evidence is None else evidence
    course, evidence = accumulate_evidence(scores, evidence, CONTINUES.to(scores), decay)
    return position_probabilities(course, sharpness), evidence


def likelihood_of_path(ratios, position, time_point):
    """Likelihood ratio of the time points up to `time_point` if the stimulus stands at `position` then, by walking
    back.
    """
    total = 1.0
    while time_point >= 0:
        total *= ratios[time_point, position]
        if position in STARTS:
            # Before a stimulus nothing of it was seen: those time points speak neither for it nor against it.
            break
        position, time_point = position - 1, time_point - 1
    return total


def test_filter_is_forward_pass_of_hidden_markov_model():
    scores = draw(9)
    found, _ = run(scores)
    for item in range(2):
        ratios = np.exp(scores[item].numpy())
        for time_point in range(9):
            joint = (
                np.array([likelihood_of_path(ratios, position, time_point) for position in range(N_POSITIONS)])
                / N_POSITIONS
            )
            np.testing.assert_allclose(found[item, time_point], joint / (1 + joint.sum()), rtol=1e-10)


def test_evidence_decays_with_each_time_point():
    scores, decay = draw(9), 0.8
    _, evidence = run(scores, decay)
    for position, n_back in ((6, 6), (11, 4), (7, 0), (0, 0)):
        expected = sum(decay**back * scores[:, 8 - back, position - back] for back in range(n_back + 1))
        torch.testing.assert_close(evidence[:, position], expected)


def test_sharpness_multiplies_evidence():
    scores = draw(6)
    torch.testing.assert_close(run(scores, 0.9, 0.25)[0], run(0.25 * scores, 0.9)[0])


@pytest.mark.parametrize("cuts", [(3,), (1, 2, 8), tuple(range(1, 9))])
def test_a_stream_may_be_cut_anywhere(cuts):
    scores, evidence, parts = draw(9), None, []
    for part in torch.tensor_split(scores, cuts, dim=1):
        found, evidence = run(part, 0.9, 0.5, evidence)
        parts.append(found)
    whole, expected = run(scores, 0.9, 0.5)
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert torch.equal(evidence, expected)


def test_remaining_probability_is_of_no_known_stimulus():
    scores = torch.zeros(1, 1, N_POSITIONS, dtype=torch.float64)
    # Without evidence a known and an unknown stimulus are equally likely, and so are all positions.
    torch.testing.assert_close(run(scores)[0], torch.full_like(scores, 0.5 / N_POSITIONS))
    # Evidence of log N for one position makes it as likely as no known stimulus.
    scores[:] = -1000
    scores[0, 0, 4] = math.log(N_POSITIONS)
    assert float(run(scores)[0][0, 0, 4]) == pytest.approx(0.5)
    scores[0, 0, 4] = -1000
    assert float(run(scores)[0].sum()) < 1e-20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_evidence_stays_finite(dtype):
    scores = torch.zeros(1, 1, N_POSITIONS, dtype=dtype)
    scores[0, 0, 3], scores[0, 0, 5] = 5000.0, -5000.0
    found, _ = run(scores)
    assert found.dtype == dtype
    assert float(found[0, 0, 3]) == 1
    assert float(found.sum()) == 1
