"""The second stage: the study's model and its comparison models are trained, for every seed and fold."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_neuro.errors import UsageError
from titan_neuro.study.models import study_folds, study_models
from titan_neuro.training import expect_time_limit, find_processes, fold_fingerprint, is_trained, train_fold

if TYPE_CHECKING:
    from titan_neuro.data.splits import Fold
    from titan_neuro.data.store import RunStore
    from titan_neuro.forecaster import ForecasterConfig
    from titan_neuro.study.config import StudyConfig
    from titan_neuro.study.output import OutputFolder
    from titan_neuro.study.study import Study
    from titan_neuro.training import FoldData, Processes, TrainingConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """A model that lies in the output folder.

    Attributes
    ----------
    seed, fold : int
        Folds are counted from 1.
    name : str
        ``titan-mac``, ``gru``, ``transformer-20``, ...
    folder : Path
    is_new : bool
        Whether this call has trained it.
    """

    seed: int
    fold: int
    name: str
    folder: Path
    is_new: bool


@dataclass(frozen=True)
class PlannedFold:
    """What `train` would do in a fold.

    Attributes
    ----------
    fold : Fold
        Keys of the runs to train on, to choose the epoch by, and to test.
    protocol : str
        ``subject``, ``run`` or ``strict``: what is held out.
    n_models, n_trained : int
        Models of all seeds, and how many of them are trained on these runs with the settings in force.
    """

    fold: Fold
    protocol: str
    n_models: int
    n_trained: int

    def __str__(self) -> str:
        """One line for the terminal."""
        train, validation, test = (", ".join(keys) for keys in (self.fold.train, self.fold.validation, self.fold.test))
        return (
            f"Fold {self.fold.number} ({self.n_trained} of {self.n_models} models trained, by {self.protocol}): "
            f"train on {train}; choose by {validation}; test {test}"
        )


def plan_folds(output: OutputFolder, runs: Sequence[RunStore], config: StudyConfig) -> list[PlannedFold]:
    """Say which models there would be, and which of them need not be trained."""
    folds = study_folds(runs, config)
    configs = study_models(config, folds[0].space)
    planned = []
    for data in folds:
        # As `train` decides it: a model of other runs or settings is trained anew.
        are_trained = [
            is_trained(output.model(seed, data.fold.number, name), fold_fingerprint(data, model, config.training, seed))
            for seed in config.seeds
            for name, model in configs.items()
        ]
        planned.append(PlannedFold(data.fold, data.protocol, len(are_trained), sum(are_trained)))
    return planned


def train_models(
    study: Study, folds: Sequence[int] | None, seeds: Sequence[int] | None, n_processes: int | None
) -> tuple[list[TrainedModel], bool]:
    """Train every model of these folds and seeds that is not trained yet; see :meth:`Study.train`.

    Returns
    -------
    models : list of TrainedModel
    is_first : bool
        Whether this is the process that continues where several have trained together.
    """
    expect_time_limit()
    study.check_output()
    runs = study.runs()
    config = study.settings.resolve_prepared(study.output, runs)
    processes = find_processes(study.device, n_processes)
    data_of_folds = study_folds(runs, config)
    numbers = _choose("fold", folds, [data.fold.number for data in data_of_folds])
    chosen_seeds = _choose("seed", seeds, config.seeds)
    configs = study_models(config, data_of_folds[0].space)
    if processes.is_first:
        study.output.record_settings(config)
    else:
        logging.getLogger("titan_neuro").setLevel(logging.WARNING)
    models = [
        model
        for seed in chosen_seeds
        for data in data_of_folds
        if data.fold.number in numbers
        for model in _train_fold(study, config.training, data, seed, configs, processes)
    ]
    return models, processes.is_first


def _choose(what: str, asked: Sequence[int] | None, available: Sequence[int]) -> list[int]:
    """Return what is asked for of what is available; all of it, where nothing is asked for."""
    if asked and not set(asked) <= set(available):
        raise UsageError(
            f"--{what} {' '.join(map(str, asked))}: the study has the {what}s {', '.join(map(str, available))}."
        )
    return [number for number in available if not asked or number in asked]


def _train_fold(
    study: Study,
    training: TrainingConfig,
    data: FoldData,
    seed: int,
    configs: Mapping[str, ForecasterConfig],
    processes: Processes,
) -> list[TrainedModel]:
    """Train the models of one seed and fold that are not trained yet."""
    fold, output = data.fold, study.output
    logger.info(
        "Seed %d, fold %d: %d runs to train on, %d to choose the epoch, %d to test.",
        *(seed, fold.number, len(fold.train), len(fold.validation), len(fold.test)),
    )
    metadata = {"seed": seed, "device": processes.device, "processes": processes.n * processes.n_nodes}
    stage: contextlib.AbstractContextManager[dict[str, Any]] = (
        output.stage(f"train seed-{seed} fold-{fold.number}", **metadata)
        if processes.is_first
        else contextlib.nullcontext({})
    )
    models = []
    with stage as record:
        for name, config in configs.items():
            folder = output.model(seed, fold.number, name)
            is_new = train_fold(
                data, config, training, folder=folder, work_dir=output.work_dir, seed=seed, processes=processes
            )
            if is_new:
                logger.info("%s is trained: %s", name, folder)
            models.append(TrainedModel(seed, fold.number, name, folder, is_new))
        record["models"] = [model.name for model in models if model.is_new]
        if not record["models"]:
            record.clear()
    if not any(model.is_new for model in models):
        logger.info("Seed %d, fold %d was trained before.", seed, fold.number)
    return models
