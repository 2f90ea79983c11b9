"""The closed-form forecasters that stand beside ours in every table, and the reference lines."""

from __future__ import annotations

from titan_neuro.baselines.analog import AnalogBaseline
from titan_neuro.baselines.autoregression import AutoregressionBaseline
from titan_neuro.baselines.groundwork import Groundwork
from titan_neuro.baselines.mean import TrainingMean
from titan_neuro.baselines.online_vector_autoregression import OnlineVectorAutoregressionBaseline
from titan_neuro.baselines.persistence import DampedPersistence, Persistence
from titan_neuro.baselines.references import OthersReference, Reference
from titan_neuro.baselines.vector_autoregression import VectorAutoregressionBaseline
from titan_neuro.typing import ForecastModel

ANALOG_WINDOWS = (20, 80, 160)


def make_baselines(horizons: tuple[int, ...], groundwork: Groundwork | None = None) -> list[ForecastModel]:
    """Make all baselines, unfitted, in the order of the table.

    They share what they have in common: fitted one after another on the same runs, it is made once.

    Parameters
    ----------
    horizons : tuple of int
        Frames ahead, ascending.
    groundwork : Groundwork, optional
        To be shared with the references.

    Returns
    -------
    list of ForecastModel
        mean, persistence, damped, ar, var, var-online, analog-20, -80, -160, soft-analog-20, -80, -160.
    """
    groundwork = groundwork or Groundwork(horizons)
    return [
        TrainingMean(horizons),
        Persistence(horizons),
        DampedPersistence(horizons),
        AutoregressionBaseline(horizons, groundwork),
        VectorAutoregressionBaseline(horizons, groundwork),
        OnlineVectorAutoregressionBaseline(horizons, groundwork),
        *(AnalogBaseline(horizons, window, is_soft=False, groundwork=groundwork) for window in ANALOG_WINDOWS),
        *(AnalogBaseline(horizons, window, is_soft=True, groundwork=groundwork) for window in ANALOG_WINDOWS),
    ]


def make_references(horizons: tuple[int, ...], groundwork: Groundwork | None = None) -> list[Reference]:
    """Make the reference lines, unfitted: ``others`` and ``others+ar``; see :class:`OthersReference`.

    Parameters
    ----------
    horizons : tuple of int
        Frames ahead, ascending.
    groundwork : Groundwork, optional
        To be shared with the baselines.

    Returns
    -------
    list of Reference
        Those that know the moment of the film.
    """
    return [
        OthersReference("others", TrainingMean(horizons)),
        OthersReference("others+ar", AutoregressionBaseline(horizons, groundwork)),
    ]


__all__ = [
    "ANALOG_WINDOWS",
    "AnalogBaseline",
    "AutoregressionBaseline",
    "DampedPersistence",
    "Groundwork",
    "OnlineVectorAutoregressionBaseline",
    "OthersReference",
    "Persistence",
    "Reference",
    "TrainingMean",
    "VectorAutoregressionBaseline",
    "make_baselines",
    "make_references",
]
