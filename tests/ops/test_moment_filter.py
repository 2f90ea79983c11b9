"""The filter over a film's moments, against the forward pass of a hidden Markov model in plain loops."""

import math

import numpy as np
import pytest
import torch

from titan_neuro.ops.moment_filter import accumulate_evidence, moment_probabilities

# Two films, of seven moments and of five.
FOLLOWS = torch.tensor([0.0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1])
BEGINS = {0, 7}
N_MOMENTS = len(FOLLOWS)


def draw(n_frames, batch=2, seed=0):
    return torch.randn(batch, n_frames, N_MOMENTS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(scores, decay=1.0, sharpness=1.0, evidence=None):
    evidence = scores.new_zeros(len(scores), N_MOMENTS) if evidence is None else evidence
    course, evidence = accumulate_evidence(scores, evidence, FOLLOWS.to(scores), decay)
    return moment_probabilities(course, sharpness), evidence


def likelihood_of_path(ratios, moment, frame):
    """Likelihood ratio of the frames up to `frame` if the film stands at `moment` then, by walking back."""
    total = 1.0
    while frame >= 0:
        total *= ratios[frame, moment]
        if moment in BEGINS:
            # Before a film nothing of it was seen: those frames speak neither for it nor against it.
            break
        moment, frame = moment - 1, frame - 1
    return total


def test_it_is_the_forward_pass_of_a_hidden_markov_model():
    scores = draw(9)
    found, _ = run(scores)
    for item in range(2):
        ratios = np.exp(scores[item].numpy())
        for frame in range(9):
            joint = np.array([likelihood_of_path(ratios, moment, frame) for moment in range(N_MOMENTS)]) / N_MOMENTS
            np.testing.assert_allclose(found[item, frame], joint / (1 + joint.sum()), rtol=1e-10)


def test_each_frame_back_counts_by_the_decay_less():
    scores, decay = draw(9), 0.8
    _, evidence = run(scores, decay)
    for moment, n_back in ((6, 6), (11, 4), (7, 0), (0, 0)):
        expected = sum(decay**back * scores[:, 8 - back, moment - back] for back in range(n_back + 1))
        torch.testing.assert_close(evidence[:, moment], expected)


def test_sharpness_multiplies_the_evidence():
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


def test_what_is_missing_to_one_is_the_share_of_no_known_film():
    scores = torch.zeros(1, 1, N_MOMENTS, dtype=torch.float64)
    # Nothing seen: known and unknown are equally likely, and so are all moments.
    torch.testing.assert_close(run(scores)[0], torch.full_like(scores, 0.5 / N_MOMENTS))
    # Evidence of log N for one moment makes it as likely as no film at all; others are then ruled out.
    scores[:] = -1000
    scores[0, 0, 4] = math.log(N_MOMENTS)
    assert float(run(scores)[0][0, 0, 4]) == pytest.approx(0.5)
    scores[0, 0, 4] = -1000
    assert float(run(scores)[0].sum()) < 1e-20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_evidence_stays_finite(dtype):
    scores = torch.zeros(1, 1, N_MOMENTS, dtype=dtype)
    scores[0, 0, 3], scores[0, 0, 5] = 5000.0, -5000.0
    found, _ = run(scores)
    assert found.dtype == dtype
    assert float(found[0, 0, 3]) == 1
    assert float(found.sum()) == 1
