"""Who takes part, in which order, and whether they may: names, horizons, and what was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from titan_neuro.baselines import Reference
from titan_neuro.errors import ConfigError, MismatchError, NoMatchError
from titan_neuro.evaluation.controls import Control
from titan_neuro.evaluation.vocabulary import REFERENCES, Kind
from titan_neuro.typing import ForecastModel, RunData

_PLURAL = {"key": "runs", "subject": "subjects", "stimulus": "stimuli"}


def kinds_of(
    models: Sequence[ForecastModel], baselines: Sequence[ForecastModel], references: Sequence[Reference]
) -> dict[str, Kind]:
    """Return the kind of each row, in the order of the table; `models` begin with the study's own.

    Raises
    ------
    ConfigError
        No model; two of one name; horizons that differ or are not ascending from 1; a baseline is lacking that the
        others are measured against.
    """
    if not models:
        raise ConfigError("There is no model to score.")
    names = [forecaster.name for forecaster in (*models, *baselines, *references)]
    if len(set(names)) < len(names):
        raise ConfigError(f"Each row needs a name of its own; found {', '.join(names)}.")
    lacking = set(REFERENCES.values()) - {baseline.name for baseline in baselines}
    if lacking:
        raise ConfigError(f"The others are measured against {', '.join(sorted(lacking))}, not among the baselines.")
    horizons = tuple(models[0].horizons)
    for forecaster in (*models, *baselines, *references):
        if tuple(forecaster.horizons) != horizons:
            raise ConfigError(
                f"Rows differ in their horizons: {models[0].name} {horizons}, {forecaster.name} "
                f"{tuple(forecaster.horizons)}.",
                "Score models of different horizons in separate tables.",
            )
    if not horizons or horizons[0] < 1 or list(horizons) != sorted(set(horizons)):
        raise ConfigError(f"Horizons must ascend and be at least 1; {models[0].name} has {horizons}.")
    kinds = {model.name: Kind.CONTROL if isinstance(model, Control) else Kind.COMPARISON_MODEL for model in models[1:]}
    # Controls stand below their model, whatever the order was.
    kinds = dict(sorted(kinds.items(), key=lambda item: list(Kind).index(item[1])))
    return {
        models[0].name: Kind.MODEL,
        **kinds,
        **{baseline.name: Kind.BASELINE for baseline in baselines},
        **{reference.name: Kind.ORACLE_REFERENCE for reference in references},
    }


def check_seeds(models: Mapping[int, Sequence[ForecastModel]]) -> None:
    """Refuse seeds whose models differ.

    Raises
    ------
    ConfigError
        No seed, or other names.
    """
    if not models:
        raise ConfigError("There is no model to score.")
    first = next(iter(models.values()))
    for seed, own in models.items():
        if [model.name for model in own] != [model.name for model in first]:
            raise ConfigError(
                f"Seeds differ in their models: {[model.name for model in first]}, seed {seed} "
                f"{[model.name for model in own]}.",
                "Train every model for every seed.",
            )


def check_runs(train_runs: Sequence[RunData], test_runs: Sequence[RunData], protocol: str) -> None:
    """Refuse a split that the protocol does not allow, and runs that don't fit each other.

    Raises
    ------
    NoMatchError
        No test run.
    MismatchError
        What was to be held out was trained on; another number of features.
    """
    if not test_runs:
        raise NoMatchError("The fold has no test run.", "Check the split and the filters.")
    held_out = {
        "run": ["key"],
        "subject": ["key", "subject"],
        "strict": ["key", "subject", "stimulus"],
    }[protocol]
    for what in held_out:
        shared = sorted({getattr(run, what) for run in train_runs} & {getattr(run, what) for run in test_runs})
        if shared:
            raise MismatchError(
                f"Protocol {protocol}: trained and tested on the same {_PLURAL[what]}, {len(shared)} of them; the "
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
