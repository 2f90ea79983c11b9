"""Runs with a film that all subjects share, and with what each of them alone makes of it."""

import numpy as np
import torch
from film_runs import ar1_noise, as_run

from titan_neuro.layers.decoder import LowRankConfig
from titan_neuro.layers.tokenizer import ParcelTokenizerConfig
from titan_neuro.models import ForecasterConfig, MACConfig
from titan_neuro.models.recall import RecallConfig

N_FEATURES, N_SOURCES = 24, 6
RECALL = RecallConfig(
    width=24, n_components=12, own_lags=2, key_lags=3, key_components=6, group_width=8, n_groups=2, chunk_frames=8
)


def recall_runs(n_subjects, *, shared=0.35, own=0.0, n_frames=250, films=("task-film",), phi=0.6, seed=0, lead=10):
    """One run a subject and film.

    `shared` and `own` are the shares of the variance that the film's sources have through a map that is the same for
    all subjects, and through a map of each subject's own; the rest is AR(1) noise. The film itself is noise one frame
    long, so that its own past does not foretell it.
    """
    rng = np.random.default_rng(seed)
    sources = {film: ar1_noise(rng, n_frames, N_SOURCES, 0.3) for film in films}
    common = rng.normal(size=(N_SOURCES, N_FEATURES)) / np.sqrt(N_SOURCES)
    runs = []
    for subject in range(n_subjects):
        alone = rng.normal(size=(N_SOURCES, N_FEATURES)) / np.sqrt(N_SOURCES)
        for film in films:
            frames = np.sqrt(shared) * sources[film] @ common + np.sqrt(own) * sources[film] @ alone
            noise = ar1_noise(rng, n_frames, N_FEATURES, phi)
            frames = frames + np.sqrt(1 - shared - own) * noise
            runs.append(as_run(frames, f"sub-{subject:02}_{film}", lead))
    return runs


def small_forecaster(horizons=(1, 3), recall=RECALL):
    """A forecaster that is built in no time; its decoder forecasts nothing yet."""
    torch.manual_seed(0)
    config = ForecasterConfig(
        tokenizer=ParcelTokenizerConfig(n_tokens=1),
        backbone=MACConfig(tokens_per_frame=1, n_heads=2, segment_frames=8, dim=8, n_layers=1),
        recall=recall,
        horizons=horizons,
        decoder=LowRankConfig(rank=4),
    )
    return config.build(n_features=N_FEATURES)


@torch.no_grad()
def skills(model, runs, **options):
    """Of each horizon: one less the squared error over that of the linear skip alone, over all runs."""
    errors = torch.zeros(2, len(model.horizons), dtype=torch.float64)
    for run in runs:
        linear, beyond, _ = model.forecast_parts(run.frames[None], **options)
        for index, horizon in enumerate(model.horizons):
            scored = torch.as_tensor(run.scored[horizon:])
            left = (run.frames[horizon:] - linear[0, :-horizon, index])[scored]
            errors[0, index] += (left - beyond[0, :-horizon, index][scored]).square().sum()
            errors[1, index] += left.square().sum()
    return (1 - errors[0] / errors[1]).tolist()
