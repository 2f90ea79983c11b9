"""The interface of a probe: folds and their runs in; a summary, tables and maps out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd

from titan_neuro.forecaster import Forecaster
from titan_neuro.metrics import bootstrap_interval, corrected_over_map, p_of_null, sign_flip_test, sign_flips
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
    """The models and runs of one fold.

    Attributes
    ----------
    model : Forecaster
        Trained on this fold's training runs; the test runs took no part.
    untrained_model : Forecaster
        The control of :func:`titan_neuro.probing.tools.untrained.untrained_like`.
    test_runs : sequence of RunData
        The held-out runs.
    training_runs : sequence of RunData
        The runs of training and validation.
    set_aside_runs : sequence of RunData
        Runs of the study that no fold trains on or tests: those of the task in which the stimulus is retold.
    """

    model: Forecaster
    untrained_model: Forecaster
    test_runs: Sequence[RunData]
    training_runs: Sequence[RunData]
    set_aside_runs: Sequence[RunData] = ()


@dataclass(frozen=True, kw_only=True)
class ProbeSetup:
    """Properties of the study, and settings of its statistics, that all probes share.

    Attributes
    ----------
    repetition_time : float
        Seconds.
    horizons : tuple of int
        Lead times of the model's forecasts, in time points, ascending.
    n_features : int
        Voxels inside the mask, or parcels.
    n_permutations : int
        Permutations of each test.
    n_resamples : int
        Resamples of each bootstrap.
    seed : int
        Seed of permutations and bootstraps.
    """

    repetition_time: float
    horizons: tuple[int, ...]
    n_features: int
    n_permutations: int
    n_resamples: int
    seed: int

    def in_time_points(self, seconds: float) -> int:
        """Return a duration in whole time points, at least 1."""
        return max(1, round(seconds / self.repetition_time))


@dataclass(frozen=True, kw_only=True)
class ProbeResults:
    """Results of one probe.

    Attributes
    ----------
    summary : str
        At most two sentences: the result, what it is compared with, and what it does not show.
    tables : dict of str to pandas.DataFrame
        By BIDS suffix: ``scores`` (columns `SCORES`), ``curve``, ...
    maps : dict of str to (numpy.ndarray, dict)
        By ``stat``: values ``(features,)``, NaN where there is none, and JSON for the sidecar.
    metadata : dict
        JSON for the sidecar of each table: what was measured, how it was tested, what the columns are.
    """

    summary: str
    tables: Mapping[str, pd.DataFrame]
    maps: Mapping[str, tuple[np.ndarray, Mapping[str, Any]]] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Probe(Protocol):
    """A probe collects measures of held-out runs, one run at a time, and then summarizes them."""

    def add(self, fold: ProbedFold, run: RunData) -> None:
        """Measure one held-out run of a fold; the runs of a fold are added one after the other."""
        ...

    def results(self) -> ProbeResults:
        """Return the results over all runs that were added."""
        ...


def score_row(measure: str, condition: str, **values: Any) -> dict[str, Any]:
    """Return one row of a `scores` table.

    Parameters
    ----------
    measure, condition : str
    **values
        Other columns of `SCORES`; those not given are NaN (`is_control`: False, `n_subjects`: 0).

    Raises
    ------
    TypeError
        A column that is not in `SCORES`.
    """
    unknown = set(values) - set(SCORES)
    if unknown:
        raise TypeError(f"score_row: unknown columns {sorted(unknown)}")
    row = {**dict.fromkeys(SCORES, float("nan")), "is_control": False, "n_subjects": 0}
    return {**row, "measure": measure, "condition": condition, **values}


def scores_table(rows: Sequence[Mapping[str, Any]], *, measure: str, condition: str, x: float = np.nan) -> pd.DataFrame:
    """Make a `scores` table of rows; without any, one row of this measure and condition has no value."""
    return pd.DataFrame(rows or [score_row(measure, condition, x=x)], columns=list(SCORES))


def paired_row(measure: str, condition: str, values: np.ndarray, setup: ProbeSetup, *, x: float) -> dict[str, Any]:
    """Return the row of a difference within subjects, tested by flipping the signs of subjects.

    Parameters
    ----------
    measure, condition : str
    values : numpy.ndarray
        Finite, ``(subjects,)``: the measure less its control. One subject has no test.
    setup : ProbeSetup
    x : float
    """
    draws = {"n_permutations": setup.n_permutations, "seed": setup.seed}
    low, high = bootstrap_interval(values, n_resamples=setup.n_resamples, seed=setup.seed)
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
    measure: str, condition: str, values: np.ndarray, null: np.ndarray, setup: ProbeSetup, **columns: Any
) -> dict[str, Any]:
    """Return the row of a mean over subjects beside its null distribution.

    Parameters
    ----------
    measure, condition : str
    values : numpy.ndarray
        Finite, ``(subjects,)``.
    null : numpy.ndarray
        Means over subjects under permutation, ``(permutations,)``; without permutations there is no test.
    setup : ProbeSetup
    **columns
        Other columns of `SCORES`.
    """
    low, high = bootstrap_interval(values, n_resamples=setup.n_resamples, seed=setup.seed)
    value = float(values.mean())
    tested: dict[str, float] = {}
    if len(null):
        null_low, null_high = np.quantile(null, (0.025, 0.975))
        tested = {"null": float(null.mean()), "null_low": float(null_low), "null_high": float(null_high)}
        # Sums of the same numbers in another order differ by rounding, and must count as equal.
        tested["p"] = p_of_null(value - 1e-9, null)
    shared = {"value": value, "low": low, "high": high, "n_subjects": len(values)}
    return score_row(measure, condition, **shared, **tested, **columns)


def corrected_p_map(values: np.ndarray, setup: ProbeSetup) -> np.ndarray:
    """Test in which features the mean over subjects lies above 0, by flipping the signs of subjects.

    Parameters
    ----------
    values : numpy.ndarray
        ``(subjects, features)``.
    setup : ProbeSetup

    Returns
    -------
    numpy.ndarray
        ``(features,)``: one-sided p, corrected for the false discovery rate over features; NaN where a subject has no
        finite value, and throughout with one subject.
    """
    p, finite = np.full(values.shape[1], np.nan), np.isfinite(values).all(axis=0)
    if len(values) > 1 and finite.any():
        p[finite] = sign_flip_test(values[:, finite], n_permutations=setup.n_permutations, seed=setup.seed)
    return corrected_over_map(p)


def signed(value: float, decimals: int = 3) -> str:
    """Return a difference as it stands in a summary; adding 0 removes the minus of a rounded zero."""
    return f"{round(float(value), decimals) + 0:+.{decimals}f}"


def describe_p(p: float) -> str:
    """Return a p value as it stands in a summary."""
    return f"p = {p:.2g}" if np.isfinite(p) else "not tested"
