"""Whether the scores of two studies may be compared: data, people, runs, lead times, folds and targets of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml

from titan_neuro.errors import MetadataError, list_names
from titan_neuro.evaluation.metrics_and_rows import LEAD_TIME_POINTS, PERSISTENCE, count_in_words
from titan_neuro.report.numbers import number
from titan_neuro.report.reading import HINT
from titan_neuro.report.records import Results
from titan_neuro.report.results import lead_times_of

_UNKNOWN = "not recorded"
# Persistence is fitted to nothing: on the same targets its r2 differs by rounding alone.
_ROUNDING = 1e-4


class Aspect(NamedTuple):
    """Something that two studies have in common, or not.

    Attributes
    ----------
    name, first, second : str
        What it is, and what it is in each of them.
    consequence : str
        What follows for a comparison of their scores; empty where nothing does.
    forbids : bool
        Whether no difference of scores is computed for this.
    """

    name: str
    first: str
    second: str
    consequence: str = ""
    forbids: bool = False


@dataclass(frozen=True)
class Comparability:
    """What two studies have in common.

    Attributes
    ----------
    aspects : tuple of Aspect
    people : tuple of str
        Who is scored in both, in the same runs.
    lead_times : tuple of int
        In both, in time points, ascending.
    """

    aspects: tuple[Aspect, ...]
    people: tuple[str, ...]
    lead_times: tuple[int, ...]

    @property
    def reasons(self) -> list[str]:
        """Why no difference may be computed; empty where it may."""
        return [aspect.consequence for aspect in self.aspects if aspect.forbids]

    @property
    def warnings(self) -> list[str]:
        """What a difference is to be read with."""
        return [aspect.consequence for aspect in self.aspects if aspect.consequence and not aspect.forbids]


def comparability(first: Results, second: Results) -> Comparability:
    """Compare what two studies scored, without their scores.

    Parameters
    ----------
    first, second : Results
        Both with scores.
    """
    people, lead_times = _shared_people(first, second), _shared_lead_times(first, second)
    aspects = (
        *_of_data(first, second),
        _of_people(first, second, people),
        _of_lead_times(first, second, lead_times),
        _of_folds(first, second, people),
        _of_targets(first, second, people, lead_times),
        _of_code(first, second),
    )
    return Comparability(aspects, people, lead_times)


def settings_of(results: Results) -> dict[str, Any]:
    """Return the settings of a study by their full names (``model.backbone.dim``).

    Raises
    ------
    MetadataError
        ``config.resolved.yaml`` is no YAML.
    """
    try:
        settings = yaml.safe_load(results.config)
    except yaml.YAMLError as error:
        raise MetadataError(f"{results.name}: config.resolved.yaml is no YAML: {error}.", HINT) from error
    return dict(_flat(settings)) if isinstance(settings, dict) else {}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def different_settings(first: Results, second: Results, part: str = "") -> list[tuple[str, str, str]]:
    """List the settings that differ: name, and value in each study; `part` is the beginning of the names."""
    settings = settings_of(first), settings_of(second)
    names = sorted(name for name in settings[0].keys() | settings[1].keys() if name.startswith(part))
    shown = [(name, *(_shown(of, name) for of in settings)) for name in names]
    return [(name, one, other) for name, one, other in shown if one != other]


def _shown(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return "-"
    return yaml.safe_dump(settings[name], default_flow_style=True).removesuffix("...\n").strip()


def _of_data(first: Results, second: Results) -> Iterator[Aspect]:
    for name, of, forbids, consequence in _DATA:
        one, other = of(first), of(second)
        if _UNKNOWN in (one, other):
            unknown = f"{name}: not recorded by both, so that it can't be compared." if one != other else ""
            yield Aspect(name, one, other, unknown)
        elif one == other:
            yield Aspect(name, one, other)
        else:
            yield Aspect(name, one, other, consequence.format(one, other), forbids)
    yield _of_preparation(first, second)


def _protocol(results: Results) -> str:
    return _UNKNOWN if results.scores is None else ", ".join(results.scores["protocol"].unique())


def _dataset(results: Results) -> str:
    """The identifier of the dataset that was prepared, as DataLad knows it."""
    found = {str(stage["input_dataset_id"]) for stage in results.stages.values() if stage.get("input_dataset_id")}
    return ", ".join(sorted(found)) or _UNKNOWN


def _features(results: Results) -> str:
    # Names of files end with the space or the atlas, keys of runs do not.
    tested = tuple(f"{key}_" for key in _tested(results))
    counts = {int(of["NumberOfFeatures"]) for key, of in results.prepared.items() if f"{key}_".startswith(tested)}
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)})) if counts else _UNKNOWN


def _of_metadata(name: str) -> Any:
    return lambda results: _UNKNOWN if results.metadata is None else str(getattr(results.metadata, name))


# Name, value, whether a difference of it forbids to compare scores, and why.
_DATA: tuple[tuple[str, Any, bool, str], ...] = (
    ("Task", lambda results: results.task, True, "The tasks differ: {} and {}."),
    ("Dataset", _dataset, True, "The recordings are of different datasets ({} and {})."),
    (
        "Protocol",
        _protocol,
        True,
        "The protocols differ: {} and {}. A model that knows the person answers another question.",
    ),
    (
        "Repetition time (s)",
        _of_metadata("repetition_time_s"),
        True,
        "Repetition times differ ({} and {} s): a lead time of as many time points is another time.",
    ),
    ("Space", _of_metadata("space"), True, "The spaces differ ({} and {}): scores are of other targets."),
    ("Normalization", _of_metadata("normalization"), True, "The normalizations differ ({}; {}): so do the targets."),
    (
        "Voxels or parcels",
        _features,
        True,
        "The numbers of voxels or parcels differ ({} and {}): scores are means over other targets.",
    ),
)


def _of_preparation(first: Results, second: Results) -> Aspect:
    found = different_settings(first, second, "prepare.")
    first_text, second_text = ("; ".join(f"{row[0]}: {row[side]}" for row in found) for side in (1, 2))
    if not found:
        return Aspect("Preparation", "the same settings", "the same settings")
    names = list_names([row[0] for row in found], 3)
    consequence = f"The runs were prepared with other settings ({names}): other time series are forecast."
    return Aspect("Preparation", first_text, second_text, consequence, forbids=True)


def _tested(results: Results) -> list[str]:
    return [] if results.metadata is None else results.metadata.tested


def person_of(key: str) -> str:
    """Label of the person in the key of a run: ``01`` of ``sub-01_task-movie``."""
    return key.split("_")[0].removeprefix("sub-")


def _runs_by_person(results: Results) -> dict[str, set[str]]:
    runs: dict[str, set[str]] = {}
    for key in _tested(results):
        runs.setdefault(person_of(key), set()).add(key)
    return runs


def _scored_people(results: Results) -> set[str]:
    return set() if results.subjects is None else set(results.subjects["subject"])


def _shared_people(first: Results, second: Results) -> tuple[str, ...]:
    runs = _runs_by_person(first), _runs_by_person(second)
    both = _scored_people(first) & _scored_people(second) & runs[0].keys() & runs[1].keys()
    return tuple(sorted(name for name in both if runs[0][name] == runs[1][name]))


def _of_people(first: Results, second: Results, shared: tuple[str, ...]) -> Aspect:
    names = [sorted(_scored_people(results)) for results in (first, second)]
    one, other = (f"{count_in_words(len(of), 'subject')}: {list_names(of, 8)}" for of in names)
    if not shared:
        reason = "No person is scored in both studies in the same runs: there is nothing to pair."
        return Aspect("Tested people", one, other, reason, forbids=True)
    n_others = len({*names[0], *names[1]}) - len(shared)
    reason = (
        f"{count_in_words(len(shared), 'subject')} of both studies were scored in the same runs. "
        f"{count_in_words(n_others, 'subject')} {'is' if n_others == 1 else 'are'} left out of the differences."
    )
    return Aspect("Tested people", one, other, reason if n_others else "")


def _shared_lead_times(first: Results, second: Results) -> tuple[int, ...]:
    return tuple(sorted(set(_lead_times(first)) & set(_lead_times(second))))


def _lead_times(results: Results) -> list[int]:
    return [] if results.scores is None else lead_times_of(results.scores)


def _of_lead_times(first: Results, second: Results, shared: tuple[int, ...]) -> Aspect:
    name = "Lead times (time points)"
    one, other = (", ".join(map(str, _lead_times(results))) for results in (first, second))
    if not shared:
        return Aspect(name, one, other, "No lead time is in both studies.", forbids=True)
    kept = f"Differences are given at the lead times of both: {', '.join(map(str, shared))} time points."
    return Aspect(name, one, other, kept if one != other else "")


def _of_folds(first: Results, second: Results, people: tuple[str, ...]) -> Aspect:
    """Compare the runs that the models were trained on which test each of these people."""
    trained = []
    for results in (first, second):
        folds = () if results.metadata is None else results.metadata.folds
        trained.append({key: set(fold.train) for fold in folds for key in fold.test if person_of(key) in people})
    one, other = (f"{len({frozenset(of) for of in by_key.values()})} training sets" for by_key in trained)
    if trained[0] == trained[1]:
        return Aspect("Folds", one, other)
    reason = (
        "The folds differ: the models of the two studies, and the linear autoregressions that skill is measured "
        "against, were fitted on other runs. A difference may be due to these."
    )
    return Aspect("Folds", one, other, reason)


def _of_targets(first: Results, second: Results, people: tuple[str, ...], lead_times: tuple[int, ...]) -> Aspect:
    """Compare r2 of persistence, which follows from the targets alone."""
    name, tables = "Targets (r2 of persistence)", [values_by_person(of, PERSISTENCE, "r2") for of in (first, second)]
    wanted = [(person, points) for person in people for points in lead_times]
    pairs = [tuple(table.get(key, math.nan) for table in tables) for key in wanted]
    if not pairs or any(math.isnan(value) for pair in pairs for value in pair):
        unknown = "Persistence is not scored in both, so that the targets can't be compared." if wanted else ""
        return Aspect(name, _UNKNOWN, _UNKNOWN, unknown)
    one, other = (number(sum(pair[side] for pair in pairs) / len(pairs)) for side in (0, 1))
    largest = max(abs(pair[0] - pair[1]) for pair in pairs)
    if largest <= _ROUNDING:
        return Aspect(name, one, other)
    reason = (
        f"The targets are not the same time points or values: r2 of persistence differs by up to {number(largest, 4)} "
        "in a person. Differences of this size in r2 may be due to that."
    )
    return Aspect(name, one, other, reason)


def values_by_person(results: Results, model: str, metric: str) -> dict[tuple[str, int], float]:
    """Return a metric of one row of the table by person and lead time (time points)."""
    if results.subjects is None:
        return {}
    rows = results.subjects[results.subjects["model"] == model]
    keys = zip(rows["subject"], rows[LEAD_TIME_POINTS], strict=True)
    return {(str(who), int(points)): float(value) for (who, points), value in zip(keys, rows[metric], strict=True)}


def _of_code(first: Results, second: Results) -> Aspect:
    one, other = _code(first), _code(second)
    reason = "The scores were computed by other versions of the code." if one != other else ""
    return Aspect("Code of the evaluation", one, other, reason)


def _code(results: Results) -> str:
    stage = results.stages.get("evaluate", {})
    version, commit = stage.get("versions", {}).get("titan-neuro", _UNKNOWN), str(stage.get("commit") or "")[:12]
    return f"{version}, commit {commit}" if commit else str(version)
