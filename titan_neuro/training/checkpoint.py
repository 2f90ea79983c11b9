"""A trained forecaster on disk: weights as safetensors, and a JSON record of the model, its data and its training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from titan_neuro.errors import InputNotFoundError, MismatchError
from titan_neuro.files import read_json, write_bytes, write_json
from titan_neuro.forecaster import Forecaster, ForecasterConfig

SCHEMA = "titan-neuro-forecaster"
SCHEMA_VERSION = 6
_CONFIG = TypeAdapter(ForecasterConfig)


def save_forecaster(folder: Path, model: Forecaster, record: Mapping[str, Any]) -> None:
    """Write ``model.safetensors`` and ``model.json`` into `folder`, the JSON last: a folder that has it is complete.

    Parameters
    ----------
    folder : Path
    model : Forecaster
    record : mapping
        JSON: ``data`` (the identity of the data, see :func:`require_match`), and any further entries.
    """
    discard_record(folder)
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_bytes(folder / "model.safetensors", save(weights))
    content = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "n_features": model.n_features}
    write_json(folder / "model.json", {**content, "config": _CONFIG.dump_python(model.config, mode="json"), **record})


def discard_record(folder: Path) -> None:
    """Remove ``model.json``; call it before any file that it describes changes."""
    (folder / "model.json").unlink(missing_ok=True)


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the content of ``model.json``; None where there is no finished model.

    Raises
    ------
    MismatchError
        The file is damaged.
    """
    path = folder / "model.json"
    return read_json(path, hint="Train the fold again.", error=MismatchError) if path.is_file() else None


def require_record(folder: Path) -> dict[str, Any]:
    """Return the content of ``model.json``, of a model that can be loaded.

    Raises
    ------
    InputNotFoundError
        There is no model in `folder`.
    MismatchError
        The file is damaged, or of another schema version.
    """
    record = read_record(folder)
    if record is None:
        raise InputNotFoundError(f"{folder}: no trained model (model.json) is here.", "Run `titan-neuro train` first.")
    found = (record.get("schema"), record.get("schema_version"))
    if found != (SCHEMA, SCHEMA_VERSION):
        raise MismatchError(
            f"{folder / 'model.json'}: expected the schema {SCHEMA} {SCHEMA_VERSION}, found {found[0]} {found[1]}.",
            "Train the fold again.",
        )
    return record


def load_forecaster(folder: Path, device: torch.device | str = "cpu") -> tuple[Forecaster, dict[str, Any]]:
    """Read a model that :func:`save_forecaster` wrote.

    Returns
    -------
    model : Forecaster
        In evaluation mode, on `device`.
    record : dict
        The content of ``model.json``.

    Raises
    ------
    InputNotFoundError
        There is no model in `folder`.
    MismatchError
        The files are damaged, of another schema version, or do not fit each other.
    """
    record = require_record(folder)
    try:
        weights = load_file(folder / "model.safetensors")
        config = _CONFIG.validate_python(record["config"])
        mask = weights.get("tokenizer.mask")
        model = config.build(n_features=record["n_features"], mask=mask)
        model.load_state_dict(weights)
    except (OSError, SafetensorError, ValidationError, RuntimeError, KeyError, MismatchError) as error:
        raise MismatchError(
            f"{folder}: the model can't be read: {error}", "Train the fold again, or copy both files again."
        ) from error
    return model.to(device).eval(), record


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
