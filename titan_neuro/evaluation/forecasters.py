"""Rows of the table: their kinds and order, and the checks of names, lead times and split before anything is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from titan_neuro.baselines import OracleReference
from titan_neuro.errors import ConfigError, MismatchError, NoMatchError
from titan_neuro.evaluation.controls import Control
from titan_neuro.evaluation.metrics_and_rows import REFERENCES, Kind
from titan_neuro.typing import ForecastModel, RunData

_PLURAL = {"key": "runs", "subject": "subjects", "stimulus": "stimuli"}
# What test runs must not share with training runs, by protocol.
_HELD_OUT = {"run": ("key",), "subject": ("key", "subject"), "strict": ("key", "subject", "stimulus")}


class _Row(Protocol):
    """Name and lead times, which models, baselines and oracle references all have."""

    name: str
    horizons: tuple[int, ...]


def kinds_of(
    models: Sequence[ForecastModel], baselines: Sequence[ForecastModel], references: Sequence[OracleReference]
) -> dict[str, Kind]:
    """Return the kind of each row, in the order of the table.

    Parameters
    ----------
    models : sequence of ForecastModel
        The study's own model first, then its controls and comparison models in any order.
    baselines : sequence of ForecastModel
    references : sequence of OracleReference

    Returns
    -------
    dict of str to Kind
        By name: the study's model, controls, comparison models, baselines, oracle references.

    Raises
    ------
    ConfigError
        No model; two of one name; lead times that differ, or that don't ascend from at least 1; no baseline for one
        of the skills.
    """
    if not models:
        raise ConfigError("There is no model to score.")
    rows: list[_Row] = [*models, *baselines, *references]
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise ConfigError(f"Each row needs a unique name; found {', '.join(names)}.")
    missing = set(REFERENCES.values()) - {baseline.name for baseline in baselines}
    if missing:
        raise ConfigError(
            f"Skills are measured against {', '.join(sorted(missing))}, not among the baselines.",
            "Add these baselines to the rows.",
        )
    horizons = tuple(models[0].horizons)
    for row in rows:
        if tuple(row.horizons) != horizons:
            raise ConfigError(
                f"Rows differ in their horizons: {models[0].name} {horizons}, {row.name} {tuple(row.horizons)}.",
                "Score models of different horizons in separate tables.",
            )
    if not horizons or horizons[0] < 1 or list(horizons) != sorted(set(horizons)):
        raise ConfigError(f"Horizons must ascend and be at least 1; {models[0].name} has {horizons}.")
    controls = [model.name for model in models[1:] if isinstance(model, Control)]
    comparison_models = [model.name for model in models[1:] if not isinstance(model, Control)]
    return {
        models[0].name: Kind.MODEL,
        **dict.fromkeys(controls, Kind.CONTROL),
        **dict.fromkeys(comparison_models, Kind.COMPARISON_MODEL),
        **{baseline.name: Kind.BASELINE for baseline in baselines},
        **{reference.name: Kind.ORACLE_REFERENCE for reference in references},
    }


def check_seeds(models: Mapping[int, Sequence[ForecastModel]]) -> None:
    """Refuse seeds whose models differ.

    Raises
    ------
    ConfigError
        No seed, or names that differ between seeds.
    """
    if not models:
        raise ConfigError("There is no model to score.")
    expected = [model.name for model in next(iter(models.values()))]
    for seed, of_seed in models.items():
        names = [model.name for model in of_seed]
        if names != expected:
            raise ConfigError(
                f"Seeds differ in their models: {expected}, seed {seed} {names}.",
                "Train every model for every seed.",
            )


def check_runs(train_runs: Sequence[RunData], test_runs: Sequence[RunData], protocol: str) -> None:
    """Refuse a split that violates its protocol, and test runs of another number of features.

    Raises
    ------
    NoMatchError
        No test run.
    MismatchError
        A training run shares with a test run what the protocol holds out; another number of features.
    """
    if not test_runs:
        raise NoMatchError("The fold has no test run.", "Check the split and the filters.")
    for attribute in _HELD_OUT[protocol]:
        shared = sorted(
            {getattr(run, attribute) for run in train_runs} & {getattr(run, attribute) for run in test_runs}
        )
        if shared:
            raise MismatchError(
                f"Protocol {protocol}: trained and tested on the same {_PLURAL[attribute]}, {len(shared)} of them; the "
                f"first is {shared[0]}.",
                "Check the split.",
            )
    for run in test_runs:
        if train_runs and run.n_features != train_runs[0].n_features:
            raise MismatchError(
                f"{run.key} has {run.n_features} features; the training runs, such as {train_runs[0].key}, have "
                f"{train_runs[0].n_features}.",
                "Prepare all runs with one mask or one parcellation.",
            )
