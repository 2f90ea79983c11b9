"""What every probe is given and gives: folds and their runs in, tables, maps and a sentence out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd

from titan_neuro.forecaster.forecaster import Forecaster
from titan_neuro.metrics import bootstrap_interval, p_of_null, sign_flip_test, sign_flips
from titan_neuro.typing import RunData

# Columns of a probe's `scores` table, in this order; the report draws `value` over `x`, or condition by condition.
SCORES = (
    *("measure", "condition", "is_control", "x", "value", "low", "high", "null", "null_low", "null_high"),
    *("p", "n_subjects"),
)
# End of the name of the JSON that a probe writes last: its question, its result in words, settings and tests.
RESULT_SUFFIX = "_result.json"


@dataclass(frozen=True, kw_only=True)
class ProbedFold:
    """One fold, as a probe sees it.

    Attributes
    ----------
    model : Forecaster
        Trained on this fold; has seen nothing of `tests`.
    untrained : Forecaster
        The same with what training has put into tokenizer, memories and decoder taken away again: a control.
    tests : sequence of RunData
        The held-out runs.
    others : sequence of RunData
        Runs of training and validation.
    """

    model: Forecaster
    untrained: Forecaster
    tests: Sequence[RunData]
    others: Sequence[RunData]


@dataclass(frozen=True, kw_only=True)
class ProbeContext:
    """What all probes of a study share.

    Attributes
    ----------
    repetition_time : float
        Seconds.
    horizons : tuple of int
        The model's.
    n_features : int
    n_permutations : int
        Of each test.
    n_resamples : int
        Of each bootstrap.
    seed : int
    """

    repetition_time: float
    horizons: tuple[int, ...]
    n_features: int
    n_permutations: int
    n_resamples: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class ProbeResults:
    """What a probe has found.

    Attributes
    ----------
    sentence : str
        What it comes to, in one sentence with its numbers, n, test and correction.
    tables : dict of str to pandas.DataFrame
        By BIDS suffix: ``scores`` (columns `SCORES`), ``curve``, ...
    maps : dict of str to (numpy.ndarray, dict)
        By ``stat``: ``(features,)`` (NaN: no value), and JSON for the sidecar.
    metadata : dict
        JSON for the sidecar of each table: what was done, how it was tested, what the columns are.
    """

    sentence: str
    tables: Mapping[str, pd.DataFrame]
    maps: Mapping[str, tuple[np.ndarray, Mapping[str, Any]]] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Probe(Protocol):
    """What every probe does."""

    def add(self, fold: ProbedFold, run: RunData) -> None:
        """Ask about one of the held-out runs of a fold; runs of one fold come one after the other."""
        ...

    def results(self) -> ProbeResults:
        """Return what was found in all of them."""
        ...


def score_row(measure: str, condition: str, **values: Any) -> dict[str, Any]:
    """One row of a `scores` table; what is not given is NaN (`is_control`: False)."""
    unknown = set(values) - set(SCORES)
    if unknown:
        raise TypeError(f"score_row: unknown columns {sorted(unknown)}")
    row = {**dict.fromkeys(SCORES, float("nan")), "is_control": False, "n_subjects": 0}
    return {**row, "measure": measure, "condition": condition, **values}


def paired_row(measure: str, condition: str, values: np.ndarray, metadata: ProbeContext, *, x: float) -> dict[str, Any]:
    """Row of a difference within subjects, tested by flipping their signs; one subject has no test.

    Parameters
    ----------
    measure, condition : str
    values : numpy.ndarray
        Finite, ``(subjects,)``: what is claimed less its control.
    metadata : ProbeContext
    x : float
    """
    draws = {"n_permutations": metadata.n_permutations, "seed": metadata.seed}
    low, high = bootstrap_interval(values, n_resamples=metadata.n_resamples, seed=metadata.seed)
    tested: dict[str, float] = {}
    if len(values) > 1:
        null_low, null_high = np.quantile(sign_flips(len(values), **draws) @ values / len(values), (0.025, 0.975))
        tested = {
            "null": 0.0,
            "null_low": null_low,
            "null_high": null_high,
            "p": float(sign_flip_test(values, **draws)),
        }
    shared = {"x": x, "value": float(values.mean()), "low": low, "high": high, "n_subjects": len(values)}
    return score_row(measure, condition, **shared, **tested)


def tested_row(
    measure: str, condition: str, values: np.ndarray, null: np.ndarray, metadata: ProbeContext, **other: Any
) -> dict[str, Any]:
    """Row of a mean over subjects beside what chance gives; without draws there is no test.

    Parameters
    ----------
    measure, condition : str
    values : numpy.ndarray
        Finite, ``(subjects,)``.
    null : numpy.ndarray
        Means over subjects by chance, ``(draws,)``.
    metadata : ProbeContext
    **other
        Further columns.
    """
    low, high = bootstrap_interval(values, n_resamples=metadata.n_resamples, seed=metadata.seed)
    value = float(values.mean())
    tested: dict[str, float] = {}
    if len(null):
        null_low, null_high = np.quantile(null, (0.025, 0.975))
        tested = {"null": float(null.mean()), "null_low": float(null_low), "null_high": float(null_high)}
        # Sums of the same numbers in another order differ by rounding, and must count as equal.
        tested["p"] = p_of_null(value - 1e-9, null)
    shared = {"value": value, "low": low, "high": high, "n_subjects": len(values)}
    return score_row(measure, condition, **shared, **tested, **other)
