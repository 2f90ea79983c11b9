"""The models of a study: which are trained, where they lie, and that they are of the runs and settings in force."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch

from titan_neuro.data.space import common_space
from titan_neuro.data.splits import make_folds
from titan_neuro.errors import ImageError, MismatchError, list_names
from titan_neuro.forecaster import match_comparison_models
from titan_neuro.training import (
    FoldData,
    fold_fingerprint,
    load_forecaster,
    require_match,
    require_record,
)

if TYPE_CHECKING:
    from titan_neuro.data.space import Space
    from titan_neuro.data.store import RunStore
    from titan_neuro.forecaster import Forecaster, ForecasterConfig
    from titan_neuro.study.config import StudyConfig
    from titan_neuro.study.output import OutputFolder

logger = logging.getLogger(__name__)


def study_folds(runs: Sequence[RunStore], config: StudyConfig) -> list[FoldData]:
    """Divide prepared runs into folds, all seen through the mask that they share.

    Raises
    ------
    ImageError
        Runs of different repetition times.
    MismatchError
        Runs of different grids or parcels, or too few for the protocol.
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
    protocol, folds = make_folds(runs, config.split)
    views = {run.key: run.within(space) for run in runs}
    return [FoldData(fold=fold, protocol=protocol, space=space, runs=views) for fold in folds]


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


def find_model(
    output: OutputFolder, data: FoldData, config: StudyConfig, seed: int, model: ForecasterConfig
) -> tuple[Path, str]:
    """Find a trained model without loading it.

    Returns
    -------
    folder : Path
    fingerprint : str
        Of everything that the model follows from.

    Raises
    ------
    InputNotFoundError
        It was not trained yet.
    MismatchError
        It was trained on other runs or with other settings.
    """
    folder = output.model(seed, data.fold.number, model.backbone.name)
    record = require_record(folder)
    require_match(record, data.identity(), str(output.path))
    fingerprint = fold_fingerprint(data, model, config.training, seed)
    if record["fingerprint"] != fingerprint:
        raise MismatchError(
            f"{folder}: was trained on other runs or with other settings than those in force now.",
            f"Run `titan-neuro train {output.path}` first.",
        )
    return folder, fingerprint


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
    """A study whose folds are all trained: what scoring and probing start from.

    Attributes
    ----------
    config : StudyConfig
    device : str
    folds : list of FoldData
    models : dict of int to list of sequences of Forecaster
        Seed, then fold: the study's model and, where the study has them, ``gru`` and ``transformer-20``. A model is
        read from disk each time that it is asked for, so that no more are held than are in use.
    fingerprints : dict
        JSON: what the models follow from, and the runs that they are tested on.
    stem : Path
        Start of the names of group results: ``OUT/group/task-movie``.
    """

    config: StudyConfig
    device: str
    folds: list[FoldData]
    models: dict[int, list[StoredModels]]
    fingerprints: dict[str, Any]
    stem: Path


def open_trained(output: OutputFolder, runs: Sequence[RunStore], config: StudyConfig, device: str) -> TrainedStudy:
    """Open the runs and models of a study, and record its settings once all of them fit.

    Raises
    ------
    InputNotFoundError, MismatchError
        See :func:`find_model`.
    """
    folds = study_folds(runs, config)
    configs = study_models(config, folds[0].space).values()
    found = {
        seed: [[find_model(output, data, config, seed, model) for model in configs] for data in folds]
        for seed in config.seeds
    }
    output.record_settings(config)
    return TrainedStudy(
        config=config,
        device=device,
        folds=folds,
        models={
            seed: [StoredModels([folder for folder, _ in models], device) for models in by_fold]
            for seed, by_fold in found.items()
        },
        fingerprints={
            "models": [print_ for by_fold in found.values() for models in by_fold for _, print_ in models],
            "tested": {key: data.runs[key].store.record["fingerprint"] for data in folds for key in data.fold.test},
            "seeds": list(config.seeds),
        },
        stem=output.group_stem(runs),
    )
