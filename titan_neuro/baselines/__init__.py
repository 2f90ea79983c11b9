"""The closed-form forecasters that stand beside ours in every table, and the reference lines."""

from __future__ import annotations

from titan_neuro.baselines.analog import AnalogBaseline
from titan_neuro.baselines.autoregression import AutoregressionBaseline
from titan_neuro.baselines.mean import TrainingMean
from titan_neuro.baselines.online_vector_autoregression import OnlineVectorAutoregressionBaseline
from titan_neuro.baselines.oracle_references import IntersubjectAverageReference, OracleReference
from titan_neuro.baselines.persistence import DampedPersistence, Persistence
from titan_neuro.baselines.shared_fits import SharedFits
from titan_neuro.baselines.vector_autoregression import VectorAutoregressionBaseline
from titan_neuro.typing import ForecastModel

ANALOG_WINDOWS = (20, 80, 160)


def make_baselines(horizons: tuple[int, ...], shared_fits: SharedFits | None = None) -> list[ForecastModel]:
    """Make all baselines, unfitted, in the order of the table.

    They share what they have in common: fitted one after another on the same runs, it is made once.

    Parameters
    ----------
    horizons : tuple of int
        Time points ahead, ascending.
    shared_fits : SharedFits, optional
        To be shared with the references.

    Returns
    -------
    list of ForecastModel
        mean, persistence, damped, ar, var, var-online, analog-20, -80, -160, soft-analog-20, -80, -160.
    """
    shared_fits = shared_fits or SharedFits(horizons)
    return [
        TrainingMean(horizons),
        Persistence(horizons),
        DampedPersistence(horizons),
        AutoregressionBaseline(horizons, shared_fits),
        VectorAutoregressionBaseline(horizons, shared_fits),
        OnlineVectorAutoregressionBaseline(horizons, shared_fits),
        *(AnalogBaseline(horizons, window, is_soft=False, shared_fits=shared_fits) for window in ANALOG_WINDOWS),
        *(AnalogBaseline(horizons, window, is_soft=True, shared_fits=shared_fits) for window in ANALOG_WINDOWS),
    ]


def make_oracle_references(horizons: tuple[int, ...], shared_fits: SharedFits | None = None) -> list[OracleReference]:
    """Make the reference lines, unfitted: ``intersubject-average`` and ``intersubject-average+ar``; see
    :class:`IntersubjectAverageReference`.

    Parameters
    ----------
    horizons : tuple of int
        Time points ahead, ascending.
    shared_fits : SharedFits, optional
        To be shared with the baselines.

    Returns
    -------
    list of OracleReference
        Those that know the moment of the stimulus.
    """
    return [
        IntersubjectAverageReference("intersubject-average", TrainingMean(horizons)),
        IntersubjectAverageReference("intersubject-average+ar", AutoregressionBaseline(horizons, shared_fits)),
    ]


__all__ = [
    "ANALOG_WINDOWS",
    "AnalogBaseline",
    "AutoregressionBaseline",
    "DampedPersistence",
    "IntersubjectAverageReference",
    "OnlineVectorAutoregressionBaseline",
    "Persistence",
    "OracleReference",
    "SharedFits",
    "TrainingMean",
    "VectorAutoregressionBaseline",
    "make_baselines",
    "make_oracle_references",
]
