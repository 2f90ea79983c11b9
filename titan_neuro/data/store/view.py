"""A stored run restricted to the features of a study, as rows or on the grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from titan_neuro.data.space import Space
from titan_neuro.errors import MismatchError
from titan_neuro.typing import HIGH_MOTION_MM

if TYPE_CHECKING:
    import torch

    from titan_neuro.data.store.read import RunStore
    from titan_neuro.data.store.schema import Event


class RunView:
    """A stored run restricted to the features of a study: a :class:`titan_neuro.typing.RunData`.

    Parameters
    ----------
    store : RunStore
    space : Space
        The study's features; the store must contain all of them.

    Attributes
    ----------
    key, subject, stimulus, stimulus_start, n_time_points, scored
        As in :class:`RunStore`. A surrogate with phases of its own has no stimulus in common with any other run: its
        `stimulus` is its key, so that no intersubject average is made of noise.
    n_features : int
    high_motion : numpy.ndarray
        bool ``(time,)``: framewise displacement exceeds `HIGH_MOTION_MM`; False throughout if it is unknown.

    Raises
    ------
    MismatchError
        The store lies on another grid, or lacks features of `space`.
    """

    def __init__(self, store: RunStore, space: Space) -> None:
        self.store, self.space = store, space
        self.key, self.subject = store.key, store.subject
        self.n_time_points, self.scored = store.n_time_points, store.scored
        self.stimulus = store.key if store.record.get("surrogate") == "phase" else store.stimulus
        self.stimulus_start = store.stimulus_start
        displacement = store.framewise_displacement
        # NaN, at the first time point, compares as False.
        self.high_motion = (
            np.zeros(store.n_time_points, bool) if displacement is None else displacement > HIGH_MOTION_MM
        )
        self.n_features = space.n_features
        columns = space.columns_in(store.space)
        self._columns = None if len(columns) == store.space.n_features else columns
        self._voxels: dict[torch.device, torch.Tensor] = {}

    @property
    def repetition_time(self) -> float:
        """Seconds."""
        return self.store.repetition_time

    @property
    def displacement(self) -> np.ndarray | None:
        """Framewise displacement: float32 ``(time,)``, mm, NaN at time point 0; None if head motion is unknown."""
        return self.store.framewise_displacement

    @property
    def events(self) -> tuple[Event, ...]:
        """Events: onset and duration in seconds from the first time point (NaN: unknown), and the ``trial_type``."""
        return self.store.events

    @property
    def event_columns(self) -> dict[str, list[str]]:
        """Further columns of the events table: a text for each event, ``""`` where there is no value."""
        return self.store.event_columns

    @property
    def continuous(self) -> dict[str, np.ndarray]:
        """Columns of continuous tables at the time points: float32 ``(time,)`` by name, NaN where there is no value."""
        return self.store.continuous

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return time points ``start <= t < stop``: float32 ``(time, features)``, in standard deviations."""
        # Imported here: the preparation of runs needs no torch.
        import torch

        # torch widens float16 six times as fast as numpy does.
        return torch.from_numpy(self._series(start, stop)).float()

    def read_grid(self, start: int, stop: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return time points ``start <= t < stop`` on the grid: float32 ``(time, x, y, z)``, 0 outside the mask.

        Only the float16 values inside the mask are copied to `device`, about a ninth of the grid's bytes, and are
        scattered there. Use it for other libraries' models and for figures. Our forecasters use `read`: their decoder
        and loss need features, and their tokenizer scatters these with the mask of its checkpoint.

        Parameters
        ----------
        start, stop : int
        device : torch.device or str

        Raises
        ------
        MismatchError
            The run holds parcels.
        """
        mask = self.space.mask
        if mask is None:
            raise MismatchError(f"{self.key}: parcels have no grid.", "Read them with `read`.")
        import torch

        device = torch.device(device)
        values = torch.from_numpy(self._series(start, stop)).to(device)
        if device not in self._voxels:
            self._voxels[device] = torch.from_numpy(np.flatnonzero(mask)).to(device)
        shape = (len(values), mask.size)
        # numpy gets memory that the system has cleared; torch clears it again, which takes twice the time.
        grid = (
            torch.from_numpy(np.zeros(shape, np.float32)) if device.type == "cpu" else torch.zeros(shape, device=device)
        )
        return grid.index_copy_(1, self._voxels[device], values.float()).view(-1, *mask.shape)

    def _series(self, start: int, stop: int) -> np.ndarray:
        series = self.store.series(start, stop)
        return series if self._columns is None else series.take(self._columns, axis=1)
