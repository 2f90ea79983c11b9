"""The model that a training starts from: it is of such data, and has seen nobody who is tested."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_neuro.errors import InputNotFoundError, LeakageError, MismatchError, list_names
from titan_neuro.files import sha256_of_file
from titan_neuro.forecaster.fit import FitStart
from titan_neuro.provenance import digest
from titan_neuro.training.checkpoint import MODEL_FILES, load_forecaster, require_match

if TYPE_CHECKING:
    from titan_neuro.forecaster import Forecaster, ForecasterConfig
    from titan_neuro.training.config import TrainingConfig
    from titan_neuro.training.fold import FoldData

logger = logging.getLogger(__name__)

# What is trained by gradients, and makes sense together only; and the settings that all of it depends on.
_TRAINED_PARTS = ("tokenizer", "backbone", "decoder")
_THEIR_SETTINGS = (*_TRAINED_PARTS, "lookahead")


@dataclass(frozen=True)
class Start:
    """A model that another training made, as far as a training starts from it.

    Attributes
    ----------
    model : Forecaster
    fit : FitStart
        What closed-form fits start from.
    record : mapping
        JSON for the record of the model that is trained: ``sha256`` of the files, ``fitted_on`` (see
        :func:`fitted_on`).
    """

    model: Forecaster
    fit: FitStart
    record: Mapping[str, Any]

    def load_trained_parts(self, forecaster: Forecaster) -> None:
        """Give a new model the tokenizer, backbone and decoder, where the settings of all agree."""
        config, own = self.model.config, forecaster.config
        differing = [name for name in _THEIR_SETTINGS if getattr(config, name) != getattr(own, name)]
        if differing:
            logger.info(
                "%s starts from the closed form of training.start alone: they differ in model.%s.",
                *(forecaster.name, ", model.".join(differing)),
            )
            return
        for name in _TRAINED_PARTS:
            getattr(forecaster, name).load_state_dict(getattr(self.model, name).state_dict())


def start_digest(training: TrainingConfig) -> str | None:
    """Return a digest of the files that a training starts from; None for none, empty where a file is missing."""
    if training.start is None:
        return None
    paths = [training.start / name for name in MODEL_FILES]
    return digest([sha256_of_file(path) for path in paths]) if all(path.is_file() for path in paths) else ""


def fitted_on(data: FoldData) -> dict[str, Any]:
    """Describe whom a model of this fold is fitted on: dataset, subjects and stimuli, in JSON."""
    subjects, stimuli = ({getattr(run, unit) for run in data.fit_runs} for unit in ("subject", "stimulus"))
    return {"dataset": data.dataset, "subjects": sorted(subjects), "stimuli": sorted(stimuli)}


def load_start(data: FoldData, model: ForecasterConfig, training: TrainingConfig) -> Start | None:
    """Load the model of ``training.start``; None where there is none.

    Parameters
    ----------
    data : FoldData
    model, training : ForecasterConfig, TrainingConfig

    Raises
    ------
    InputNotFoundError
        No model is there.
    MismatchError
        It is of other data, of other sizes, or does not say whom it was fitted on.
    LeakageError
        It was fitted on somebody (or, where the fold holds out stimuli, something) that the fold tests.
    """
    folder = training.start
    if folder is None:
        return None
    if not all((folder / name).is_file() for name in MODEL_FILES):
        raise InputNotFoundError(
            f"training.start: {folder}: expected {' and '.join(MODEL_FILES)} of a trained model, found no such files.",
            "Name the folder of a model: OUTPUT_DIR/models/seed-0/fold-1/titan-mac.",
        )
    forecaster, record = load_forecaster(folder)
    if not record.get("fitted_on") or "data" not in record:
        raise MismatchError(
            f"training.start: {folder}: this model does not say whom it was fitted on.",
            "Name a model that this version of `titan-neuro train` made.",
        )
    where = f"training.start: {folder}"
    require_match(record, data.identity(), f"{where}: the data of this study")
    require_unseen(record["fitted_on"], data, where)
    try:
        fit = FitStart.of(forecaster, model, data.space.n_features)
    except MismatchError as error:
        raise MismatchError(f"{where}: {error}", error.hint) from error
    _warn_of_training_subjects(record["fitted_on"], data, folder)
    return Start(forecaster, fit, {"sha256": start_digest(training), "fitted_on": record["fitted_on"]})


def require_unseen(fits: Sequence[Mapping[str, Any]], data: FoldData, where: str) -> None:
    """Refuse a fold that tests what a model, or one that it started from, was fitted on.

    Parameters
    ----------
    fits : sequence of mapping
        See :func:`fitted_on`.
    data : FoldData
    where : str
        Name of the model, for the message.

    Raises
    ------
    LeakageError
        A test subject is among them; or a stimulus of the test, where the protocol holds out stimuli.
    """
    units = {"subject": ("subject",), "run": ("stimulus",), "strict": ("subject", "stimulus")}[data.protocol]
    plurals = {"subject": "subjects", "stimulus": "stimuli"}
    for fit in fits:
        for unit in units:
            shared = _shared(fit, data, data.fold.test, unit, plurals[unit])
            if shared:
                raise LeakageError(
                    f"{where}: was fitted on {plurals[unit]} that fold {data.fold.number} tests: {list_names(shared)}.",
                    "Start from a model of other people and stimuli, test others (--set split.test=...), or start from "
                    "none (--set training.start=null).",
                )


def _shared(fit: Mapping[str, Any], data: FoldData, keys: Sequence[str], unit: str, plural: str) -> list[str]:
    """Return the subjects or stimuli of some runs that are among those of a fit; labels mean nothing elsewhere."""
    if _are_different(fit["dataset"], data.dataset):
        return []
    return sorted({getattr(run, unit) for run in data.select(keys)} & set(fit[plural]))


def _are_different(one: Mapping[str, str] | None, other: Mapping[str, str] | None) -> bool:
    """Whether two datasets are known to be different: by their DOIs where both have one, else by their names."""
    if one is None or other is None:
        return False
    if "doi" in one and "doi" in other:
        return one["doi"] != other["doi"]
    return one["name"] != other["name"]


def _warn_of_training_subjects(fits: Sequence[Mapping[str, Any]], data: FoldData, folder: Path) -> None:
    keys = [run.key for run in data.fit_runs]
    shared = sorted({name for fit in fits for name in _shared(fit, data, keys, "subject", "subjects")})
    if shared:
        logger.warning(
            "training.start: %s was fitted on %d of the subjects that fold %d trains and validates on: what is held "
            "out of a fit was not held out there, and validation_skill_ar is too high.",
            *(folder, len(shared), data.fold.number),
        )
