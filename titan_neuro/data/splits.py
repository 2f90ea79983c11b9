"""Cross-validation folds: whole subjects or whole runs for training, validation and test, never windows of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from titan_neuro.data.store import RunStore
from titan_neuro.errors import MismatchError, NoMatchError
from titan_neuro.settings import settings
from titan_neuro.typing import RunData

Protocol = Literal["subject", "run", "strict"]


@settings
class SplitConfig:
    """How runs are divided into folds.

    Attributes
    ----------
    by : {"auto", "subject", "run", "strict"}
        ``subject``: held-out subjects, same stimulus. ``run``: held-out runs of the training subjects. ``strict``:
        held-out subjects and held-out runs at once. ``auto``: ``subject`` if there are three subjects or more, else
        ``run``.
    n_folds : int
        Number of folds, at least 2. With as many units (subjects or runs) or fewer it is leave-one-out. It is
        increased if a fold would have fewer than two units to train and validate on. In ``strict``, fold ``i`` tests
        group ``i`` of the subjects on group ``i`` of the runs.
    validation_fraction : float
        Fraction of a fold's remaining units, at least one, by which the epoch is chosen; gradients never use them.
        Fits in closed form (linear AR, recall, baselines) use them like training runs.
    """

    by: Literal["auto", "subject", "run", "strict"] = "auto"
    n_folds: Annotated[int, Field(ge=2)] = 3
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15


@dataclass(frozen=True)
class Fold:
    """One division of the runs, by their keys. The three parts share no unit: no subject or no run, by protocol.

    Attributes
    ----------
    number : int
        From 1.
    train, validation, test : tuple of str
        Keys of the runs.
    """

    number: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def make_folds(runs: Sequence[RunStore], config: SplitConfig) -> tuple[Protocol, list[Fold]]:
    """Divide runs into folds; the same runs and settings give the same folds.

    Parameters
    ----------
    runs : sequence of RunStore
    config : SplitConfig

    Returns
    -------
    protocol : {"subject", "run", "strict"}
        `config.by`, with ``auto`` resolved.
    folds : list of Fold
        Numbered from 1.

    Raises
    ------
    NoMatchError
        Fewer than three units: one each for training, validation and test.
    """
    subjects = sorted({run.subject for run in runs})
    protocol: Protocol = ("subject" if len(subjects) >= 3 else "run") if config.by == "auto" else config.by
    run_labels = sorted({run.stimulus for run in runs})
    units = run_labels if protocol == "run" else subjects
    _require_three(units, protocol)
    if protocol == "strict":
        _require_three(run_labels, "run")
    n_folds = min(config.n_folds, len(units), len(run_labels) if protocol == "strict" else len(units))
    while len(units) - math.ceil(len(units) / n_folds) < 2:
        n_folds += 1
    folds = []
    for index in range(n_folds):
        test_units = set(units[index::n_folds])
        validation_units = set(_validation_units(units, index, n_folds, config.validation_fraction))
        test_stimuli = set(run_labels[index::n_folds] if protocol == "strict" else ())
        parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
        for run in runs:
            unit = run.stimulus if protocol == "run" else run.subject
            part = "test" if unit in test_units else "validation" if unit in validation_units else "train"
            # In the strict protocol held-out stimuli are used for the test alone, and the test uses no others.
            if protocol != "strict" or (run.stimulus in test_stimuli) == (part == "test"):
                parts[part].append(run.key)
        folds.append(Fold(index + 1, *(tuple(parts[part]) for part in ("train", "validation", "test"))))
    return protocol, folds


def require_disjoint(fold: Fold, protocol: str, runs: Mapping[str, RunData]) -> None:
    """Refuse a fold whose parts share subjects or stimuli that its protocol separates.

    ``subject`` and ``strict`` separate subjects, ``run`` separates stimuli. ``strict`` also separates the stimuli of
    the test runs from those of the other parts.

    Parameters
    ----------
    fold : Fold
    protocol : {"subject", "run", "strict"}
    runs : mapping of str to RunData
        The runs of the fold by their keys.

    Raises
    ------
    MismatchError
        Two parts share a subject or a stimulus; the message names them.
    """
    pairs = [("train", "validation"), ("train", "test"), ("validation", "test")]
    rules = [("stimulus" if protocol == "run" else "subject", pairs)]
    if protocol == "strict":
        rules.append(("stimulus", pairs[1:]))
    for unit, separated in rules:
        for one, other in separated:
            first, second = ({getattr(runs[key], unit) for key in getattr(fold, part)} for part in (one, other))
            if first & second:
                raise MismatchError(
                    f"Fold {fold.number}: split by {protocol}, expected no {unit} in both {one} and {other}, found "
                    f"{', '.join(sorted(first & second))}.",
                    "Scores of such a split are invalid; make the folds with `make_folds`.",
                )


def _require_three(units: Sequence[str], what: str) -> None:
    if len(units) < 3:
        raise NoMatchError(
            f"Splitting by {what} needs at least 3 {what}s (for training, validation and test), found {len(units)}: "
            f"{', '.join(units)}.",
            "Prepare more of them, or choose another split with --set split.by=run (or subject).",
        )


def _validation_units(units: Sequence[str], index: int, n_folds: int, fraction: float) -> list[str]:
    remaining = [unit for position, unit in enumerate(units) if position % n_folds != index]
    count = min(max(1, round(fraction * len(remaining))), len(remaining) - 1)
    # Each fold starts at another unit, so that the same unit does not validate all models.
    start = index % len(remaining)
    return [remaining[(start + offset) % len(remaining)] for offset in range(count)]
