"""Saving a model into a folder and loading it again: weights as safetensors, settings as JSON, no pickle."""

from __future__ import annotations

import errno
import inspect
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from titan_neuro.errors import ConfigError, InputNotFoundError, MismatchError, OutputError, near_miss

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
SCHEMA, SCHEMA_VERSION = "titan-neuro-model", 2

# Not `Self`: beartype, which checks shapes in the tests, supports it in decorated classes only.
AnyModel = TypeVar("AnyModel", bound="Pretrained")


class Pretrained(nn.Module):
    """Base of the modules that are made from one configuration, and that can be saved and loaded.

    A subclass sets `config_class`, and assigns ``self.config`` in its constructor, ``__init__(self, config)``. Where
    the constructor needs more than the configuration, the subclass overrides `constructor_arguments` (what JSON can
    hold) and `from_config` (for what only the weights can hold, such as a mask).

    Attributes
    ----------
    config_class : type
        The pydantic dataclass of the settings.
    """

    config_class: ClassVar[type[Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuse unknown arguments and a configuration of another class, before the constructor runs."""
        known = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
        unknown = [name for name in kwargs if name not in known]
        hint = f"Settings are given as {cls.__name__}({cls.config_class.__name__}(...))."
        if unknown:
            raise ConfigError(
                f"{cls.__name__}: unknown argument {unknown[0]!r}; expected {', '.join(known)}."
                f"{near_miss(unknown[0], known)}",
                hint,
            )
        config = args[0] if args else kwargs.get("config")
        if config is not None and not isinstance(config, cls.config_class):
            raise ConfigError(
                f"{cls.__name__}: config: expected {cls.config_class.__name__}, found {type(config).__name__}.", hint
            )
        return super().__new__(cls)

    def constructor_arguments(self) -> dict[str, Any]:
        """Keyword arguments of the constructor beside `config`, as JSON can hold them."""
        return {}

    @classmethod
    def from_config(
        cls: type[AnyModel], config: Any, arguments: Mapping[str, Any], weights: Mapping[str, Tensor]
    ) -> AnyModel:
        """Build the model that `weights` are to be loaded into.

        Parameters
        ----------
        config : object
            Of `config_class`.
        arguments : mapping
            What `constructor_arguments` returned when the model was saved.
        weights : mapping of str to torch.Tensor
            The saved state dict.
        """
        build: Callable[..., AnyModel] = cls
        return build(config, **arguments)

    def save_pretrained(self, folder: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None) -> None:
        """Write ``config.json`` and ``model.safetensors`` into a folder.

        The configuration is removed first and written last: a folder that has one is complete.

        Parameters
        ----------
        folder : path
            Made where it is missing; a model that it holds is replaced.
        metadata : mapping, optional
            JSON that is stored beside the settings, for `read_config`.

        Raises
        ------
        OutputError
            The folder can't be made, as where it, or a part of its path, is a file.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise OutputError(
                f"{folder}: the folder can't be made: {error.strerror or error}.",
                "Name a folder, new or existing; no part of its path may be a file.",
            ) from error
        (folder / CONFIG_FILE).unlink(missing_ok=True)
        _sync(folder)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        # As bytes: the error of a full disk is then Python's own.
        _replace(folder / WEIGHTS_FILE, lambda path: path.write_bytes(save(weights)))
        content = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "class": type(self).__name__,
            "config": TypeAdapter(self.config_class).dump_python(self.config, mode="json"),
            "arguments": self.constructor_arguments(),
            "metadata": dict(metadata or {}),
        }
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        _replace(folder / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))

    @classmethod
    def from_pretrained(
        cls: type[AnyModel], folder: str | os.PathLike[str], *, device: torch.device | str = "cpu"
    ) -> AnyModel:
        """Load a model that `save_pretrained` wrote.

        Parameters
        ----------
        folder : path
        device : torch.device or str
            Where the weights shall be.

        Returns
        -------
        Pretrained
            In evaluation mode, with the saved weights' own types.

        Raises
        ------
        InputNotFoundError
            A file is missing.
        MismatchError
            A file is damaged, of another schema version, or of a model of another class; or the two don't fit each
            other.
        """
        folder = Path(folder)
        content = read_config(folder)
        if content["class"] != cls.__name__:
            raise MismatchError(
                f"{folder / CONFIG_FILE}: expected a model of class {cls.__name__}, found {content['class']}.",
                f"Load it with {content['class']}.from_pretrained.",
            )
        if not (folder / WEIGHTS_FILE).is_file():
            raise InputNotFoundError(f"{folder / WEIGHTS_FILE}: no such file.", "Copy or save the model again.")
        try:
            weights = load_file(folder / WEIGHTS_FILE, device=str(device))
            config = TypeAdapter(cls.config_class).validate_python(content["config"])
            model = cls.from_config(config, content["arguments"], weights)
            # The saved tensors take the places of the new ones: so they keep their types.
            # Copies are aligned in memory; tensors of the file are not, and sums over them differ in their last bit.
            model.load_state_dict({name: weight.clone() for name, weight in weights.items()}, assign=True)
        except (SafetensorError, ValidationError, ConfigError, MismatchError, RuntimeError, TypeError) as error:
            raise MismatchError(f"{folder}: the model can't be loaded: {error}", "Copy or save it again.") from error
        return model.to(device).eval()


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the ``config.json`` of a saved model.

    Parameters
    ----------
    folder : path
        The folder that `Pretrained.save_pretrained` wrote.

    Returns
    -------
    dict
        ``schema``, ``schema_version``, ``class`` (its name), ``config`` (its settings), ``arguments`` (what its
        constructor takes beside them) and ``metadata``.

    Raises
    ------
    InputNotFoundError
        There is no such file.
    MismatchError
        The file is damaged or of another schema version.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise InputNotFoundError(
            f"{path}: no such file.", "Name the folder that save_pretrained wrote; without this file it is incomplete."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MismatchError(f"{path}: is not valid JSON: {error}", "Copy or save the model again.") from error
    found = content if isinstance(content, dict) else {}
    if (found.get("schema"), found.get("schema_version")) != (SCHEMA, SCHEMA_VERSION):
        raise MismatchError(
            f"{path}: expected schema {SCHEMA} version {SCHEMA_VERSION}, found {found.get('schema')} version "
            f"{found.get('schema_version')}.",
            "Save the model again with this version of titan-neuro, or train it again (`titan-neuro train`).",
        )
    missing = {"class", "config", "arguments", "metadata"} - set(found)
    if missing:
        raise MismatchError(f"{path}: {', '.join(sorted(missing))} is missing.", "Copy or save the model again.")
    return found


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name and rename it, so that no reader meets half of one."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        write(temporary)
        # Before the rename: a power cut would otherwise leave an empty file under the final name.
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until the disk holds a file, or the names in a folder, where the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}:
            raise
    finally:
        os.close(descriptor)
