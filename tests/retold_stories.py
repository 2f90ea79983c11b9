"""People who watch a story of scenes and retell some of them, with known reinstatement and known memory strength."""

import numpy as np
import torch

from titan_neuro.runs import InMemoryRun

N_FEATURES, N_SCENES, SCENE_TIME_POINTS, RETOLD_TIME_POINTS = 24, 16, 12, 6


class Story:
    """Scenes with a pattern each; `strength` is how much a subject's memory holds of each, standard normal.

    Parameters
    ----------
    seed : int
    reinstated : float
        Amplitude of a scene's pattern while it is retold; the noise has variance 1.
    decided : float
        Change of the log odds of being retold for one unit of strength; with 0 the strength has no part in it.
    """

    def __init__(self, seed=0, *, n_subjects=5, reinstated=1.0, decided=3.0, n_features=N_FEATURES):
        self.rng = np.random.default_rng(seed)
        self.patterns = self.rng.normal(size=(N_SCENES, n_features))
        self.strength = self.rng.normal(size=(n_subjects, N_SCENES))
        chance = 1 / (1 + np.exp(-decided * self.strength))
        self.is_retold = self.rng.random(chance.shape) < chance
        self.subjects = [f"{index + 1:02}" for index in range(n_subjects)]
        self.reinstated = reinstated

    def _run(self, subject, task, scenes, shown, lead=4):
        """Make a run that shows each scene for an equal part of `shown`, ``(time, features)``."""
        length = len(shown) // len(scenes)
        series = np.concatenate([self.rng.normal(size=(lead, shown.shape[1])), shown])
        tensor = torch.tensor(series / series.std(axis=0), dtype=torch.float32)
        run = InMemoryRun(tensor, np.ones(len(series), bool), f"sub-{subject}_task-{task}", subject, f"task-{task}")
        onsets = [float(lead + length * index) for index in range(len(scenes))]
        run.events = ((0.0, float(len(series)), task), *((onset, float(length), "scene") for onset in onsets))
        run.event_columns = {"scene": ["", *(str(scene + 1) for scene in scenes)]}
        return run

    def watching(self, index):
        """The person watches all scenes; the amplitude of all activity is e to the power of half the strength."""
        shown = np.repeat(self.patterns, SCENE_TIME_POINTS, axis=0)
        amplitudes = np.repeat(np.exp(self.strength[index] / 2), SCENE_TIME_POINTS)
        shown = (shown + self.rng.normal(size=shown.shape)) * amplitudes[:, None]
        return self._run(self.subjects[index], "film", np.arange(N_SCENES), shown)

    def retelling(self, index):
        """The person retells some of the scenes, in their order."""
        scenes = np.flatnonzero(self.is_retold[index])
        shown = self.reinstated * np.repeat(self.patterns[scenes], RETOLD_TIME_POINTS, axis=0)
        return self._run(self.subjects[index], "retelling", scenes, shown + self.rng.normal(size=shown.shape))

    def runs(self):
        """All runs of watching, and all of retelling."""
        indices = range(len(self.subjects))
        return [self.watching(index) for index in indices], [self.retelling(index) for index in indices]
