"""A run that lies in memory, for tests of whatever reads a :class:`titan_neuro.typing.RunData`."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class InMemoryRun:
    """Time points, float32 ``(time, features)``, and which are scored; the head lies still, and the stimulus begins at
    the first
    scored time point, unless said otherwise.
    """

    series: torch.Tensor
    scored: np.ndarray
    key: str = "sub-01_task-movie_run-02"
    subject: str = "01"
    stimulus: str = "task-movie_run-02"
    high_motion: np.ndarray | None = None
    stimulus_start: int | None = None

    def __post_init__(self):
        self.n_time_points, self.n_features = self.series.shape
        if self.high_motion is None:
            self.high_motion = np.zeros(self.n_time_points, dtype=bool)
        if self.stimulus_start is None:
            self.stimulus_start = int(self.scored.argmax())

    def read(self, start, stop):
        return self.series[start:stop]
