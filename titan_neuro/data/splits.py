"""Who is trained on, who chooses the model, who is tested: folds over whole subjects or runs, never over windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from titan_neuro.data.store import RunStore
from titan_neuro.errors import MismatchError, NoMatchError
from titan_neuro.typing import RunData

Protocol = Literal["subject", "run", "strict"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SplitConfig:
    """How runs are divided.

    Attributes
    ----------
    by : {"auto", "subject", "run", "strict"}
        ``subject``: held-out subjects, same stimulus. ``run``: held-out runs of the training subjects. ``strict``:
        held-out subjects and held-out runs at once. ``auto``: ``subject`` where there are three subjects or more, else
        ``run``.
    n_folds : int
        Number of folds; with as many units or fewer it is leave-one-out, and it is more where so few would leave
        nothing to train on. In ``strict``, fold ``i`` tests the ``i``-th group of subjects on the ``i``-th of runs.
    validation_fraction : float
        Share of a fold's remaining units, at least one, that chooses the epoch: no gradient comes from it. What is
        fitted in closed form (linear AR, recall, baselines) sees it, as it sees training runs.
    """

    by: Literal["auto", "subject", "run", "strict"] = "auto"
    n_folds: Annotated[int, Field(ge=2)] = 3
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15


@plain_dataclass(frozen=True)
class Fold:
    """One division of the runs, by their keys. The three parts share no unit (subject or run, as the protocol says)."""

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
        What ``auto`` came to.
    folds : list of Fold
        Numbered from 1.

    Raises
    ------
    NoMatchError
        Fewer than three units: one to train on, one to choose by, one to test.
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
        held_units = set(units[index::n_folds])
        validation_units = set(_validation_units(units, index, n_folds, config.validation_fraction))
        held_runs = set(run_labels[index::n_folds] if protocol == "strict" else ())
        parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
        for run in runs:
            unit = run.stimulus if protocol == "run" else run.subject
            part = "test" if unit in held_units else "validation" if unit in validation_units else "train"
            # In the strict protocol a held-out stimulus part is seen by nobody who is trained, and only it is tested.
            if protocol != "strict" or (run.stimulus in held_runs) == (part == "test"):
                parts[part].append(run.key)
        folds.append(Fold(index + 1, *(tuple(parts[part]) for part in ("train", "validation", "test"))))
    return protocol, folds


def require_disjoint(fold: Fold, protocol: str, runs: Mapping[str, RunData]) -> None:
    """Refuse a fold whose parts share what its protocol holds apart.

    Subjects under ``subject`` and ``strict``, what was shown under ``run``; under ``strict``, too, nothing that was
    shown in a test run was shown in another part.

    Parameters
    ----------
    fold : Fold
    protocol : {"subject", "run", "strict"}
    runs : mapping of str to RunData
        The runs of the fold by their keys.

    Raises
    ------
    MismatchError
        Names the two parts and what they share.
    """
    pairs = [("train", "validation"), ("train", "test"), ("validation", "test")]
    rules = [("stimulus" if protocol == "run" else "subject", pairs)]
    if protocol == "strict":
        rules.append(("stimulus", pairs[1:]))
    for unit, apart in rules:
        for one, other in apart:
            first, second = ({getattr(runs[key], unit) for key in getattr(fold, part)} for part in (one, other))
            if first & second:
                raise MismatchError(
                    f"Fold {fold.number}: split by {protocol}, expected no {unit} in both {one} and {other}, found "
                    f"{', '.join(sorted(first & second))}.",
                    "Scores of such a split are worth nothing; make the folds with `make_folds`.",
                )


def _require_three(units: Sequence[str], what: str) -> None:
    if len(units) < 3:
        raise NoMatchError(
            f"Splitting by {what} needs at least 3 {what}s (to train, to choose, to test), found {len(units)}: "
            f"{', '.join(units)}.",
            "Prepare more, or choose another split with --set split.by=run (or subject).",
        )


def _validation_units(units: Sequence[str], index: int, n_folds: int, share: float) -> list[str]:
    rest = [unit for position, unit in enumerate(units) if position % n_folds != index]
    count = min(max(1, round(share * len(rest))), len(rest) - 1)
    # Another choice in each fold, so that no unit chooses all models.
    start = index % len(rest)
    return [rest[(start + offset) % len(rest)] for offset in range(count)]
