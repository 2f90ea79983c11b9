"""How settings are declared: frozen dataclasses, validated when constructed, whose errors name the setting."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Sequence
from typing import Any, TypeVar, dataclass_transform

import pydantic.dataclasses
from pydantic import ConfigDict, ValidationError

from titan_neuro.errors import ConfigError, near_miss

# Fields by which one component is chosen among several.
_CHOOSERS = ("kind", "variant")

AnySettings = TypeVar("AnySettings")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type[AnySettings]) -> type[AnySettings]:
    """Make a class a frozen, keyword-only dataclass whose values are validated when it is constructed.

    Parameters
    ----------
    cls : type
        With an annotation for each setting, as :mod:`pydantic` reads them.

    Returns
    -------
    type
        A pydantic dataclass. Its constructor raises a `ConfigError` for an unknown setting, naming the nearest one that
        exists, and for a value out of its range.
    """
    made = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls)
    validate = made.__init__

    @functools.wraps(validate)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            validate(self, *args, **kwargs)
        except ValidationError as error:
            raise explain_validation_error(error, type(self), type(self).__name__) from error

    setattr(made, "__init__", construct)  # noqa: B010 - an assignment would look like a method that is redefined
    return typing.cast("type[AnySettings]", made)


def explain_validation_error(error: ValidationError, root: type[Any], where: str) -> ConfigError:
    """Say the first problem of a validation in words.

    Parameters
    ----------
    error : pydantic.ValidationError
    root : type
        The dataclass that was validated.
    where : str
        The place of the settings, such as a file's name, with which the message begins.

    Returns
    -------
    ConfigError
        The setting by its dotted name, what was expected and found and, for an unknown name, the nearest valid one.
    """
    # A misspelled name, or one left out, may also make another one missing: it is the cause.
    problem = min(error.errors(include_url=False), key=lambda each: not each["type"].startswith("unexpected_"))
    location, components = _follow(problem["loc"], root)
    key = ".".join(location)
    if problem["type"] == "unexpected_keyword_argument":
        _, parents = _follow(problem["loc"][:-1], root)
        names = sorted({name for parent in parents for name in field_names(parent)})
        return ConfigError(
            f"{where}: unknown setting {key!r}.{near_miss(location[-1], names)}",
            f"{' of '.join(filter(None, ('Settings', '.'.join(location[:-1]))))}: {', '.join(names)}.",
        )
    if problem["type"] == "unexpected_positional_argument":
        first = next(field.name for field in dataclasses.fields(root) if field.name not in _CHOOSERS)
        return ConfigError(
            f"{where}: found {problem['input']!r} without the name of its setting.",
            f"Settings are keywords: {root.__name__}({first}=...).",
        )
    if problem["type"] == "union_tag_invalid":
        tag = str(problem["ctx"]["tag"])
        chooser, choices = choice(components[0])[0], [str(choice(component)[1]) for component in components]
        return ConfigError(
            f"{where}: {key}.{chooser}: no such {chooser}, {tag!r}.{near_miss(tag, choices)}",
            f"There are: {', '.join(choices)}.",
        )
    if problem["type"] == "missing":
        return ConfigError(f"{where}: {key}: a value is required.")
    if problem["type"] in ("model_attributes_type", "dataclass_type") and root not in components:
        names = [component.__name__ for component in components]
        return ConfigError(
            f"{where}: {key}: expected {' or '.join(names)}, or its settings; found {problem['input']!r}."
        )
    return ConfigError(f"{where}: {key}: {problem['msg']}; found {problem['input']!r}.")


def _follow(location: Sequence[int | str], root: type[Any]) -> tuple[list[str], list[type[Any]]]:
    """Keys of a place in the tree, and the components that may stand there; a choice among several leaves one."""
    keys, components = list[str](), [root]
    for part in map(str, location):
        chosen = [component for component in components if choice(component)[1] == part]
        if chosen:
            components = chosen
        else:
            keys.append(part)
            components = components_at(components, part)
    return keys, components


def components_at(components: Sequence[type[Any]], key: str) -> list[type[Any]]:
    """Settings classes that `components` accept under `key`."""
    hints = [typing.get_type_hints(component).get(key) for component in components]
    leaves = [leaf for hint in hints for leaf in (typing.get_args(hint) or (hint,))]
    return [leaf for leaf in leaves if isinstance(leaf, type) and dataclasses.is_dataclass(leaf)]


def choice(component: type[Any]) -> tuple[str, str | None]:
    """By which field, and by which value of it, a component is chosen; None where there is no choice."""
    for field in dataclasses.fields(component):
        if field.name in _CHOOSERS:
            return field.name, typing.cast("str", field.default)
    return "", None


def field_names(component: type[Any]) -> set[str]:
    """Names of a component's settings."""
    return {field.name for field in dataclasses.fields(component)}
