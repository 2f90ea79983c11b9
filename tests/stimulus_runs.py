"""Synthetic runs that contain a shared stimulus, and functions to score baselines on them."""

import itertools

import numpy as np
import torch

from titan_neuro.baselines import SharedFits, make_baselines, make_oracle_references
from titan_neuro.runs import InMemoryRun

HORIZONS = (1, 3, 10)


def as_run(series, key, lead=10):
    """Make a run; subject and stimulus are read from the key, the first `lead` time points are not scored."""
    subject, stimulus = key.removeprefix("sub-").split("_", 1)
    scored = np.arange(len(series)) >= lead
    return InMemoryRun(torch.tensor(series, dtype=torch.float32), scored, key, subject, stimulus)


def ar1_noise(rng, n_time_points, n_features, phi):
    """Noise of variance 1 that follows an AR(1)."""
    series = rng.normal(size=(n_time_points, n_features))
    for t in range(1, n_time_points):
        series[t] = phi * series[t - 1] + np.sqrt(1 - phi**2) * series[t]
    return series


def stimulus_runs(n_subjects, n_stimuli, fraction, *, phi=0.7, n_time_points=300, seed=0):
    """Runs of 20 features: a `fraction` of their variance is a stimulus of six sources, the rest independent noise."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(6, 20)) / np.sqrt(6)
    responses = [ar1_noise(rng, n_time_points, 6, phi) @ mixing for _ in range(n_stimuli)]
    return [
        as_run(
            np.sqrt(fraction) * response + np.sqrt(1 - fraction) * ar1_noise(rng, n_time_points, 20, phi),
            f"sub-{subject:02}_task-movie{stimulus}",
        )
        for subject in range(n_subjects)
        for stimulus, response in enumerate(responses)
    ]


def stream(model, series, cuts=()):
    """All forecasts of one run, which is read in blocks that end at `cuts`."""
    state, parts = model.init_state(), []
    for a, b in itertools.pairwise([0, *cuts, len(series)]):
        forecasts, state = model.step(series[a:b], state)
        parts.append(forecasts)
    return torch.cat(parts)


def error(model, runs, horizon):
    """Squared error of a model's forecasts of scored time points, summed over the runs."""
    total = 0.0
    for run in runs:
        forecaster = model.bind(run, 0) if hasattr(model, "bind") else model
        forecasts = stream(forecaster, run.series)[:-horizon, model.horizons.index(horizon)]
        scored = torch.as_tensor(run.scored[horizon:])
        total += float((run.series[horizon:] - forecasts)[scored].double().square().sum())
    return total


def r2(model, runs, horizon):
    """One minus squared error / sum of squares; the true mean of all features is 0."""
    power = sum(float(run.series[horizon:][run.scored[horizon:]].double().square().sum()) for run in runs)
    return 1 - error(model, runs, horizon) / power


def fit_all(runs, horizons=HORIZONS):
    """All baselines and oracle references, by name, fitted."""
    shared_fits = SharedFits(horizons)
    models = {
        model.name: model
        for model in (*make_baselines(horizons, shared_fits), *make_oracle_references(horizons, shared_fits))
    }
    for model in models.values():
        model.fit(runs)
    return models
