import numpy as np
import pytest
from stimulus_runs import ar1_noise, as_run, fit_all, stimulus_runs


@pytest.fixture(scope="session")
def smooth_runs():
    """Three subjects, two runs each, of AR(1) noise (phi 0.7); the first ten time points are not scored."""
    rng = np.random.default_rng(0)
    runs = []
    for subject in ("01", "02", "03"):
        for number in (1, 2):
            key = f"sub-{subject}_task-movie_run-{number:02}"
            runs.append(as_run(ar1_noise(rng, 300, 12, 0.7), key))
    return runs


@pytest.fixture(scope="session")
def shown_to_all():
    """Six training and two test subjects who saw one stimulus, which is a third of their variance."""
    runs = stimulus_runs(8, 1, 0.33)
    return runs[:6], runs[6:]


@pytest.fixture(scope="session")
def fitted_on_stimulus(shown_to_all):
    return fit_all(shown_to_all[0])
