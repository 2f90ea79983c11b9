import numpy as np
import pytest
import torch

from titan_neuro.baselines.matching import SURE_FRAMES, match, shelve
from titan_neuro.ops.films import Film


def film(rng, name, n_frames):
    frames = torch.tensor(rng.normal(size=(n_frames, 5)), dtype=torch.float32)
    return Film(name, frames, torch.ones(n_frames, dtype=torch.bool), torch.ones(n_frames, dtype=torch.int64))


@pytest.fixture
def films():
    rng = np.random.default_rng(3)
    return [film(rng, "a", 50), film(rng, "b", 31)]


@pytest.mark.parametrize("window", [1, 2, 3, 20, 37])
def test_matches_are_cosines_of_windows_inside_one_film(films, window):
    scale = torch.tensor([1.0, 2.0, 0.5])
    library = shelve(films, scale, window)
    rng = np.random.default_rng(4)
    run = torch.tensor(rng.normal(size=(45, 3)), dtype=torch.float32)
    queries = torch.nn.functional.pad(run, (0, 0, window - 1, 0))
    seen = torch.cat([torch.zeros(window - 1), torch.ones(45)])
    matches = match(queries, seen, library.keys, window)
    for number, shown in enumerate(films):
        columns = (library.film == number).nonzero()[:, 0]
        keys = (shown.frames[:, :3] * scale).numpy().astype(float)
        for t, j in [(0, 0), (0, 17), (3, 25), (12, 4), (30, 2), (44, 30)]:
            n_seen = min(window, t + 1)
            n_both = min(n_seen, j + 1)
            query = run[t + 1 - n_seen : t + 1].numpy().astype(float)
            key = keys[j + 1 - n_both : j + 1]
            cosine = (query[n_seen - n_both :] * key).sum() / (np.linalg.norm(query) * np.linalg.norm(key))
            assert matches[t, columns[j]] == pytest.approx(min(1, n_seen / SURE_FRAMES) * cosine, abs=1e-5)


def test_a_film_recognises_itself(films):
    library = shelve(films, torch.ones(3), 20)
    queries = torch.nn.functional.pad(films[1].frames[:, :3], (0, 0, 19, 0))
    seen = torch.cat([torch.zeros(19), torch.ones(31)])
    matches = match(queries, seen, library.keys, 20).masked_fill(library.film < 0, -torch.inf)
    best = matches.argmax(dim=1)
    first = int((library.film == 1).nonzero()[0])
    assert torch.equal(best[10:], torch.arange(first + 10, first + 31))
    np.testing.assert_allclose(matches.amax(dim=1)[19:], 1, atol=1e-5)


def test_values_and_names_are_kept(films):
    library = shelve(films, torch.ones(3), 20)
    assert library.stimuli == ("a", "b")
    assert [int((library.film == number).sum()) for number in (-1, 0, 1)] == [38, 50, 31]
    assert torch.equal(library.values[library.film == 1], films[1].frames[:, 3:])
    assert torch.equal(library.keys[library.film < 0], torch.zeros(38, 3))


def test_frames_that_are_all_zero_match_nothing(films):
    matches = match(torch.zeros(30, 3), torch.ones(30), shelve(films, torch.ones(3), 10).keys, 10)
    assert torch.equal(matches, torch.zeros_like(matches))
