import pytest
from recall_runs import recall_runs, small_forecaster


@pytest.fixture(scope="session")
def truth():
    """Six subjects who are trained on and two who are not: a stimulus all share, and what each makes of it besides."""
    runs = recall_runs(8, shared=0.3, own=0.25)
    return runs[:6], runs[6:]


@pytest.fixture(scope="session")
def fitted(truth):
    """A forecaster after its closed-form fit; not to be changed."""
    model = small_forecaster()
    model.fit(truth[0])
    return model.eval()
