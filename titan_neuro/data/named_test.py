"""Who is tested, by name: people (``sub-13``), runs of everybody (``run-2``), or runs of one person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from titan_neuro.data.bids.names import RUN_ENTITIES, applies_to, is_entity, join_entities, list_labels, parse_entities
from titan_neuro.errors import ConfigError, NoMatchError, list_names, near_miss

if TYPE_CHECKING:
    from titan_neuro.data.store import RunStore

_SETTING = "split.test"
_EXAMPLES = "Name people (sub-13), runs of everybody (run-2, task-movie_run-2), or runs of one person (sub-13_run-2)."


def check_names(names: Sequence[str], by: str) -> None:
    """Refuse names that are none, and those that say too little for a protocol.

    Parameters
    ----------
    names : sequence of str
    by : {"auto", "subject", "run", "strict"}

    Raises
    ------
    ConfigError
        A name is not made of entities of BIDS names. Or the protocol holds out subjects, and no name has a subject; or
        it holds out runs, and names have nothing but subjects.
    """
    for name in names:
        _check_name(name)
    entities = [parse_entities(name) for name in names]
    for unit, protocols, is_named in (
        ("subject", ("subject", "strict"), any("sub" in labels for labels in entities)),
        ("run", ("run", "strict"), any(labels.keys() - {"sub"} for labels in entities)),
    ):
        if names and by in protocols and not is_named:
            raise ConfigError(
                f"{_SETTING}: split by {by}, which holds out {unit}s: expected the name of a {unit} in it, found "
                f"{list_names(names)}.",
                f"{_EXAMPLES} Or let the names decide: --set split.by=auto.",
            )


def _check_name(name: str) -> None:
    parts = [part.partition("-")[::2] for part in name.split("_")]
    entities = [entity for entity, _ in parts]
    if all(is_entity(*part) for part in parts) and set(entities) <= {*RUN_ENTITIES} and len({*entities}) == len(parts):
        return
    unknown = next((entity for entity in entities if entity not in RUN_ENTITIES), "")
    meant = near_miss(unknown, RUN_ENTITIES) if "-" in name else f" Did you mean 'sub-{name}'?"
    raise ConfigError(
        f"{_SETTING}: expected names such as sub-13 or task-movie_run-2, each entity once; found {name!r}.{meant}",
        f"{_EXAMPLES} Entities: {', '.join(RUN_ENTITIES)}.",
    )


def named_protocol(names: Sequence[str], n_subjects: int) -> Literal["subject", "run", "strict"]:
    """Choose the protocol by which nothing that is named by itself is trained on.

    People and runs: ``strict``. Runs of everybody alone: ``run``. Else ``subject``, which takes three subjects where no
    whole person is named.
    """
    entities = [parse_entities(name) for name in names]
    people, runs = (any(test(labels) for labels in entities) for test in (_is_person, _is_of_everybody))
    if runs:
        return "strict" if people else "run"
    return "subject" if people or n_subjects >= 3 else "run"


def named_runs(runs: Sequence[RunStore], names: Sequence[str]) -> list[RunStore]:
    """Return the runs that are named.

    Where both people and runs of everybody are named, these runs of these people; and the runs of one person that are
    named.

    Raises
    ------
    NoMatchError
        A name that no run has, or that adds nothing: that person has none of the runs, or nobody who is named has that
        run.
    """
    entities = {run.key: parse_entities(run.key) for run in runs}
    named = {name: parse_entities(name) for name in names}
    groups = [[labels for labels in named.values() if test(labels)] for test in (_is_person, _is_of_everybody)]
    single = [labels for labels in named.values() if not _is_person(labels) and not _is_of_everybody(labels)]
    asked = [group for group in groups if group]

    def is_tested(run: Mapping[str, str]) -> bool:
        by_group = bool(asked) and all(_applies(group, run) for group in asked)
        return by_group or _applies(single, run)

    for name, labels in named.items():
        if not _applies([labels], *entities.values()):
            raise _no_match(name, labels, [*entities.values()])
    tested = [run for run in runs if is_tested(entities[run.key])]
    for name, labels in named.items():
        if not _applies([labels], *(entities[run.key] for run in tested)):
            others = [other for other in names if _is_person(named[other]) != _is_person(labels)]
            raise NoMatchError(
                f"{_SETTING}: nothing of {name} is tested: no prepared run is of both {name} and one of "
                f"{list_names(others)}.",
                "Leave the name out, or prepare the run that is missing.",
            )
    return tested


def _is_person(labels: Mapping[str, str]) -> bool:
    return labels.keys() == {"sub"}


def _is_of_everybody(labels: Mapping[str, str]) -> bool:
    return "sub" not in labels


def _applies(names: Iterable[Mapping[str, str]], *runs: Mapping[str, str]) -> bool:
    """Whether one of some names is that of one of some runs."""
    return any(applies_to(labels, run) for labels in names for run in runs)


def _no_match(name: str, labels: Mapping[str, str], runs: Sequence[Mapping[str, str]]) -> NoMatchError:
    """Name the nearest that exists, made of the same entities where runs have them."""
    alike = [{entity: run[entity] for entity in labels} for run in runs if labels.keys() <= run.keys()]
    candidates = alike or [{entity: label} for run in runs for entity, label in run.items()]
    meant = near_miss(name, dict.fromkeys(join_entities(each) for each in candidates))
    entities = dict.fromkeys(entity for run in runs for entity in run)
    available = "; ".join(f"{entity}: {list_labels(runs, entity)}" for entity in entities)
    return NoMatchError(f"{_SETTING}: no prepared run matches {name}.{meant}", f"There are: {available}.")
