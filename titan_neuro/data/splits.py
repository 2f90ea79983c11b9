"""Cross-validation folds: whole subjects or whole runs for training, validation and test, never windows of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import Field

from titan_neuro.data.named_test import check_names, named_protocol, named_runs
from titan_neuro.errors import ConfigError, MismatchError, NoMatchError, list_names
from titan_neuro.settings import settings
from titan_neuro.typing import RunData

if TYPE_CHECKING:
    from titan_neuro.data.store import RunStore

Protocol = Literal["subject", "run", "strict"]


@settings
class SplitConfig:
    """How runs are divided into folds.

    Attributes
    ----------
    by : {"auto", "subject", "run", "strict", "all"}
        ``subject``: held-out subjects, same stimulus. ``run``: held-out runs of the training subjects. ``strict``:
        held-out subjects and held-out runs at once. ``auto``: ``subject`` if there are three subjects or more, else
        ``run``; with `test`, what the names say: people and runs are ``strict``, runs of everybody ``run``, others
        ``subject``. ``all``: one fold that tests nobody, for a model that others start from (``training.start``).
    test : tuple of str
        Who is tested: people (``sub-13``), runs of everybody (``run-2``, ``task-movie_run-2``; with people: these runs
        of these people), or runs of one person (``sub-13_run-2``). There is then one fold, tested on exactly these. It
        is trained and validated on all other runs, except those that share with them what the protocol holds out.
        Empty: `n_folds` folds, which test everybody.
    n_folds : int
        Number of folds, at least 2. With as many units (subjects or runs) or fewer it is leave-one-out. It is
        increased if a fold would have fewer than two units to train and validate on. In ``strict``, fold ``i`` tests
        group ``i`` of the subjects on group ``i`` of the runs.
    validation_fraction : float
        Fraction of a fold's remaining units, at least one, by which the epoch is chosen; gradients never use them.
        Fits in closed form (linear AR, recall, baselines) use them like training runs.
    """

    by: Literal["auto", "subject", "run", "strict", "all"] = "auto"
    test: tuple[str, ...] = ()
    n_folds: Annotated[int, Field(ge=2)] = 3
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15

    def __post_init__(self) -> None:
        if self.by == "all" and self.test:
            raise ConfigError(
                f"split.test: split.by=all tests nobody, found the names {list_names(self.test)}.",
                "Leave --set split.test out, or use --set split.by=auto.",
            )
        check_names(self.test, self.by)


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
        `config.by`, with ``auto`` and ``all`` resolved.
    folds : list of Fold
        Numbered from 1.

    Raises
    ------
    NoMatchError
        Fewer than three units: one each for training, validation and test. Or `config.test` names what is not there.
    """
    if config.test:
        protocol, fold = _named_fold(runs, config)
        return protocol, [fold]
    subjects = sorted({run.subject for run in runs})
    if config.by == "all":
        whole: Protocol = "subject" if len(subjects) > 1 else "run"
        return whole, [_divide(1, whole, (), runs, config.validation_fraction)]
    protocol = ("subject" if len(subjects) >= 3 else "run") if config.by == "auto" else config.by
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
        test_stimuli = set(run_labels[index::n_folds] if protocol == "strict" else ())
        test = [
            run
            for run in runs
            if _unit(run, protocol) in test_units and (protocol != "strict" or run.stimulus in test_stimuli)
        ]
        left = [run for run in runs if _unit(run, protocol) not in test_units and run.stimulus not in test_stimuli]
        folds.append(_divide(index + 1, protocol, test, left, config.validation_fraction))
    return protocol, folds


def _named_fold(runs: Sequence[RunStore], config: SplitConfig) -> tuple[Protocol, Fold]:
    """Test exactly the runs that are named; what shares a unit with them is neither trained nor validated on."""
    n_subjects = len({run.subject for run in runs})
    # `SplitConfig` refuses names where nobody is tested.
    given = cast("Literal['auto', 'subject', 'run', 'strict']", config.by)
    protocol = named_protocol(config.test, n_subjects) if given == "auto" else given
    test = named_runs(runs, config.test)
    test_units = {_unit(run, protocol) for run in test}
    test_stimuli = {run.stimulus for run in test} if protocol == "strict" else set()
    left = [run for run in runs if _unit(run, protocol) not in test_units and run.stimulus not in test_stimuli]
    return protocol, _divide(1, protocol, test, left, config.validation_fraction)


def _unit(run: RunStore, protocol: Protocol) -> str:
    """Return what all three parts of a fold separate: the stimulus of a run, or its subject."""
    return run.stimulus if protocol == "run" else run.subject


def _divide(
    number: int, protocol: Protocol, test: Sequence[RunStore], left: Sequence[RunStore], validation_fraction: float
) -> Fold:
    """Make a fold of the runs to test and of those that are left to train and validate on."""
    units = sorted({_unit(run, protocol) for run in left})
    if len(units) < 2:
        unit = "run" if protocol == "run" else "subject"
        raise NoMatchError(
            f"Fold {number}, split by {protocol}: expected at least two {unit}s to train and validate on that share "
            f"{'neither subject nor run' if protocol == 'strict' else f'no {unit}'} with what is tested "
            f"({list_names([run.key for run in test]) or 'nothing'}), found {', '.join(units) or 'none'}.",
            f"Test fewer (--set split.test=...), prepare more, or {_other_split(protocol)}.",
        )
    count = min(max(1, round(validation_fraction * len(units))), len(units) - 1)
    # Each fold starts at another unit, so that the same unit does not validate all models.
    start = (number - 1) % len(units)
    validation_units = {units[(start + offset) % len(units)] for offset in range(count)}
    validation = [run.key for run in left if _unit(run, protocol) in validation_units]
    train = [run.key for run in left if _unit(run, protocol) not in validation_units]
    return Fold(number, tuple(train), tuple(validation), tuple(run.key for run in test))


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
            f"Prepare more of them, or {_other_split(what)}.",
        )


def _other_split(failed: str) -> str:
    """Name the splits that are left: not the one that has just failed."""
    others = [protocol for protocol in ("run", "subject") if protocol != failed]
    return f"choose another split with --set split.by={' (or '.join(others)}{')' * (len(others) - 1)}"
