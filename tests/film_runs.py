"""Runs with a planted film, and the means to score what baselines make of them."""

import itertools

import numpy as np
import torch
from in_memory import InMemoryRun

from titan_neuro.baselines import Groundwork, make_baselines, make_references

HORIZONS = (1, 3, 10)


def as_run(frames, key, lead=10):
    """Wrap frames; subject and stimulus are read off the key, the first `lead` frames are not scored."""
    subject, stimulus = key.removeprefix("sub-").split("_", 1)
    scored = np.arange(len(frames)) >= lead
    return InMemoryRun(torch.tensor(frames, dtype=torch.float32), scored, key, subject, stimulus)


def ar1_noise(rng, n_frames, n_features, phi):
    """Noise of variance 1 that follows an AR(1)."""
    frames = rng.normal(size=(n_frames, n_features))
    for t in range(1, n_frames):
        frames[t] = phi * frames[t - 1] + np.sqrt(1 - phi**2) * frames[t]
    return frames


def film_runs(n_subjects, n_stimuli, share, *, phi=0.7, n_frames=300, seed=0):
    """Runs of 20 features whose variance is `share` that of their film, of six sources, the rest each subject's own."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(6, 20)) / np.sqrt(6)
    films = [ar1_noise(rng, n_frames, 6, phi) @ mixing for _ in range(n_stimuli)]
    return [
        as_run(
            np.sqrt(share) * film + np.sqrt(1 - share) * ar1_noise(rng, n_frames, 20, phi),
            f"sub-{subject:02}_task-film{stimulus}",
        )
        for subject in range(n_subjects)
        for stimulus, film in enumerate(films)
    ]


def stream(model, frames, cuts=()):
    """All forecasts of one run, which is fed in parts."""
    state, parts = model.start(), []
    for a, b in itertools.pairwise([0, *cuts, len(frames)]):
        forecasts, state = model.step(frames[a:b], state)
        parts.append(forecasts)
    return torch.cat(parts)


def error(model, runs, horizon):
    """Squared error of a model's forecasts of scored frames, summed over the runs."""
    total = 0.0
    for run in runs:
        follower = model.follow(run, 0) if hasattr(model, "follow") else model
        forecasts = stream(follower, run.frames)[:-horizon, model.horizons.index(horizon)]
        scored = torch.as_tensor(run.scored[horizon:])
        total += float((run.frames[horizon:] - forecasts)[scored].double().square().sum())
    return total


def r2(model, runs, horizon):
    """One less the squared error over that about zero, the true mean of all features here."""
    power = sum(float(run.frames[horizon:][run.scored[horizon:]].double().square().sum()) for run in runs)
    return 1 - error(model, runs, horizon) / power


def fit_all(runs, horizons=HORIZONS):
    """All baselines and reference lines, by name, fitted."""
    groundwork = Groundwork(horizons)
    models = {
        model.name: model for model in (*make_baselines(horizons, groundwork), *make_references(horizons, groundwork))
    }
    for model in models.values():
        model.fit(runs)
    return models
