"""A stored run as a study sees it: the features of its mask, as rows or on the grid."""

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
    """A stored run reduced to the features of a study: a :class:`titan_neuro.typing.RunData`.

    Parameters
    ----------
    store : RunStore
    space : Space
        Its features must all be in the store.
    """

    def __init__(self, store: RunStore, space: Space) -> None:
        self.store, self.space = store, space
        self.key, self.subject, self.n_time_points, self.scored = (
            store.key,
            store.subject,
            store.n_time_points,
            store.scored,
        )
        self.stimulus, self.stimulus_start = store.stimulus, store.stimulus_start
        displacement = store.framewise_displacement
        # Not known is not moving: NaN (the first time point) compares as False.
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
        """Framewise displacement: float32 ``(time,)``, mm from the time point before, NaN at time point 0; None: not
        known.
        """
        return self.store.framewise_displacement

    @property
    def events(self) -> tuple[Event, ...]:
        """Onset and duration in seconds from the first time point (NaN: unknown), and the ``trial_type``, of each
        event.
        """
        return self.store.events

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return time points ``start <= t < stop``: float32 ``(time, features)``, in standard deviations."""
        # Imported here: the preparation of runs needs no torch.
        import torch

        # torch widens float16 six times as fast as numpy does.
        return torch.from_numpy(self._series(start, stop)).float()

    def read_grid(self, start: int, stop: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return time points ``start <= t < stop`` on the grid: float32 ``(time, x, y, z)``, 0 outside the mask.

        What travels to `device` are the float16 values inside the mask, a ninth of the grid's bytes in a brain of
        common size; they are put in their places there. This is for who wants volumes: models of other makers, or
        pictures. Our forecasters want features, the input of decoder and loss too: they take `read`, and their
        tokenizer scatters by the mask that their checkpoint holds.

        Raises
        ------
        MismatchError
            The run holds parcels.
        """
        mask = self.space.mask
        if mask is None:
            raise MismatchError(f"{self.key}: parcel values have no grid to be put on.", "Read them with `read`.")
        import torch

        device = torch.device(device)
        values = torch.from_numpy(self._series(start, stop)).to(device)
        if device not in self._voxels:
            self._voxels[device] = torch.from_numpy(np.flatnonzero(mask)).to(device)
        shape = (len(values), mask.size)
        # numpy takes pages that the system has cleared; torch clears all of them once more, which takes twice the time.
        grid = (
            torch.from_numpy(np.zeros(shape, np.float32)) if device.type == "cpu" else torch.zeros(shape, device=device)
        )
        return grid.index_copy_(1, self._voxels[device], values.float()).view(-1, *mask.shape)

    def _series(self, start: int, stop: int) -> np.ndarray:
        series = self.store.series(start, stop)
        return series if self._columns is None else series.take(self._columns, axis=1)
