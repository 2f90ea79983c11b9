import pytest
from recall_runs import recall_runs, small_forecaster


@pytest.fixture(scope="session")
def truth():
    """Runs of six training and two test subjects, with shared and individual responses to one stimulus."""
    runs = recall_runs(8, shared=0.3, individual=0.25)
    return runs[:6], runs[6:]


@pytest.fixture(scope="session")
def fitted(truth):
    """A forecaster after its closed-form fit; not to be changed."""
    model = small_forecaster()
    model.fit(truth[0])
    return model.eval()
