"""Closed-form forecasters that stand beside the study's model in every table, and the oracle references.

A new baseline is one class in a file of its own, derived from :class:`Baseline`, and one line in `_BASELINES`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from titan_neuro.baselines.analog import AnalogBaseline
from titan_neuro.baselines.autoregression import AutoregressionBaseline
from titan_neuro.baselines.base import Baseline
from titan_neuro.baselines.mean import TrainingMean
from titan_neuro.baselines.online_autoregression import OnlineAutoregressionBaseline
from titan_neuro.baselines.online_vector_autoregression import (
    LinearOnlineBaseline,
    OnlineVectorAutoregressionBaseline,
)
from titan_neuro.baselines.oracle_references import IntersubjectAverageReference, OracleReference
from titan_neuro.baselines.persistence import DampedPersistence, Persistence
from titan_neuro.baselines.shared_fits import SharedFits
from titan_neuro.baselines.vector_autoregression import VectorAutoregressionBaseline
from titan_neuro.typing import ForecastModel

ANALOG_WINDOWS = (20, 80, 160)

# In the order of the table.
_BASELINES: tuple[Callable[[tuple[int, ...], SharedFits], Baseline[Any]], ...] = (
    TrainingMean,
    Persistence,
    DampedPersistence,
    AutoregressionBaseline,
    VectorAutoregressionBaseline,
    OnlineVectorAutoregressionBaseline,
    LinearOnlineBaseline,
    *(partial(AnalogBaseline, window=window, is_soft=False) for window in ANALOG_WINDOWS),
    *(partial(AnalogBaseline, window=window, is_soft=True) for window in ANALOG_WINDOWS),
)


def make_baselines(horizons: tuple[int, ...], shared_fits: SharedFits | None = None) -> list[ForecastModel]:
    """Make all baselines, not fitted yet.

    What several of them need is fitted once, when they are fitted one after another on the same runs.

    Parameters
    ----------
    horizons : tuple of int
        Lead times in time points, ascending.
    shared_fits : SharedFits, optional
        To be shared with the references.

    Returns
    -------
    list of ForecastModel
        In the order of the table.
    """
    shared_fits = shared_fits or SharedFits(horizons)
    return [make(horizons, shared_fits) for make in _BASELINES]


def make_oracle_references(horizons: tuple[int, ...], shared_fits: SharedFits | None = None) -> list[OracleReference]:
    """Make the oracle references, not fitted yet: the intersubject average alone, and with autoregression.

    Parameters
    ----------
    horizons : tuple of int
        Lead times in time points, ascending.
    shared_fits : SharedFits, optional
        To be shared with the baselines.

    Returns
    -------
    list of OracleReference
        In the order of the table.
    """
    return [
        IntersubjectAverageReference(TrainingMean(horizons, shared_fits)),
        IntersubjectAverageReference(AutoregressionBaseline(horizons, shared_fits)),
    ]


__all__ = [
    "ANALOG_WINDOWS",
    "AnalogBaseline",
    "AutoregressionBaseline",
    "Baseline",
    "DampedPersistence",
    "IntersubjectAverageReference",
    "LinearOnlineBaseline",
    "OnlineAutoregressionBaseline",
    "OnlineVectorAutoregressionBaseline",
    "OracleReference",
    "Persistence",
    "SharedFits",
    "TrainingMean",
    "VectorAutoregressionBaseline",
    "make_baselines",
    "make_oracle_references",
]
