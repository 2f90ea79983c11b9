"""Runs whose stimulus is a sequence of events, and a forecaster that reacts to their boundaries."""

import dataclasses

import numpy as np
import torch
from recall_runs import LOOKAHEAD, N_FEATURES, RECALL

from titan_neuro.forecaster import ForecasterConfig
from titan_neuro.forecaster.decoders import LowRankConfig
from titan_neuro.forecaster.tokenizers import LinearTokenizerConfig
from titan_neuro.runs import InMemoryRun
from titan_neuro.titans.layers import NeuralMemoryConfig
from titan_neuro.titans.models import MACConfig

N_TIME_POINTS, EVENT_LENGTH = 240, 24
BOUNDARIES = np.array([20, 47, 66, 95, 120, 141, 170, 190, 216])
BACKBONE_SIZE = {"tokens_per_time_point": 1, "dim": 8, "n_layers": 1}
# Models with long chunks are read in long blocks: fewer steps for the tests.
LONG_CHUNKS = dataclasses.replace(LOOKAHEAD, chunk_time_points=40)


def event_patterns(seed=0):
    """A pattern that is constant from one boundary to the next: ``(time, features)``."""
    patterns = np.random.default_rng([7, seed]).normal(size=(len(BOUNDARIES) + 1, N_FEATURES))
    return patterns[np.searchsorted(BOUNDARIES, np.arange(N_TIME_POINTS), side="right")]


def event_run(subject, *, seed=0, lead=0, stimulus="task-movie", noise=0.5, series=None, scored_from=8):
    """A subject who sees the stimulus of this seed from time point `lead` on."""
    rng = np.random.default_rng([subject, seed])
    shown = event_patterns(seed) if series is None else series
    shown = np.concatenate([np.zeros((lead, N_FEATURES)), shown])
    series = shown + noise * rng.normal(size=shown.shape)
    scored = np.arange(len(series)) >= lead + scored_from
    key = f"sub-{subject:02}_{stimulus}"
    series = torch.tensor(series, dtype=torch.float32)
    return InMemoryRun(series, scored, key, f"{subject:02}", stimulus, stimulus_start=lead)


def persistence_forecaster(*, recall=RECALL, lookahead=LONG_CHUNKS, horizons=(1, 3), backbone=None):
    """A forecaster that forecasts the current time point; its memories read, and were never trained."""
    torch.manual_seed(0)
    memory = NeuralMemoryConfig(chunk_time_points=40)
    config = ForecasterConfig(
        tokenizer=LinearTokenizerConfig(n_tokens=1),
        backbone=backbone or MACConfig(**BACKBONE_SIZE, n_heads=2, segment_time_points=40, memory=memory),
        recall=recall,
        lookahead=lookahead,
        horizons=horizons,
        decoder=LowRankConfig(rank=4),
    )
    model = config.build(n_features=N_FEATURES).eval()
    with torch.no_grad():
        model.linear_skip.coefficients[:, 0] = 1
        if model.recall is not None:
            model.components.basis.copy_(torch.eye(N_FEATURES))
            directions = torch.eye(N_FEATURES)[: model.recall.sizes.n_components]
            model.recall.innovation_directions.copy_(directions)
            model.recall.autoregression.directions.copy_(directions)
        if model.backbone.memory is not None:
            memory = model.backbone.memory
            memory.directions.copy_(torch.eye(N_FEATURES)[: len(memory.directions)])
            keys = memory.associations.key_map
            keys.copy_(torch.randn(keys.shape) / keys.shape[-1] ** 0.5)
    return model
