"""Fit the memories of :mod:`titan_neuro.forecaster.recall.recall` in closed form, on training runs alone.

Every choice is made by forecasts of training subjects from the other subjects: the subject is left out of the stimulus
memory and of the weights with which its runs are read, as a test subject is. What was fitted without each subject and
fold is stored for training and validation. The choices are few, and made one after the other: spatial components; the
noise about the stimulus, and the sharpness of its posterior; ridge penalties; lags of delayed responses; the length of
the keys of the forecast memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from titan_neuro.forecaster.recall.fit.aligned_subjects import align_subjects
from titan_neuro.forecaster.recall.fit.components import find_components, principal_series_directions, project_runs
from titan_neuro.forecaster.recall.fit.delayed_responses import fit_delayed_responses
from titan_neuro.forecaster.recall.fit.forecast_memory import find_key_directions, fit_forecast_memory
from titan_neuro.forecaster.recall.fit.linear_maps import fit_linear_maps
from titan_neuro.forecaster.recall.fit.stimulus_memory import fit_stimulus_memory
from titan_neuro.forecaster.recall.recall import RecallConfig, RecallFit
from titan_neuro.linear.autoregression import Autoregression
from titan_neuro.typing import RunData

__all__ = ["fit_recall"]


def fit_recall(
    config: RecallConfig, runs: Sequence[RunData], linear: Autoregression, *, stimulus_is_shared: bool = True
) -> RecallFit:
    """Fit a recall to the errors that linear autoregression makes on training runs.

    Parameters
    ----------
    config : RecallConfig
        Sizes.
    runs : sequence of RunData
        Training runs.
    linear : Autoregression
        The linear skip, fitted to `runs`; its horizons are those of the recall.
    stimulus_is_shared : bool
        False where subjects of the test see another stimulus than `runs`: then no stimulus is remembered, and choices
        are cross-validated over stimuli instead of subjects.

    Returns
    -------
    RecallFit
        For :meth:`titan_neuro.forecaster.recall.recall.Recall.load`.

    Raises
    ------
    TrainingError
        No run, or one without a scored time point.
    MismatchError
        Runs of different numbers of features.
    """
    subjects_of: dict[str, set[str]] = {}
    for run in runs:
        subjects_of.setdefault(run.stimulus, set()).add(run.subject)
    has_stimulus = stimulus_is_shared and any(len(subjects) > 1 for subjects in subjects_of.values())
    components = find_components(config, runs, linear, has_stimulus=has_stimulus)
    projected = project_runs(runs, components.basis, linear, stimulus_is_shared=stimulus_is_shared)

    aligned = align_subjects(projected if has_stimulus else [], len(set().union(*subjects_of.values())), components)
    stimulus, averages = fit_stimulus_memory(projected, aligned, components, linear.horizons)
    directions = principal_series_directions(projected, components)
    maps = fit_linear_maps(config, projected, stimulus, averages, directions, linear.horizons)
    forecasts = [forecast.total for forecast in maps.forecasts]
    delayed, forecasts = fit_delayed_responses(config, projected, forecasts, components, linear.horizons)
    key_directions = find_key_directions(projected, components.sizes)
    memory = fit_forecast_memory(
        config, projected, maps.forecasts, forecasts, key_directions, components.sizes, linear.horizons
    )
    return RecallFit(
        basis=components.basis,
        innovation_directions=components.innovation_directions,
        key_directions=key_directions,
        stimulus=maps.stimulus,
        autoregression=maps.autoregression,
        delayed_responses=delayed,
        memory=memory,
        runs={run.key: (part.subject, part.fold) for run, part in zip(runs, projected, strict=True)},
    )
