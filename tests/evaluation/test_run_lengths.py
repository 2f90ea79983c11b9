"""Runs of any length are scored, or refused in words: also where a last block holds a time point or two."""

import functools

import pytest

from titan_neuro.baselines import Persistence, SharedFits, make_baselines, make_oracle_references
from titan_neuro.errors import TitanNeuroError
from titan_neuro.evaluation import EvaluationConfig, controls_of, score_fold
from titan_neuro.forecaster import Forecaster

HORIZONS = (1, 3)
# Shorter test runs have no scored time point three time points in; shorter training runs have no autoregression.
SHORTEST, SHORTEST_TRAINING = 6, 24
LONGEST_ROLLED_OUT = 200
# Around multiples of the blocks of 64, 128 and 256 time points; beyond 512 some fits take every second, third ... row.
AROUND_BLOCKS = sorted({n * 64 + more for n in (1, 2, 4, 8, 12, 16, 20, 24) for more in (-1, 0, 1, 2)})


def score_all_rows(make_run, model, n_time_points):
    """Fit every row on runs of this length and score it on one, with the model's controls and rollouts."""
    make = functools.partial(make_run, n_features=3)
    n_training = max(n_time_points, SHORTEST_TRAINING)
    train = [make(subject, 1, n_time_points=n_training) for subject in ("01", "02", "03")]
    test = [make("04", 1, n_time_points=n_time_points)]
    shared = SharedFits(HORIZONS)
    rows, references = make_baselines(HORIZONS, shared), make_oracle_references(HORIZONS, shared)
    models = {0: [model, *controls_of(model, train)] if isinstance(model, Forecaster) else [model]}
    every = 32 if n_time_points <= LONGEST_ROLLED_OUT else n_time_points // 2
    config = EvaluationConfig(n_resamples=1000, rollout_every_time_points=every)
    return score_fold(models, rows, references, train, test, config, protocol="subject")


@pytest.fixture(scope="module")
def model(make_forecaster):
    return make_forecaster("lmm", n_features=3)


class PlainModel(Persistence):
    """Instead of a network, whose controls and rollouts through a long run take seconds."""

    name = "plain"


@pytest.mark.parametrize("n_time_points", [6, 20, 65])
def test_a_short_run_is_scored(make_run, model, n_time_points):
    assert score_all_rows(make_run, model, n_time_points).scores.first.subjects


@pytest.mark.parametrize("n_time_points", [1025, 1281])
def test_a_long_run_is_scored(make_run, n_time_points):
    """Beyond 1,024 time points, every third row is used: a last block of one or two had none of these."""
    assert score_all_rows(make_run, PlainModel(HORIZONS), n_time_points).scores.first.subjects


@pytest.mark.slow
@pytest.mark.parametrize("n_time_points", sorted({*range(2, 201), *AROUND_BLOCKS}))
def test_every_length_is_scored_or_refused(make_run, model, n_time_points):
    try:
        assert score_all_rows(make_run, model, n_time_points).scores.first.subjects
    except TitanNeuroError as error:
        assert n_time_points < SHORTEST and error.message and error.hint, error
