"""Runs whose stimulus is the same for all subjects, in noise of each subject's own; their correlation."""

import numpy as np
import torch

from titan_neuro.runs import InMemoryRun

N_FEATURES = 12


def viewer_run(subject, *, stimulus="stimulus", n_time_points=120, stimulus_start=0, shared=1.0, n_features=N_FEATURES):
    """A run whose stimulus has the amplitude `shared`."""
    response = np.random.default_rng(len(stimulus)).normal(size=(400, n_features))
    noise = np.random.default_rng([int(subject), len(stimulus)]).normal(size=(400, n_features))
    series = shared * response + 0.4 * noise
    series = np.concatenate([noise[:stimulus_start], series])[:n_time_points]
    return InMemoryRun(
        torch.from_numpy((series / series.std()).astype(np.float32)),
        np.arange(n_time_points) >= stimulus_start + 10,
        f"sub-{subject}_task-{stimulus}",
        str(subject),
        stimulus,
        stimulus_start=stimulus_start,
    )


def viewer_runs(subjects, **options):
    """Runs of several subjects."""
    return [viewer_run(subject, **options) for subject in subjects]


def isc_by_definition(data):
    """Correlate each of ``(subjects, time, features)`` with the average of the others: ``(subjects, features)``."""
    averages = [np.delete(data, subject, axis=0).mean(axis=0) for subject in range(len(data))]
    pairs = [zip(own.T, average.T, strict=True) for own, average in zip(data, averages, strict=True)]
    return np.array([[np.corrcoef(own, average)[0, 1] for own, average in features] for features in pairs])
