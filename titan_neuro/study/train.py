"""The second stage: the study's model and its comparison models are trained, for every seed and fold."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from titan_neuro.study.models import PlannedModel
    from titan_neuro.study.output import OutputFolder
    from titan_neuro.study.study import Study
    from titan_neuro.training import Processes, TrainingConfig

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
    study.check_output()
    runs = study.runs()
    config = study.settings.resolve_prepared(study.output, runs)
    from titan_neuro.study.models import plan_study
    from titan_neuro.training import expect_time_limit, find_processes, ignore_time_limit

    expect_time_limit()
    processes = find_processes(study.device, n_processes)
    plan = plan_study(study.output, runs, config).part(folds, seeds)
    if processes.is_first:
        study.output.record_settings(config)
    else:
        logging.getLogger("titan_neuro").setLevel(logging.WARNING)
    models = [
        model
        for seed in plan.seeds
        for data in plan.folds
        for model in _train_fold(study.output, config.training, plan.of_fold(data.fold.number, seed), processes)
    ]
    ignore_time_limit()
    return models, processes.is_first


def _train_fold(
    output: OutputFolder, training: TrainingConfig, planned: Sequence[PlannedModel], processes: Processes
) -> list[TrainedModel]:
    """Train the models of one seed and fold that are not trained yet."""
    from titan_neuro.training import train_fold

    seed, data = planned[0].seed, planned[0].data
    fold = data.fold
    logger.info(
        "Seed %d, fold %d: %d runs to train on, %d to validate on, %d to test.",
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
        for model in planned:
            is_new = train_fold(
                data,
                model.config,
                training,
                folder=model.folder,
                work_dir=output.work_dir,
                seed=seed,
                processes=processes,
                root=output.path,
            )
            name = model.config.backbone.name
            if is_new:
                logger.info("%s is %s: %s", name, "trained" if training.max_epochs else "fitted", model.folder)
            models.append(TrainedModel(seed, fold.number, name, model.folder, is_new))
        record["models"] = [model.name for model in models if model.is_new]
        if not record["models"]:
            record.clear()
    if not any(model.is_new for model in models):
        logger.info("Seed %d, fold %d was trained before.", seed, fold.number)
    return models
