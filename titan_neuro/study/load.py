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

from titan_neuro.errors import ConfigError, InputNotFoundError
from titan_neuro.files import write_text
from titan_neuro.study.config import PRESETS, StudyConfig

_STUDY = TypeAdapter(StudyConfig)
# Fields by which one component is chosen among several.
_CHOOSERS = ("kind", "variant")


def load_study(
    *,
    default_preset: str,
    config_file: Path | None = None,
    overrides: Sequence[Mapping[str, Any]] = (),
    seed: int | None = None,
    prepared: Mapping[str, Any] | None = None,
) -> StudyConfig:
    """Put the settings of a study together.

    Parameters
    ----------
    default_preset : str
        Where the file names none.
    config_file : Path, optional
        YAML: ``preset: NAME`` and, below it, what differs. A file without ``preset`` that gives everything
        (``config.resolved.yaml``) stands alone.
    overrides : sequence of mapping
        Nested settings over those of the file, later ones over earlier ones; see :func:`parse_setting`.
    seed : int, optional
        The one seed, instead of the file's.
    prepared : mapping, optional
        Settings of preparation that runs were made with, instead of the preset's.

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
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ConfigError(
            f"{where}: no preset {preset!r}.", f"There are: {', '.join(PRESETS)}.{_near(str(preset), PRESETS)}"
        )
    content: dict[str, Any] = _STUDY.dump_python(PRESETS[preset](), mode="json")
    for over in ({"prepare": prepared or {}}, given, *overrides):
        content = _merge(content, over, [StudyConfig])
    if seed is not None:
        content["seeds"] = [seed]
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


def parse_setting(text: str) -> dict[str, Any]:
    """Read one setting as ``--set`` gives it: ``model.backbone.dim=32`` is ``{"model": {"backbone": {"dim": 32}}}``.

    Raises
    ------
    ConfigError
        It has no ``=`` or an empty key, or its value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {text}: expected KEY=VALUE, for example --set training.max_epochs=5.")
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not valid YAML: {error}") from error
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return typing.cast("dict[str, Any]", nested)


def _merge(base: dict[str, Any], over: Mapping[str, Any], components: Sequence[Any]) -> dict[str, Any]:
    """Put `over` over `base`, settings of one of `components`."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping):
            below = _components_at(components, key)
            merged[key] = _merge(_what_stays(old, value, below), value, below)
        else:
            merged[key] = value
    return merged


def _what_stays(old: dict[str, Any], over: Mapping[str, Any], components: Sequence[Any]) -> dict[str, Any]:
    """Where `over` chooses another component: those settings of the old one that the new one has too."""
    for component in components:
        chooser, choice = _choice(component)
        if choice is not None and choice == over.get(chooser) != old.get(chooser):
            return {name: value for name, value in old.items() if name in _names(component)}
    return old


def _explain(error: ValidationError, where: str) -> ConfigError:
    problem = error.errors(include_url=False)[0]
    location, components = _follow(problem["loc"])
    key = ".".join(location)
    context = problem.get("ctx", {})
    if problem["type"] == "unexpected_keyword_argument":
        _, parents = _follow(problem["loc"][:-1])
        names = sorted({name for parent in parents for name in _names(parent)})
        return ConfigError(
            f"{where}: unknown setting {key!r}.{_near(location[-1], names)}",
            f"Known under {'.'.join(location[:-1]) or 'the top level'}: {', '.join(names)}.",
        )
    if problem["type"] == "union_tag_invalid":
        chooser, choices = _choice(components[0])[0], [str(_choice(component)[1]) for component in components]
        return ConfigError(
            f"{where}: {key}.{chooser}: no such {chooser}, {context['tag']!r}.{_near(context['tag'], choices)}",
            f"There are: {', '.join(choices)}.",
        )
    cause = context.get("error")
    if isinstance(cause, ConfigError):
        return cause
    return ConfigError(f"{where}: {key}: {problem['msg']}; found {problem['input']!r}.")


def _follow(location: Sequence[int | str]) -> tuple[list[str], list[Any]]:
    """Keys of a place in the tree, and the components that may stand there; of those a choice among them leaves one."""
    keys, components = [], [StudyConfig]
    for part in map(str, location):
        chosen = [component for component in components if _choice(component)[1] == part]
        if chosen:
            components = chosen
        else:
            keys.append(part)
            components = _components_at(components, part)
    return keys, components


def _components_at(components: Sequence[Any], key: str) -> list[Any]:
    """Components that one of `components` may hold under `key`."""
    found = [typing.get_type_hints(component).get(key) for component in components]
    return [leaf for kind in found for leaf in (typing.get_args(kind) or (kind,)) if dataclasses.is_dataclass(leaf)]


def _choice(component: Any) -> tuple[str, str | None]:
    """By which field, and by which value of it, the component is chosen; None where there is no choice."""
    for field in dataclasses.fields(component):
        if field.name in _CHOOSERS:
            return field.name, str(field.default)
    return "", None


def _names(component: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(component)}


def _near(name: str, names: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(names), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
