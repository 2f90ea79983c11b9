"""A trained forecaster on disk: as `Forecaster.save_pretrained` writes it, with a record of its training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from titan_neuro.errors import InputNotFoundError, MismatchError
from titan_neuro.files import writing_to
from titan_neuro.forecaster import Forecaster
from titan_neuro.titans.pretrained import CONFIG_FILE, WEIGHTS_FILE, read_config

MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE)


def save_forecaster(folder: Path, model: Forecaster, record: Mapping[str, Any]) -> None:
    """Write ``config.json`` and ``model.safetensors`` into `folder`; a folder that has the first is complete.

    Parameters
    ----------
    folder : Path
    model : Forecaster
    record : mapping
        JSON, stored as ``metadata``: ``data`` (see :func:`require_match`) and whatever else should be known.

    Raises
    ------
    OutputError
        The folder can't be written, or the disk is full.
    """
    with writing_to(folder):
        model.save_pretrained(folder, metadata=record)


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a trained model, with its settings as ``config``; None where there is no finished model.

    Raises
    ------
    MismatchError
        The file is damaged, or of another schema version.
    """
    if not (folder / CONFIG_FILE).is_file():
        return None
    content = read_config(folder)
    return {**content["metadata"], **content["arguments"], "config": content["config"]}


def require_record(folder: Path) -> dict[str, Any]:
    """Return the record of a trained model; see :func:`read_record`.

    Raises
    ------
    InputNotFoundError
        There is no model in `folder`.
    MismatchError
        The file is damaged, or of another schema version.
    """
    record = read_record(folder)
    if record is None:
        raise InputNotFoundError(
            f"{folder}: no trained model ({CONFIG_FILE}) is here.", "Run `titan-neuro train` first."
        )
    return record


def load_forecaster(folder: Path, device: torch.device | str = "cpu") -> tuple[Forecaster, dict[str, Any]]:
    """Load a model that :func:`save_forecaster` wrote.

    Returns
    -------
    model : Forecaster
        In evaluation mode, on `device`.
    record : dict
        See :func:`read_record`.

    Raises
    ------
    InputNotFoundError
        There is no model in `folder`.
    MismatchError
        The files are damaged, of another schema version, or don't fit each other; or a weight is not finite.
    """
    record = require_record(folder)
    model = Forecaster.from_pretrained(folder, device=device)
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise MismatchError(
                f"{folder}: the weights {name} of this model are not all finite: it can forecast nothing.",
                "Remove this folder and run `titan-neuro train` again, with a smaller "
                "--set training.learning_rate=... if the weights were trained so; or copy the model again.",
            )
    return model, record


def require_match(record: Mapping[str, Any], data: Mapping[str, Any], where: str) -> None:
    """Refuse data that differ from those that a model was trained on.

    Parameters
    ----------
    record : mapping
        Of the model, from :func:`load_forecaster` or :func:`require_record`.
    data : mapping
        Identity of the data: space, repetition time, normalizer.
    where : str
        Name of the data, for the message.

    Raises
    ------
    MismatchError
        Names the first field that differs, with both values.
    """
    trained = record["data"]
    for field in sorted(set(trained) | set(data)):
        if trained.get(field) != data.get(field):
            raise MismatchError(
                f"{where} differs from the data that the model was trained on, in {field}: expected "
                f"{trained.get(field)}, found {data.get(field)}.",
                "Use data prepared in the same way, or train a model on these data.",
            )
