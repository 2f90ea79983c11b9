"""The stimuli that the recall is fitted on."""

import dataclasses

import numpy as np
import pytest
import torch

from titan_neuro.forecaster import RecallConfig
from titan_neuro.forecaster.fit.aligned_subjects import align_subjects
from titan_neuro.forecaster.fit.components import find_components, project_runs
from titan_neuro.forecaster.fit.stimulus_memory import fit_stimulus_memory
from titan_neuro.forecaster.recall.stimulus_memory import StimulusMemory
from titan_neuro.linear.autoregression import Autoregression
from titan_neuro.runs import InMemoryRun

STIMULUS = torch.randn(60, 20, generator=torch.Generator().manual_seed(0))
LEADS = (10, 4, 12)


def shown(subject):
    """A run of the stimulus, led by time points of nothing."""
    lead = LEADS[subject]
    series = torch.cat([torch.zeros(lead, 20), STIMULUS])
    stimulus = "task-film"
    return InMemoryRun(series, np.arange(60 + lead) >= lead, f"sub-{subject}_{stimulus}", str(subject), stimulus)


@pytest.mark.parametrize("unscored", [[], [10], [10, 11, 12, 40]])
def test_unscored_time_points_do_not_shift_the_stimulus(unscored):
    runs = [shown(subject) for subject in range(3)]
    runs[0] = dataclasses.replace(runs[0], scored=runs[0].scored & ~np.isin(np.arange(70), unscored))
    zero_forecasts = Autoregression(torch.zeros(2, 8, 20), torch.zeros(2, 20), (1, 3), (8, 8), (1.0, 1.0))
    components = find_components(RecallConfig(width=8, n_components=4), runs, zero_forecasts)
    projected = project_runs(runs, components.basis, zero_forecasts)
    aligned = align_subjects(projected, 3, components)
    assert aligned.offsets == {"task-film": 0}
    expected = STIMULUS @ components.basis.T
    for subject, run in enumerate(projected):
        torch.testing.assert_close(aligned.series[subject], expected)
        others = aligned.along_run(run, aligned.average(aligned.series, {subject}))
        assert not others[: LEADS[subject]].any()
        torch.testing.assert_close(others[LEADS[subject] :], expected)


def test_training_subjects_are_located_as_new_ones_are():
    """Each subject has noise of a covariance of its own: a memory that knows it locates this subject too well."""
    generator = torch.Generator().manual_seed(1)
    n_training, n_new, n_features = 5, 6, 60
    stimulus = torch.randn(400, n_features, generator=generator)

    def watched(subject):
        mixing = 0.8 * torch.randn(n_features, n_features, generator=generator)
        series = stimulus + torch.randn(*stimulus.shape, generator=generator) @ mixing
        return InMemoryRun(series, key=f"sub-{subject}", subject=str(subject), stimulus="film")

    runs = [watched(subject) for subject in range(n_training + n_new)]
    no_forecasts = Autoregression(torch.zeros(2, 8, n_features), torch.zeros(2, n_features), (1, 3), (8, 8), (1.0, 1.0))
    components = find_components(RecallConfig(width=n_features, n_components=8), runs[:n_training], no_forecasts)
    projected = project_runs(runs, components.basis, no_forecasts)
    training = [dataclasses.replace(run, subject=place) for place, run in enumerate(projected[:n_training])]
    fit, _ = fit_stimulus_memory(training, align_subjects(training, n_training, components), components, (1, 3))
    memory = StimulusMemory(n_components=8, horizons=(1, 3), width=n_features)
    memory.load(fit)

    def located(run, subjects):
        probabilities, _ = memory.locate(run.innovations[None], memory.init_state(1), subjects)
        return float(probabilities[0].diagonal().mean())

    new = np.mean([located(run, None) for run in projected[n_training:]])
    left_out = np.mean([located(run, run.subject_index) for run in training])
    assert left_out < new + 0.1
    assert 0.3 < new < np.mean([located(run, None) for run in training]) - 0.1
