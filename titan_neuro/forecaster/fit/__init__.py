"""Fit the recall, and the keys of the backbone's memory, in closed form, on training runs alone.

Every choice is made by forecasts of training subjects from the other subjects: the subject is left out of the stimulus
memory and of the weights with which its runs are read, as a test subject is. What was fitted without each subject and
fold is stored for training and validation. The choices are few, and made one after the other: spatial components; the
noise about the stimulus, and the sharpness of its posterior; ridge penalties; lags of delayed responses; what each
component's own past adds; the length of the keys of the memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch import Tensor

from titan_neuro.forecaster.fit.aligned_subjects import align_subjects
from titan_neuro.forecaster.fit.components import find_components, principal_series_directions, project_runs
from titan_neuro.forecaster.fit.delayed_responses import fit_delayed_responses
from titan_neuro.forecaster.fit.linear_maps import fit_linear_maps
from titan_neuro.forecaster.fit.lookahead_memory import fit_lookahead_memory
from titan_neuro.forecaster.fit.own_past import fit_own_past
from titan_neuro.forecaster.fit.start import FitStart
from titan_neuro.forecaster.fit.stimulus_memory import fit_stimulus_memory
from titan_neuro.forecaster.fitted import FitRecord
from titan_neuro.forecaster.recall.component_autoregression import ComponentAutoregressionFit
from titan_neuro.forecaster.recall.config import RecallConfig
from titan_neuro.forecaster.recall.delayed_responses import DelayedResponsesFit
from titan_neuro.forecaster.recall.own_past import OwnPastFit
from titan_neuro.forecaster.recall.recall import RecallFit
from titan_neuro.forecaster.recall.stimulus_memory import StimulusMemoryFit
from titan_neuro.forecaster.titan import LookaheadConfig, LookaheadMemoryFit
from titan_neuro.forecaster.titan.forecast_memory import ForecastMemoryFit
from titan_neuro.forecaster.titan.own_past_memory import OwnPastMemoryFit
from titan_neuro.forecaster.titan.titans_memory import TitansMemoryFit
from titan_neuro.linear.autoregression import Autoregression
from titan_neuro.typing import RunData

__all__ = ["ClosedFormFit", "FitStart", "fit_closed_form"]


@dataclasses.dataclass(frozen=True, eq=False)
class ClosedFormFit(FitRecord):
    """What is fitted beside the linear skip, before any gradient step.

    Attributes
    ----------
    basis : torch.Tensor
        ``(width, features)``; see :class:`titan_neuro.forecaster.components.Components`.
    recall : RecallFit
    memory : LookaheadMemoryFit or None
        None without a memory that looks ahead.
    runs : dict of str to (int, int)
        For each training run, by its key, the indices of its subject and of its fold.
    """

    basis: Tensor
    recall: RecallFit
    memory: LookaheadMemoryFit | None
    runs: dict[str, tuple[int, int]]

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], runs: Mapping[str, tuple[int, int]]) -> ClosedFormFit:
        """Put together what :meth:`tensors` returned, and `runs`."""

        def part(name: str) -> dict[str, Tensor]:
            return {
                key.removeprefix(f"{name}."): value
                for key, value in tensors.items()
                if key.startswith(f"{name}.") and "." not in key.removeprefix(f"{name}.")
            }

        recall = RecallFit(
            **part("recall"),
            stimulus=StimulusMemoryFit(**part("recall.stimulus")),
            autoregression=ComponentAutoregressionFit(**part("recall.autoregression")),
            delayed_responses=DelayedResponsesFit(**part("recall.delayed_responses")),
            own_past=OwnPastFit(**part("recall.own_past")),
        )
        memory = None
        if directions := part("memory"):
            associations = part("memory.associations")
            rule = TitansMemoryFit if "gates" in associations else ForecastMemoryFit
            own_past = OwnPastMemoryFit(**part("memory.own_past"))
            memory = LookaheadMemoryFit(**directions, own_past=own_past, associations=rule(**associations))
        return cls(tensors["basis"], recall, memory, dict(runs))


def fit_closed_form(
    recall: RecallConfig,
    lookahead: LookaheadConfig | None,
    runs: Sequence[RunData],
    linear: Autoregression,
    *,
    stimulus_is_shared: bool = True,
    start: FitStart | None = None,
) -> ClosedFormFit:
    """Fit recall and memory to the errors that linear autoregression makes on training runs.

    Parameters
    ----------
    recall : RecallConfig
        Sizes.
    lookahead : LookaheadConfig or None
        Sizes of the backbone's memory; None for none.
    runs : sequence of RunData
        Training runs.
    linear : Autoregression
        The linear skip, fitted to `runs`; its horizons are those of the model.
    stimulus_is_shared : bool
        False where subjects of the test see another stimulus than `runs`: then no stimulus is remembered, and choices
        are cross-validated over stimuli instead of subjects.
    start : FitStart, optional
        A model fitted before, to other recordings: its components are kept, and its autoregression is what ridge
        penalties shrink toward, instead of 0, where that is better for held-out folds.

    Returns
    -------
    ClosedFormFit
        For :meth:`titan_neuro.forecaster.Forecaster.load_closed_form`.

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
    components = find_components(recall, runs, linear, has_stimulus=has_stimulus, start=start)
    projected = project_runs(runs, components.basis, linear, stimulus_is_shared=stimulus_is_shared)

    aligned = align_subjects(projected if has_stimulus else [], len(set().union(*subjects_of.values())), components)
    stimulus, averages = fit_stimulus_memory(projected, aligned, components, linear.horizons)
    directions = principal_series_directions(projected, components) if start is None else start.series_directions
    prior = None if start is None else start.autoregression
    maps = fit_linear_maps(recall, projected, stimulus, averages, directions, linear.horizons, prior=prior)
    delayed, recalled = fit_delayed_responses(recall, projected, maps.forecasts, components, linear.horizons)
    own_past, recalled = fit_own_past(projected, recalled, linear.horizons)
    memory = None
    if lookahead is not None:
        memory = fit_lookahead_memory(lookahead, projected, recalled, linear.horizons)
    return ClosedFormFit(
        basis=components.basis,
        recall=RecallFit(components.innovation_directions, maps.stimulus, maps.autoregression, delayed, own_past),
        memory=memory,
        runs={run.key: (part.subject, part.fold) for run, part in zip(runs, projected, strict=True)},
    )
