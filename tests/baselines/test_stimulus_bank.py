import numpy as np
import pytest
import torch

from titan_neuro.baselines.stimulus_bank import FULL_MATCH_TIME_POINTS, concatenate, match_windows
from titan_neuro.linear.stimulus_average import StimulusAverage


def stimulus(rng, name, n_time_points):
    series = torch.tensor(rng.normal(size=(n_time_points, 5)), dtype=torch.float32)
    return StimulusAverage(
        name, series, torch.ones(n_time_points, dtype=torch.bool), torch.ones(n_time_points, dtype=torch.int64)
    )


@pytest.fixture
def stimuli():
    rng = np.random.default_rng(3)
    return [stimulus(rng, "a", 50), stimulus(rng, "b", 31)]


@pytest.mark.parametrize("window", [1, 2, 3, 20, 37])
def test_matches_are_cosines_within_one_stimulus(stimuli, window):
    scale = torch.tensor([1.0, 2.0, 0.5])
    bank = concatenate(stimuli, scale, window)
    rng = np.random.default_rng(4)
    run = torch.tensor(rng.normal(size=(45, 3)), dtype=torch.float32)
    queries = torch.nn.functional.pad(run, (0, 0, window - 1, 0))
    is_recorded = torch.cat([torch.zeros(window - 1), torch.ones(45)])
    matches = match_windows(queries, is_recorded, bank)
    for number, average in enumerate(stimuli):
        columns = (bank.stimulus == number).nonzero()[:, 0]
        keys = (average.series[:, :3] * scale).numpy().astype(float)
        for t, j in [(0, 0), (0, 17), (3, 25), (12, 4), (30, 2), (44, 30)]:
            n_recorded = min(window, t + 1)
            n_both = min(n_recorded, j + 1)
            query = run[t + 1 - n_recorded : t + 1].numpy().astype(float)
            key = keys[j + 1 - n_both : j + 1]
            cosine = (query[n_recorded - n_both :] * key).sum() / (np.linalg.norm(query) * np.linalg.norm(key))
            assert matches[t, columns[j]] == pytest.approx(
                min(1, n_recorded / FULL_MATCH_TIME_POINTS) * cosine, abs=1e-5
            )


def test_a_stimulus_matches_itself(stimuli):
    bank = concatenate(stimuli, torch.ones(3), 20)
    queries = torch.nn.functional.pad(stimuli[1].series[:, :3], (0, 0, 19, 0))
    is_recorded = torch.cat([torch.zeros(19), torch.ones(31)])
    matches = match_windows(queries, is_recorded, bank).masked_fill(bank.stimulus < 0, -torch.inf)
    best = matches.argmax(dim=1)
    first = int((bank.stimulus == 1).nonzero()[0])
    assert torch.equal(best[10:], torch.arange(first + 10, first + 31))
    np.testing.assert_allclose(matches.amax(dim=1)[19:], 1, atol=1e-5)


def test_values_and_names_are_concatenated(stimuli):
    bank = concatenate(stimuli, torch.ones(3), 20)
    assert bank.stimuli == ("a", "b")
    assert [int((bank.stimulus == number).sum()) for number in (-1, 0, 1)] == [38, 50, 31]
    assert torch.equal(bank.values[bank.stimulus == 1], stimuli[1].series[:, 3:])
    assert torch.equal(bank.keys[bank.stimulus < 0], torch.zeros(38, 3))


def test_zeros_match_nothing(stimuli):
    matches = match_windows(torch.zeros(30, 3), torch.ones(30), concatenate(stimuli, torch.ones(3), 10))
    assert torch.equal(matches, torch.zeros_like(matches))
