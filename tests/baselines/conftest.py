import numpy as np
import pytest
import torch
from in_memory import InMemoryRun


@pytest.fixture(scope="session")
def smooth_runs():
    """Three subjects, two runs each, of AR(1) noise (phi 0.7); the first ten frames are not scored."""
    rng = np.random.default_rng(0)
    runs = []
    for subject in ("01", "02", "03"):
        for number in (1, 2):
            frames = rng.normal(size=(300, 12))
            for t in range(1, 300):
                frames[t] = 0.7 * frames[t - 1] + np.sqrt(1 - 0.49) * frames[t]
            key = f"sub-{subject}_task-movie_run-{number:02}"
            runs.append(InMemoryRun(torch.tensor(frames, dtype=torch.float32), np.arange(300) >= 10, key, subject))
    return runs
