"""The models of a study: which are trained, where they lie, and that they are of the runs and settings in force."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch

from titan_neuro.data.bids.output import source_dataset
from titan_neuro.data.space import common_space
from titan_neuro.data.splits import make_folds
from titan_neuro.errors import (
    ImageError,
    InputNotFoundError,
    MismatchError,
    NoMatchError,
    UsageError,
    list_names,
    near_miss,
)
from titan_neuro.forecaster import match_comparison_models
from titan_neuro.manifests import ResultOf, State, result_digest
from titan_neuro.training import (
    FoldData,
    load_forecaster,
    require_match,
    require_record,
    require_unseen,
    run_digest,
    trained_result,
)

if TYPE_CHECKING:
    from titan_neuro.data.space import Space
    from titan_neuro.data.store import RunStore
    from titan_neuro.forecaster import Forecaster, ForecasterConfig
    from titan_neuro.study.config import StudyConfig
    from titan_neuro.study.output import OutputFolder

logger = logging.getLogger(__name__)

_CLOSED_FORM_ALONE = (
    "The model is the closed form alone (training.max_epochs is 0): the blocks of its backbone and the tokens that "
    "they read are not trained, and enter no forecast."
)


def study_folds(
    runs: Sequence[RunStore], config: StudyConfig, dataset: Mapping[str, str] | None = None
) -> list[FoldData]:
    """Divide prepared runs into folds, all seen through the mask that they share; `dataset` is what they are of.

    Raises
    ------
    ImageError
        Runs of different repetition times.
    MismatchError
        Runs of different grids or parcels, or too few for the protocol.
    NoMatchError
        No run is of a task that the recall probe names.
    """
    times = {run.repetition_time for run in runs}
    if len(times) > 1:
        raise ImageError(
            f"The prepared runs differ in their repetition time: {', '.join(f'{t:g} s' for t in sorted(times))}.",
            "A model is bound to one; prepare runs that share it into a folder of their own (--task-id).",
        )
    space = common_space({run.key: run.space for run in runs})
    if space.lost_parcels:
        logger.warning(
            "The study takes the %d parcels that all %d runs have; %d are lost: %s.",
            *(len(space.parcels), len(runs), len(space.lost_parcels), _describe_lost(space, runs)),
        )
    read, set_aside = _divide_by_task(runs, config)
    protocol, folds = make_folds(read, config.split)
    views = {run.key: run.within(space) for run in read}
    aside = tuple(run.within(space) for run in set_aside)
    shared: dict[str, Any] = {"protocol": protocol, "space": space, "runs": views}
    return [FoldData(fold=fold, set_aside=aside, dataset=dataset, **shared) for fold in folds]


def _divide_by_task(runs: Sequence[RunStore], config: StudyConfig) -> tuple[list[RunStore], list[RunStore]]:
    """Return the runs that folds are made of, and those of the task in which the stimulus is retold."""
    tasks = config.probe.tasks
    if tasks is None:
        return list(runs), []
    available = sorted({run.entities.get("task", "") for run in runs})
    for name, label in (("watching", tasks.watching), ("retelling", tasks.retelling)):
        if label not in available:
            raise NoMatchError(
                f"probe.recall.tasks.{name}: no prepared run has the task {label}.{near_miss(label, available)}",
                f"There are: {', '.join(available)}. Prepare the runs of both tasks into one folder, or leave the "
                "setting out.",
            )
    return (
        [run for run in runs if run.entities.get("task") != tasks.retelling],
        [run for run in runs if run.entities.get("task") == tasks.retelling],
    )


def _describe_lost(space: Space, runs: Sequence[RunStore]) -> str:
    """List each lost parcel with the runs that lack it."""
    without = {name: [run.key for run in runs if name in run.space.lost_parcels] for name in space.lost_parcels}
    return list_names([f"{name} ({list_names(keys)})" for name, keys in without.items()])


def study_models(config: StudyConfig, space: Space) -> dict[str, ForecasterConfig]:
    """List the forecasters that are trained, by name: the study's model first, then its comparison models."""
    models = [config.model]
    if config.comparison_models:
        mask = None if space.mask is None else torch.from_numpy(space.mask)
        models += match_comparison_models(config.model, n_features=space.n_features, mask=mask)
    return {model.backbone.name: model for model in models}


@dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """A model of a study, trained or not.

    Attributes
    ----------
    seed : int
    data : FoldData
    config : ForecasterConfig
    folder : Path
        Where it lies, or will lie.
    result : ResultOf
        What it follows from.
    """

    seed: int
    data: FoldData
    config: ForecasterConfig
    folder: Path
    result: ResultOf

    @property
    def label(self) -> str:
        """``seed-0 fold-1 titan-mac``."""
        return f"seed-{self.seed} fold-{self.data.fold.number} {self.config.backbone.name}"

    @property
    def seed_and_fold(self) -> str:
        """``seed-0_fold-1``: what one job trains, the model and its comparison models."""
        return f"seed-{self.seed}_fold-{self.data.fold.number}"

    @cached_property
    def digest(self) -> str:
        """Digest of the trained model, for what is made with it; empty where it is missing.

        It is taken once: the manifest of a model lists all its runs, and every forecast follows from it.
        """
        return result_digest(self.result.root, self.result.name) or ""

    def require(self) -> None:
        """Refuse a model that is not trained on these runs with these settings, or that was damaged since.

        Raises
        ------
        InputNotFoundError
            It was not trained yet.
        MismatchError
            It was trained on other runs or with other settings, or a file of it was changed.
        LeakageError
            It started from a model that was fitted on somebody who is tested now.
        """
        found = self.result.check()
        if found.is_done:
            # Who is tested may have changed since.
            require_unseen(require_record(self.folder).get("fitted_on", ())[1:], self.data, str(self.folder))
            return
        hint = f"Run `titan-neuro train {self.result.root}` first."
        if found.state is State.MISSING:
            raise InputNotFoundError(f"{self.folder}: no trained model is here, or its training was interrupted.", hint)
        if found.state is State.STALE:
            # Says which property of the data differs, where the manifest has a digest of it only.
            require_match(require_record(self.folder), self.data.identity(), str(self.result.root))
            raise MismatchError(
                f"{self.folder}: was trained on other runs or with other settings than those in force: {found.why}.",
                hint,
            )
        raise MismatchError(f"{self.folder}: the model is damaged: {found.why}.", hint)


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """The folds and models of a study, or some of them, as its prepared runs and its settings have them.

    Attributes
    ----------
    output : OutputFolder
    config : StudyConfig
        Of the whole study.
    n_folds : int
        Number of folds of the whole study.
    folds : list of FoldData
    models : list of PlannedModel
        Of these folds, by seed, then fold, then model: the study's model first, then its comparison models.
    """

    output: OutputFolder
    config: StudyConfig
    n_folds: int
    folds: list[FoldData]
    models: list[PlannedModel]

    def part(self, folds: Sequence[int] | None, seeds: Sequence[int] | None) -> StudyPlan:
        """Return the plan of some folds and seeds; of all, where none are named.

        Raises
        ------
        UsageError
            The study has no such fold or seed.
        """
        numbers = _choose("fold", folds, [data.fold.number for data in self.folds])
        chosen_seeds = _choose("seed", seeds, self.seeds)
        return replace(
            self,
            folds=[data for data in self.folds if data.fold.number in numbers],
            models=[model for model in self.models if model.data.fold.number in numbers and model.seed in chosen_seeds],
        )

    @property
    def seeds(self) -> list[int]:
        """Seeds of the models, in the order of the settings."""
        return list(dict.fromkeys(model.seed for model in self.models))

    @property
    def notes(self) -> list[str]:
        """What a table of this plan must say of itself: that nothing was trained, which part of the study it is of."""
        notes = [] if self.config.training.max_epochs else [_CLOSED_FORM_ALONE]
        numbers = [data.fold.number for data in self.folds]
        if len(numbers) == self.n_folds and self.seeds == list(self.config.seeds):
            return notes
        folds, seeds = (", ".join(map(str, each)) for each in (numbers, self.seeds))
        return [
            *notes,
            f"PART OF THE STUDY: {len(numbers)} of {self.n_folds} folds ({folds}) and {len(self.seeds)} of "
            f"{len(self.config.seeds)} seeds ({seeds}) are scored; without --fold and --seed all are.",
        ]

    @property
    def stem(self) -> Path:
        """Start of the names of group results: ``OUT/group/task-movie``."""
        return self.output.group_stem([run.store for run in self.folds[0].runs.values()])

    def of_fold(self, number: int, seed: int) -> list[PlannedModel]:
        """Return the models of one fold and seed, the study's model first."""
        return [model for model in self.models if (model.data.fold.number, model.seed) == (number, seed)]

    @property
    def main_models(self) -> list[PlannedModel]:
        """The study's model of the first seed, of each fold: what probes and forecasts are made with."""
        return [self.of_fold(data.fold.number, self.config.seeds[0])[0] for data in self.folds]

    def require_tests(self) -> None:
        """Refuse a study in which nobody is tested: it has a model, and nothing to score.

        Raises
        ------
        NoMatchError
            No fold has a test run.
        """
        if not any(data.fold.test for data in self.folds):
            raise NoMatchError(
                f"{self.output.path}: split.by is {self.config.split.by}: expected people or runs that are tested, "
                "found none: all of them are trained and validated on.",
                "Name the model with --set training.start=... in another study, or choose another --set "
                "split.by=... and train again.",
            )

    @property
    def tested(self) -> dict[int, tuple[str, ...]]:
        """Keys of the test runs of each fold. Models don't depend on them, so that no digest of a model has them."""
        return {data.fold.number: data.fold.test for data in self.folds}

    def inputs(self, models: Sequence[PlannedModel]) -> dict[str, str]:
        """Return the digests of models and of all runs of folds, for what follows from them; empty where missing."""
        runs = {f"run {run.key}": run_digest(run) for run in self.folds[0].runs.values()}
        return {**{f"model {model.label}": model.digest for model in models}, **runs}


