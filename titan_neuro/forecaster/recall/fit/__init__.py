"""Fit the memories of :mod:`titan_neuro.forecaster.recall.recall` in closed form, on training runs alone.

Every choice is made by forecasts of one training subject from the others: a subject is left out of the stimulus that is
read for it, and of the weights by which it is read, as a subject of the test is. What was fitted without each is kept
for training and validation. The choices are few and made in turn: spatial components; the noise about the stimulus, and
how sharply to trust the moment; ridge penalties; lags at which something comes back; what keys are made of, and how
fast the memory learns.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from titan_neuro.forecaster.recall.fit.components import (
    find_components,
    find_present_components,
    group_runs,
    project_run,
)
from titan_neuro.forecaster.recall.fit.delayed_responses import fit_delayed_responses
from titan_neuro.forecaster.recall.fit.forecast_memory import fit_keys
from titan_neuro.forecaster.recall.fit.linear_maps import fit_linear
from titan_neuro.forecaster.recall.fit.stimulus_memory import collect_stimuli, fit_stimulus_memory
from titan_neuro.forecaster.recall.recall import Recall
from titan_neuro.typing import RunData

__all__ = ["fit_recall"]


def fit_recall(
    recall: Recall, runs: Sequence[RunData], coefficients: Tensor, intercept: Tensor, *, stimulus_is_shared: bool = True
) -> None:
    """Fit `recall` to the errors that linear autoregression makes on `runs`.

    Parameters
    ----------
    recall : Recall
        On the CPU; its buffers, and what its keys begin with, are set in place.
    runs : sequence of RunData
        Training runs.
    coefficients, intercept : torch.Tensor
        Of the linear skip, ``(horizons, order, features)`` and ``(horizons, features)``.
    stimulus_is_shared : bool
        False where those who are to be forecast are shown another stimulus than `runs`: then none is remembered, and
        nothing is chosen as if it could be recalled.

    Raises
    ------
    TrainingError
        No run, or one without a scored time point.
    MismatchError
        Runs of different numbers of features.
    """
    subjects = sorted({run.subject for run in runs})
    viewers = {run.stimulus: {other.subject for other in runs if other.stimulus == run.stimulus} for run in runs}
    has_stimulus = stimulus_is_shared and any(len(who) > 1 for who in viewers.values())
    stimulus_directions = find_components(recall, runs, coefficients, intercept, has_stimulus=has_stimulus)
    made = [project_run(recall, run, subjects.index(run.subject), coefficients, intercept) for run in runs]
    for run, fold in zip(made, group_runs(made, stimulus_is_shared=stimulus_is_shared), strict=True):
        run.fold = fold
    recall.runs = {run.key: (its.subject, its.fold) for run, its in zip(runs, made, strict=True)}
    stimuli = collect_stimuli(made if has_stimulus else [], len(subjects), recall.width)
    fit_stimulus_memory(recall, made, stimuli, stimulus_directions)
    find_present_components(recall, made)
    fit_linear(recall, made)
    fit_delayed_responses(recall, made)
    fit_keys(recall, made)
