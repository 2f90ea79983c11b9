"""Read settings strictly: a preset, a YAML file over it, ``--set`` over both; an unknown key is an error."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from titan_neuro.errors import ConfigError, InputNotFoundError, near_miss
from titan_neuro.files import write_text
from titan_neuro.settings import choice, components_at, explain_validation_error, field_names
from titan_neuro.study.config import PRESETS, StudyConfig

_STUDY = TypeAdapter(StudyConfig)


def load_study(
    *,
    default_preset: str,
    config_file: Path | None = None,
    overrides: Sequence[str | Mapping[str, Any]] = (),
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
    overrides : sequence of str or mapping
        Over the file, later ones over earlier ones: ``"training.max_epochs=5"``, or nested settings
        ``{"training": {"max_epochs": 5}}``.
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
    given = read_yaml(config_file) if config_file is not None else {}
    where = str(config_file) if config_file is not None else "settings"
    preset = given.pop("preset", default_preset)
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ConfigError(
            f"{where}: no preset {preset!r}.", f"There are: {', '.join(PRESETS)}.{near_miss(str(preset), PRESETS)}"
        )
    content: dict[str, Any] = _STUDY.dump_python(PRESETS[preset](), mode="json")
    settings = [parse_setting(over) if isinstance(over, str) else over for over in overrides]
    in_file = _put_over(_put_over(content, {"prepare": prepared or {}}), given)
    content = in_file
    for setting in settings:
        content = _put_over(content, setting)
    if seed is not None:
        content = {**content, "seeds": [seed]}
    try:
        return _STUDY.validate_python(content)
    except ValidationError as error:
        # Where the file alone is right, single settings are to blame.
        raise explain_validation_error(error, StudyConfig, "settings" if _is_valid(in_file) else where) from error


def _is_valid(content: Mapping[str, Any]) -> bool:
    try:
        _STUDY.validate_python(content)
    except ValidationError:
        return False
    return True


def write_resolved(path: Path, study: StudyConfig) -> None:
    """Write every setting that is in force to `path`, as YAML that :func:`load_study` reads back."""
    write_text(path, yaml.safe_dump(_STUDY.dump_python(study, mode="json"), sort_keys=False))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file of settings; see `ConfigError`, `InputNotFoundError`."""
    if not path.is_file():
        raise InputNotFoundError(f"{path}: no such file (named with --config-file).")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: is not valid YAML: {error}",
            "Correct the file, or name other settings with --config-file.",
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected `preset: NAME` and settings, found {type(content).__name__}.")
    return content


def parse_setting(text: str) -> dict[str, Any]:
    """Read one setting as ``--set`` gives it: ``model.backbone.dim=32`` is ``{"model": {"backbone": {"dim": 32}}}``.

    Raises
    ------
    ConfigError
        It has no ``=`` or an empty key, names a preset, or its value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {text}: expected KEY=VALUE, for example --set training.max_epochs=5.")
    if key == "preset":
        raise ConfigError(
            f"--set {text}: a preset is no single setting.", f"Write `preset: {value}` into a file for --config-file."
        )
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not valid YAML: {error}") from error
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return typing.cast("dict[str, Any]", nested)


def _put_over(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Put settings of a study over others; another tokenizer brings its number of tokens.

    The number of tokens below is that of the tokenizer below, and says nothing about another one.
    """
    merged, model = _merge(base, over, [StudyConfig]), over.get("model")
    if not isinstance(model, Mapping) or "tokenizer" not in model or not isinstance(merged["model"], dict):
        return merged
    given, backbone = model.get("backbone"), merged["model"].get("backbone")
    if not isinstance(backbone, dict) or (isinstance(given, Mapping) and "tokens_per_time_point" in given):
        return merged
    return {**merged, "model": {**merged["model"], "backbone": {**backbone, "tokens_per_time_point": None}}}


def _merge(base: dict[str, Any], over: Mapping[str, Any], components: Sequence[Any]) -> dict[str, Any]:
    """Put `over` over `base`, settings of one of `components`."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping):
            below = components_at(components, key)
            merged[key] = _merge(_what_stays(old, value, below), value, below)
        else:
            merged[key] = value
    return merged


def _what_stays(old: dict[str, Any], over: Mapping[str, Any], components: Sequence[Any]) -> dict[str, Any]:
    """Where `over` chooses another component: those settings of the old one that the new one has too."""
    for component in components:
        chooser, chosen = choice(component)
        if chosen is not None and chosen == over.get(chooser) != old.get(chooser):
            return {name: value for name, value in old.items() if name in field_names(component)}
    return old
