"""Read settings strictly: a preset, a YAML file over it, ``--set`` over both; an unknown key is an error."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from titan_neuro.config.study import PRESETS, StudyConfig
from titan_neuro.errors import ConfigError, InputNotFoundError
from titan_neuro.files import write_text

_STUDY = TypeAdapter(StudyConfig)


def load_study(
    *, default_preset: str, config_file: Path | None = None, overrides: Sequence[str] = (), seed: int | None = None
) -> StudyConfig:
    """Put the settings of a study together.

    Parameters
    ----------
    default_preset : str
        Where the file names none.
    config_file : Path, optional
        YAML: ``preset: NAME`` and, below it, what differs. A file without ``preset`` that gives everything
        (``config.resolved.yaml``) stands alone.
    overrides : sequence of str
        ``model.backbone.dim=32``; the value is read as YAML.
    seed : int, optional
        Takes the place of the file's.

    Raises
    ------
    ConfigError
        Unknown preset or key (with the nearest that exists), a value out of its range, a file that is no YAML mapping.
    InputNotFoundError
        No such file.
    """
    given = _read_yaml(config_file) if config_file is not None else {}
    where = str(config_file) if config_file is not None else "settings"
    preset = given.pop("preset", default_preset)
    if preset not in PRESETS:
        raise ConfigError(
            f"{where}: no preset {preset!r}.", f"There are: {', '.join(PRESETS)}.{_near(preset, PRESETS)}"
        )
    content: dict[str, Any] = _merge(_STUDY.dump_python(PRESETS[preset](), mode="json"), given)
    for override in overrides:
        content = _merge(content, _parse_override(override))
    if seed is not None:
        content["seed"] = seed
    try:
        return _STUDY.validate_python(content)
    except ValidationError as error:
        raise _explain(error, where) from error


def write_resolved(path: Path, study: StudyConfig) -> None:
    """Write every setting that is in force to `path`, as YAML that :func:`load_study` reads back."""
    write_text(path, yaml.safe_dump(_STUDY.dump_python(study, mode="json"), sort_keys=False))


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputNotFoundError(f"{path}: no such file (named with --config-file).")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected `preset: NAME` and settings, found {type(content).__name__}.")
    return content


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, value = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {override}: expected KEY=VALUE, for example --set training.max_epochs=5.")
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML: {error}") from error
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return typing.cast("dict[str, Any]", nested)


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        # Another kind of component brings its own settings; what was set for the old kind does not apply to it.
        replaces = (
            isinstance(value, Mapping)
            and isinstance(old, dict)
            and value.get("kind", old.get("kind")) != old.get("kind")
        )
        merged[key] = (
            _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) and not replaces else value
        )
    return merged


def _explain(error: ValidationError, where: str) -> ConfigError:
    problem = error.errors(include_url=False)[0]
    # Of a union, the location holds the chosen kind too, which is no key.
    location = [str(part) for part in problem["loc"] if part not in ("swin",)]
    key = ".".join(location)
    if problem["type"] == "unexpected_keyword_argument":
        names = _names_at(location[:-1])
        return ConfigError(
            f"{where}: unknown setting {key!r}.{_near(location[-1], names)}",
            f"Known under {'.'.join(location[:-1]) or 'the top level'}: {', '.join(names)}.",
        )
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return cause
    return ConfigError(f"{where}: {key}: {problem['msg']}; found {problem['input']!r}.")


def _names_at(location: Sequence[str]) -> list[str]:
    """Settings that exist in a part of the tree."""
    kinds: list[Any] = [StudyConfig]
    for part in location:
        found = [typing.get_type_hints(kind).get(part) for kind in kinds if dataclasses.is_dataclass(kind)]
        kinds = [
            leaf for kind in found for leaf in (typing.get_args(kind) or (kind,)) if dataclasses.is_dataclass(leaf)
        ]
    return sorted({field.name for kind in kinds for field in dataclasses.fields(kind)})


def _near(name: str, names: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(names), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