def plan_study(output: OutputFolder, runs: Sequence[RunStore], config: StudyConfig) -> StudyPlan:
    """Say which folds and models a study has; see :func:`study_folds` for errors."""
    folds = study_folds(runs, config, source_dataset(output.path))
    configs = study_models(config, folds[0].space)
    models = [
        PlannedModel(
            seed=seed,
            data=data,
            config=model,
            folder=output.model(seed, data.fold.number, name),
            result=trained_result(data, model, config.training, seed, root=output.path),
        )
        for seed in config.seeds
        for data in folds
        for name, model in configs.items()
    ]
    return StudyPlan(output=output, config=config, n_folds=len(folds), folds=folds, models=models)


def _choose(what: str, asked: Sequence[int] | None, available: Sequence[int]) -> list[int]:
    """Return what is asked for of what is available; all of it, where nothing is asked for."""
    if asked and not set(asked) <= set(available):
        raise UsageError(
            f"--{what} {' '.join(map(str, asked))}: the study has the {what}s {', '.join(map(str, available))}."
        )
    return [number for number in available if not asked or number in asked]


class StoredModels(Sequence["Forecaster"]):
    """Models of one seed and fold, each read from its folder when it is asked for, and not kept.

    Parameters
    ----------
    folders : sequence of Path
    device : str
    """

    def __init__(self, folders: Sequence[Path], device: str) -> None:
        self._folders, self._device = folders, device

    def __len__(self) -> int:
        """Number of models."""
        return len(self._folders)

    @overload
    def __getitem__(self, index: int) -> Forecaster: ...
    @overload
    def __getitem__(self, index: slice) -> StoredModels: ...
    def __getitem__(self, index: int | slice) -> Forecaster | StoredModels:
        """Load a model, or name those of a slice."""
        if isinstance(index, slice):
            return StoredModels(self._folders[index], self._device)
        return load_forecaster(self._folders[index], self._device)[0]


@dataclass(frozen=True, kw_only=True)
class TrainedStudy:
    """A study whose folds are trained, all or those of its plan: what scoring and probing start from.

    Attributes
    ----------
    plan : StudyPlan
    device : str
    models : dict of int to list of sequences of Forecaster
        Seed, then fold: the study's model and, where the study has them, ``gru`` and ``transformer-20``. A model is
        read from disk each time that it is asked for, so that no more are held than are in use.
    """

    plan: StudyPlan
    device: str
    models: dict[int, list[StoredModels]]

    @property
    def config(self) -> StudyConfig:
        """Every setting in force."""
        return self.plan.config

    @property
    def folds(self) -> list[FoldData]:
        """The folds of the study."""
        return self.plan.folds


def open_trained(plan: StudyPlan, device: str) -> TrainedStudy:
    """Open the models of a plan, and record the settings of the study once all of them fit.

    Raises
    ------
    InputNotFoundError, MismatchError, LeakageError
        See :meth:`PlannedModel.require`.
    NoMatchError
        The folds test nobody.
    """
    plan.require_tests()
    for model in plan.models:
        model.require()
    plan.output.record_settings(plan.config)
    models = {
        seed: [
            StoredModels([model.folder for model in plan.of_fold(data.fold.number, seed)], device)
            for data in plan.folds
        ]
        for seed in plan.seeds
    }
    return TrainedStudy(plan=plan, device=device, models=models)
