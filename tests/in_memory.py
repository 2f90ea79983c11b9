"""A run that lies in memory, for tests of whatever reads a :class:`titan_neuro.typing.FrameRun`."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class InMemoryRun:
    """Frames, float32 ``(time, features)``, and which are scored; the head lies still, and the film begins at the first
    scored frame, unless said otherwise.
    """

    frames: torch.Tensor
    scored: np.ndarray
    key: str = "sub-01_task-movie_run-02"
    subject: str = "01"
    stimulus: str = "task-movie_run-02"
    moving: np.ndarray | None = None
    film_start: int | None = None

    def __post_init__(self):
        self.n_frames, self.n_features = self.frames.shape
        if self.moving is None:
            self.moving = np.zeros(self.n_frames, dtype=bool)
        if self.film_start is None:
            self.film_start = int(self.scored.argmax())

    def read(self, start, stop):
        return self.frames[start:stop]
