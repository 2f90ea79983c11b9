"""What all baselines have in common: their parameters, and the interface by which they read a run as a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from torch import Tensor

from titan_neuro.baselines.shared_fits import SharedFits
from titan_neuro.errors import TrainingError
from titan_neuro.typing import RunData

State = TypeVar("State")


class Baseline(ABC, Generic[State]):
    """A closed-form forecaster, fitted on the training runs; keeps :class:`titan_neuro.typing.ForecastModel`.

    Parameters
    ----------
    horizons : tuple of int
        Lead times in time points, ascending, each at least 1.
    shared_fits : SharedFits, optional
        Fits that several baselines of one table have in common; by default this baseline's own.

    Attributes
    ----------
    name : str
        Row of the table.
    horizons : tuple of int
        Lead times in time points.
    shared_fits : SharedFits
    """

    name: str

    def __init__(self, horizons: tuple[int, ...], shared_fits: SharedFits | None = None) -> None:
        self.horizons = horizons
        self.shared_fits = shared_fits or SharedFits(horizons)

    @abstractmethod
    def fit(self, runs: Sequence[RunData]) -> None:
        """Fit to the training runs.

        Raises
        ------
        TrainingError
            No run, or too few scored time points.
        MismatchError
            The runs differ in their number of features.
        """

    @abstractmethod
    def init_state(self) -> State:
        """State before the first time point of a run."""

    @abstractmethod
    def step(self, series: Tensor, state: State) -> tuple[Tensor, State]:
        """Read the next block of a run, and forecast from each of its time points.

        Parameters
        ----------
        series : torch.Tensor
            float32 ``(time, features)``, z-scored.
        state : State
            From `init_state` or the block before; not changed.

        Returns
        -------
        forecasts : torch.Tensor
            float32 ``(time, horizons, features)``: entry ``[t, k]`` forecasts time point ``t + horizons[k]``.
        state : State
            State after the block.
        """


class StatelessBaseline(Baseline[None]):
    """A baseline whose forecasts depend on the present time point at most."""

    def init_state(self) -> None:
        """No state."""


def require_rows(n_rows: int, runs: Sequence[RunData], condition: str = "") -> None:
    """Refuse training runs without a scored time point to fit on.

    Parameters
    ----------
    n_rows : int
        Scored time points that were counted.
    runs : sequence of RunData
        The training runs.
    condition : str
        What had to be true of a time point besides, for the message.

    Raises
    ------
    TrainingError
        `n_rows` is 0.
    """
    if n_rows == 0:
        raise TrainingError(
            f"None of the {len(runs)} training runs has a scored time point{condition}.",
            "Check the events that mark scored time points.",
        )
