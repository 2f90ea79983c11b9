"""The stimuli that the recall is fitted on."""

import dataclasses

import numpy as np
import pytest
import torch

from titan_neuro.forecaster import RecallConfig
from titan_neuro.forecaster.recall.fit.components import find_components, project_run
from titan_neuro.forecaster.recall.fit.stimulus_memory import along, collect_stimuli
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
def test_frames_that_are_not_scored_do_not_shift_the_film(unscored):
    runs = [shown(subject) for subject in range(3)]
    runs[0] = dataclasses.replace(runs[0], scored=runs[0].scored & ~np.isin(np.arange(70), unscored))
    recall = RecallConfig(width=8, n_components=4).build(horizons=(1, 3), n_features=20, context_width=4)
    nothing = torch.zeros(2, 8, 20), torch.zeros(2, 20)
    find_components(recall, runs, *nothing)
    made = [project_run(recall, run, subject, *nothing) for subject, run in enumerate(runs)]
    stimuli = collect_stimuli(made, 3, recall.width)
    assert [run.stimulus_offset for run in made] == [0, 0, 0]
    expected = STIMULUS @ recall.basis.T
    for subject, run in enumerate(made):
        torch.testing.assert_close(stimuli.series[subject], expected)
        assert not along(run, stimuli.average(stimuli.series, subject))[: LEADS[subject]].any()
        torch.testing.assert_close(along(run, stimuli.average(stimuli.series, subject))[LEADS[subject] :], expected)
