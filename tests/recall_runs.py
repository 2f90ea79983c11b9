"""Runs with a stimulus that all subjects share, with responses that are shared and others of each subject alone."""

import numpy as np
import torch
from stimulus_runs import ar1_noise, as_run

from titan_neuro.forecaster import ForecasterConfig
from titan_neuro.forecaster.decoders import LowRankConfig
from titan_neuro.forecaster.recall.config import RecallConfig
from titan_neuro.forecaster.titan import LookaheadConfig
from titan_neuro.forecaster.tokenizers import LinearTokenizerConfig
from titan_neuro.titans.models import MACConfig

N_FEATURES, N_SOURCES = 24, 6
RECALL = RecallConfig(
    width=24,
    n_components=12,
    autoregressive_lags=2,
)
LOOKAHEAD = LookaheadConfig(n_lags=3, n_components=6, n_earlier_components=4, key_width=64)


def recall_runs(
    n_subjects, *, shared=0.35, individual=0.0, n_time_points=250, stimuli=("task-film",), phi=0.6, seed=0, lead=10
):
    """One run of each subject and stimulus.

    `shared` and `individual` are fractions of the variance: responses to the stimulus's sources through one map for all
    subjects, and through a map of each subject alone. The rest is AR(1) noise with coefficient `phi`. The sources have
    an autocorrelation of 0.3, so that they can hardly be predicted from their past. The first `lead` time points are
    not scored.
    """
    rng = np.random.default_rng(seed)
    sources = {stimulus: ar1_noise(rng, n_time_points, N_SOURCES, 0.3) for stimulus in stimuli}
    shared_map = rng.normal(size=(N_SOURCES, N_FEATURES)) / np.sqrt(N_SOURCES)
    runs = []
    for subject in range(n_subjects):
        individual_map = rng.normal(size=(N_SOURCES, N_FEATURES)) / np.sqrt(N_SOURCES)
        for stimulus in stimuli:
            series = (
                np.sqrt(shared) * sources[stimulus] @ shared_map
                + np.sqrt(individual) * sources[stimulus] @ individual_map
            )
            noise = ar1_noise(rng, n_time_points, N_FEATURES, phi)
            series = series + np.sqrt(1 - shared - individual) * noise
            runs.append(as_run(series, f"sub-{subject:02}_{stimulus}", lead))
    return runs


def small_forecaster(horizons=(1, 3), recall=RECALL, n_features=N_FEATURES, lookahead=LOOKAHEAD):
    """A small forecaster, not fitted; its decoder forecasts 0."""
    torch.manual_seed(0)
    config = ForecasterConfig(
        tokenizer=LinearTokenizerConfig(n_tokens=1),
        backbone=MACConfig(tokens_per_time_point=1, n_heads=2, segment_time_points=8, dim=8, n_layers=1),
        recall=recall,
        lookahead=lookahead,
        horizons=horizons,
        decoder=LowRankConfig(rank=4),
    )
    return config.build(n_features=n_features)


@torch.no_grad()
def skills(model, runs, **options):
    """Of each horizon: one less the squared error over that of the linear skip alone, over all runs."""
    errors = torch.zeros(2, len(model.horizons), dtype=torch.float64)
    for run in runs:
        linear, beyond, _ = model.forecast_parts(run.series[None], **options)
        for index, horizon in enumerate(model.horizons):
            scored = torch.as_tensor(run.scored[horizon:])
            residual = (run.series[horizon:] - linear[0, :-horizon, index])[scored]
            errors[0, index] += (residual - beyond[0, :-horizon, index][scored]).square().sum()
            errors[1, index] += residual.square().sum()
    return (1 - errors[0] / errors[1]).tolist()
