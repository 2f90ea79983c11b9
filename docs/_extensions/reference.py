"""Reference pages made from the code: commands, settings and the API, where a page says ``<!-- generated: KIND -->``.

They are made whenever the site is built, and never written into the sources: nothing can be out of date.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import json
import os
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import annotated_types
from numpydoc.docscrape import ClassDoc
from pydantic import TypeAdapter
from sphinx.application import Sphinx
from sphinx.util.inspect import signature, stringify_signature

from titan_neuro import errors
from titan_neuro.cli.command import build_parser
from titan_neuro.data.simulate.config import SimulateConfig
from titan_neuro.settings import choice, components_at
from titan_neuro.study.config import PRESETS, StudyConfig

_ROOT = Path(__file__).parents[2]
_HELP_COLUMNS = "90"
_GENERATED = re.compile(r"<!-- generated: (\w+) ?([\w.]*) -->")
_BOUNDS = (
    (annotated_types.Ge, "ge", ">="),
    (annotated_types.Gt, "gt", ">"),
    (annotated_types.Le, "le", "<="),
    (annotated_types.Lt, "lt", "<"),
)


def fill(_: Sphinx, page: str, source: list[str]) -> None:
    """Replace the marks of a page by what they ask for; list all decisions below their index."""
    if page == "decisions/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n[0-9]*\n```\n"
    source[0] = _GENERATED.sub(lambda mark: _KINDS[mark[1]](*filter(None, [mark[2]])), source[0])


def generated_pages(_: Sphinx, env: Any, *__: Any) -> list[str]:
    """Pages that are read again at every build: code may have changed."""
    return [page for page in env.found_docs if _GENERATED.search(env.doc2path(page).read_text(encoding="utf-8"))]


def benchmark_tables() -> str:
    """Return what the benchmarks have written, one section for each."""
    pages = sorted((_ROOT / "benchmarks/results").glob("*.md"))
    options = ":heading-offset: 1\n:relative-images:"
    return "\n".join(f"```{{include}} ../benchmarks/results/{page.name}\n{options}\n```\n" for page in pages)


def constructor(_: Sphinx, kind: str, __: str, content: Any, ___: Any, found: str | None, ____: Any) -> Any:
    """Return how a class is called: settings by name and default, modules of torch as their ``__init__`` says."""
    if kind != "class":
        return None
    if hasattr(content, "__pydantic_fields__"):
        return f"(*, {', '.join(map(_argument, dataclasses.fields(content)))})", None
    if found is not None and found.startswith("(*args: "):
        called = signature(content.__init__, bound_method=True)
        return stringify_signature(called, show_return_annotation=False, unqualified_typehints=True), None
    return None


def _argument(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return field.name
    default = field.default
    return f"{field.name}={f'{type(default).__name__}()' if dataclasses.is_dataclass(default) else repr(default)}"


def commands() -> str:
    """Return the help of every subcommand."""
    os.environ["COLUMNS"] = _HELP_COLUMNS
    # argparse has no public list of subcommands.
    [subcommands] = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    parsers = subcommands.choices
    table = _table(["command", ""], [[f"[`{name}`](#{name})", parser.description] for name, parser in parsers.items()])
    return "\n".join([table, *(f"## {name}\n\n```text\n{each.format_help()}```\n" for name, each in parsers.items())])


def exit_codes() -> str:
    """Return a table of the exit codes."""
    base = errors.TitanNeuroError
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, base)]
    kinds.sort(key=lambda kind: kind.exit_code)
    rows = [[kind.exit_code, f"`{kind.__name__}`", _first_line(kind)] for kind in kinds]
    return _table(["code", "error", "meaning"], rows)


def settings() -> str:
    """Return tables of all settings of a study."""
    return "\n".join(_sections(StudyConfig, "", set()))


def simulator_settings() -> str:
    """Return a table of the simulator's settings."""
    return _settings_table(SimulateConfig, "")


def presets() -> str:
    """Return a table of the settings in which the presets differ."""
    study = TypeAdapter(StudyConfig)
    values = {name: dict(_flat(study.dump_python(make(), mode="json"))) for name, make in PRESETS.items()}
    rows = []
    for key in dict.fromkeys(key for preset in values.values() for key in preset):
        cells = [_value(preset[key]) if key in preset else "" for preset in values.values()]
        if len(set(cells)) > 1:
            rows.append([f"`{key}`", *cells])
    table = _table(["setting", *values], rows)
    purposes = _table(["preset", "for"], [[f"`{name}`", _first_line(make)] for name, make in PRESETS.items()])
    return f"{purposes}\n{table}"


