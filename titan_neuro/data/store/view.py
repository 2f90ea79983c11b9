"""A stored run as a study sees it: the features of its mask, as rows or on the grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from titan_neuro.data.space import Space
from titan_neuro.errors import MismatchError
from titan_neuro.typing import MOVING_MM

if TYPE_CHECKING:
    from titan_neuro.data.store.read import RunStore
    from titan_neuro.data.store.schema import Event


class RunView:
    """A stored run reduced to the features of a study: a :class:`titan_neuro.typing.FrameRun`.

    Parameters
    ----------
    store : RunStore
    space : Space
        Its features must all be in the store.
    """

    def __init__(self, store: RunStore, space: Space) -> None:
        self.store, self.space = store, space
        self.key, self.subject, self.n_frames, self.scored = store.key, store.subject, store.n_frames, store.scored
        self.stimulus, self.film_start = store.stimulus, store.film_start
        displacement = store.framewise_displacement
        # Not known is not moving: NaN (the first frame) compares as False.
        self.moving = np.zeros(store.n_frames, bool) if displacement is None else displacement > MOVING_MM
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
        """Framewise displacement: float32 ``(time,)``, mm from the frame before, NaN at frame 0; None: not known."""
        return self.store.framewise_displacement

    @property
    def events(self) -> tuple[Event, ...]:
        """Onset and duration in seconds from the first frame (NaN: unknown), and the ``trial_type``, of each event."""
        return self.store.events

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return frames ``start <= t < stop``: float32 ``(time, features)``, in standard deviations."""
        # torch widens float16 six times as fast as numpy does.
        return torch.from_numpy(self._frames(start, stop)).float()

    def read_grid(self, start: int, stop: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return frames ``start <= t < stop`` on the grid: float32 ``(time, x, y, z)``, 0 outside the mask.

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
        device = torch.device(device)
        values = torch.from_numpy(self._frames(start, stop)).to(device)
        if device not in self._voxels:
            self._voxels[device] = torch.from_numpy(np.flatnonzero(mask)).to(device)
        shape = (len(values), mask.size)
        # numpy takes pages that the system has cleared; torch clears all of them once more, which takes twice the time.
        grid = (
            torch.from_numpy(np.zeros(shape, np.float32)) if device.type == "cpu" else torch.zeros(shape, device=device)
        )
        return grid.index_copy_(1, self._voxels[device], values.float()).view(-1, *mask.shape)

    def _frames(self, start: int, stop: int) -> np.ndarray:
        frames = self.store.frames(start, stop)
        return frames if self._columns is None else frames.take(self._columns, axis=1)
