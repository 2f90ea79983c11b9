"""The reference of a subject must not contain the subject."""

import numpy as np
from delay_memory import fold_of, mac_forecaster
from stimulus_viewers import N_FEATURES, viewer_runs

from titan_neuro.probing import untrained_like
from titan_neuro.probing.tools.stimulus_traces import StimulusTraces


def test_reference_excludes_the_subject():
    """With a held-out stimulus the reference is the other test subjects, whose sum is made once."""
    test_runs = [*viewer_runs(range(3), n_time_points=60), *viewer_runs((0,), n_time_points=50)]
    test_runs[3].key += "_again"
    model = mac_forecaster(N_FEATURES)
    fold = fold_of(model, test_runs, viewer_runs(range(3), stimulus="another"), untrained_like(model, seed=1))
    traces = StimulusTraces(fold, every_time_points=8, width=64)
    of_runs = [traces.of_run(run) for run in test_runs[:3]]
    reference = traces.reference(test_runs[0], of_runs[0])
    assert traces.reference_runs(test_runs[0]) == test_runs[1:3]
    for readout, values in reference.items():
        expected = np.mean([of_run[readout] for of_run in of_runs[1:]], axis=0)
        np.testing.assert_allclose(values, expected, atol=1e-6)