def api(package: str) -> str:
    """Return a package's public names with their docstrings."""
    module = importlib.import_module(package)
    here = [name for name, content in vars(module).items() if getattr(content, "__module__", None) == package]
    names = sorted(getattr(module, "__all__", [name for name in here if not name.startswith("_")]), key=str.lower)
    listed = "\n".join(f"   {name}" for name in names)
    head = f".. automodule:: {package}\n\n.. currentmodule:: {package}\n\n"
    head += f".. autosummary::\n   :nosignatures:\n\n{listed}\n"
    parts = [f"## {name}\n\n{_rst(_directive(package, name, getattr(module, name)))}" for name in names]
    return "\n".join([_rst(head), *parts])


def _rst(text: str) -> str:
    return f"```{{eval-rst}}\n{text}```\n"


def _directive(package: str, name: str, content: Any) -> str:
    if inspect.isclass(content):
        return f".. autoclass:: {package}.{name}\n   :members:\n   :show-inheritance:\n"
    if inspect.isroutine(content):
        return f".. autofunction:: {package}.{name}\n"
    return f".. autodata:: {package}.{name}\n   :no-value:\n"


def _sections(component: type[Any], prefix: str, seen: set[type[Any]]) -> Iterator[str]:
    """Yield a section for a settings class and those below it; what was `seen` has a table already."""
    yield _settings_table(component, prefix)
    for field in dataclasses.fields(component):
        below = components_at([component], field.name)
        for each in below:
            chooser, chosen = choice(each)
            place = f"{prefix}{field.name}"
            alone = f" with `{chooser}: {chosen}`" if len(below) > 1 else ""
            if each in seen:
                yield f"The settings of `{place}` are those above.\n"
                continue
            seen.add(each)
            yield f"{'##' if not prefix else '###'} `{place}`{alone}\n\n{_first_line(each)}\n"
            yield from _sections(each, f"{place}.", seen)


def _settings_table(component: type[Any], prefix: str) -> str:
    described = _descriptions(component)
    hints = typing.get_type_hints(component, include_extras=True)
    rows = []
    for field in dataclasses.fields(component):
        kind, text = described.get(field.name, ("", ""))
        default = "required" if field.default is dataclasses.MISSING else _value(field.default)
        bounds = ", ".join(_bounds(hints[field.name]))
        rows.append([f"`{prefix}{field.name}`", " ".join(filter(None, [kind, bounds])), default, text])
    return _table(["setting", "value", "default", "meaning"], rows)


def _descriptions(component: type[Any]) -> dict[str, tuple[str, str]]:
    """Type and meaning of each setting, as the docstrings of the class and its bases say them."""
    found: dict[str, tuple[str, str]] = {}
    for base in reversed(component.__mro__):
        for section in ("Parameters", "Attributes"):
            for entry in ClassDoc(base, config={"show_class_members": False})[section] if base.__doc__ else ():
                for name in entry.name.split(", "):
                    found[name] = (_markdown(entry.type), _markdown(" ".join(entry.desc)))
    return found


def _bounds(hint: Any) -> Iterator[str]:
    """Yield the bounds of a value, or of the items of a tuple."""
    for constraint in (item for data in getattr(hint, "__metadata__", ()) for item in getattr(data, "metadata", ())):
        for kind, attribute, sign in _BOUNDS:
            if isinstance(constraint, kind):
                yield f"{sign} {getattr(constraint, attribute)}"
    for inner in typing.get_args(hint):
        yield from _bounds(inner)


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values of nested settings."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _value(value: Any) -> str:
    """A value as YAML has it; where settings are the value, that their table follows."""
    if dataclasses.is_dataclass(value):
        return "see below"
    text = json.dumps(value, default=str)
    return f"`{value if isinstance(value, str) else text}`"


def _first_line(content: Any) -> str:
    return _markdown((inspect.getdoc(content) or "").partition("\n")[0])


def _markdown(text: str) -> str:
    """Text of a docstring, in one line of a table."""
    text = re.sub(r":[a-z:]+:`~?([^`]+)`", r"`\1`", text.replace("``", "`"))
    return " ".join(text.split()).replace("|", "\\|")


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


_KINDS: dict[str, Callable[..., str]] = {
    "api": api,
    "benchmark_tables": benchmark_tables,
    "commands": commands,
    "exit_codes": exit_codes,
    "presets": presets,
    "settings": settings,
    "simulator_settings": simulator_settings,
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the events."""
    app.connect("source-read", fill)
    app.connect("autodoc-process-signature", constructor)
    app.connect("env-get-outdated", generated_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
