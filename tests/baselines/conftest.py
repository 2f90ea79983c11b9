import numpy as np
import pytest
from film_runs import ar1_noise, as_run, film_runs, fit_all


@pytest.fixture(scope="session")
def smooth_runs():
    """Three subjects, two runs each, of AR(1) noise (phi 0.7); the first ten frames are not scored."""
    rng = np.random.default_rng(0)
    runs = []
    for subject in ("01", "02", "03"):
        for number in (1, 2):
            key = f"sub-{subject}_task-movie_run-{number:02}"
            runs.append(as_run(ar1_noise(rng, 300, 12, 0.7), key))
    return runs


@pytest.fixture(scope="session")
def shown_to_all():
    """Six subjects who are trained on and two who are tested, all shown one film of a third of their variance."""
    runs = film_runs(8, 1, 0.33)
    return runs[:6], runs[6:]


@pytest.fixture(scope="session")
def fitted_on_film(shown_to_all):
    return fit_all(shown_to_all[0])
