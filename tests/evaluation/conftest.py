import numpy as np
import pytest
import torch
from in_memory import InMemoryRun

from titan_neuro.evaluation import EvaluationConfig


@pytest.fixture(scope="session")
def make_run():
    """Return a function that makes a run of AR(1) noise with a given `phi`; the first five frames are not scored."""

    def make(subject, number, *, phi=0.7, n_frames=160, n_features=30):
        rng = np.random.default_rng([int(subject), number])
        frames = rng.normal(size=(n_frames, n_features))
        for t in range(1, n_frames):
            frames[t] = phi * frames[t - 1] + np.sqrt(1 - phi**2) * frames[t]
        key = f"sub-{subject}_task-movie_run-{number:02}"
        return InMemoryRun(torch.tensor(frames, dtype=torch.float32), np.arange(n_frames) >= 5, key, subject)

    return make


class Oracle:
    """Forecasts part of what is coming, since it was given the runs beforehand: `share` of the way from persistence."""

    def __init__(self, runs, share, name="oracle", horizons=(1, 3)):
        self.name, self.horizons, self.share = name, horizons, share
        self.runs = {run.frames[0, 0].item(): run.frames for run in runs}

    def fit(self, runs):
        pass

    def start(self):
        return None

    def step(self, frames, state):
        run, at = (self.runs[frames[0, 0].item()], 0) if state is None else state
        forecasts = []
        for t in range(at, at + len(frames)):
            to_come = torch.stack([run[min(t + h, len(run) - 1)] for h in self.horizons])
            forecasts.append(self.share * to_come + (1 - self.share) * run[t])
        return torch.stack(forecasts), (run, at + len(frames))


@pytest.fixture(scope="session")
def oracle():
    return Oracle


@pytest.fixture(scope="session")
def quick():
    return EvaluationConfig(n_resamples=2000)
