"""A story: scenes that all subjects watch, remember with different strength, and retell.

The movie is cut into scenes, of two storylines that alternate: each returns after the scenes of the other, which last a
minute or more at full length. A scene shows a pattern over the voxels of the upper half of the hierarchy, of which one
half (of the variance) belongs to its storyline and one half to the scene itself. All subjects share the patterns.

A subject's memory of a scene has a strength ``z``, standard normal, of which one half (of the variance) is shared by
all subjects. It shows twice:

- while the scene is watched: its pattern has the amplitude ``exp(z / 2)``, scaled to a mean square of 1;
- in the retelling, one run without a stimulus, for which the subject draws scenes with probability
  ``1 / (1 + exp(-memory_gain z))``. Retold scenes follow each other in their order, each shows its pattern again.

With ``memory_gain = 0`` scenes are drawn without regard to their strength, and with ``retelling_fraction = 0`` nothing
reappears: what a probe then finds is a false positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from titan_neuro.data.simulate.config import FIRST_STIMULUS_SECOND, RandomStream, RunDesign, SimulateConfig, run_designs
from titan_neuro.data.simulate.fields import smooth_fields

STORYLINES, PLACES = ("A", "B"), ("indoor", "outdoor")
COLUMNS = ("scene", "storyline", "place")
_SMOOTH_MM = 12.0
_SCENES_OF_A_STORYLINE = 4
_SHORTEST_S = 6
_RETOLD_S = (6, 12)


@dataclass(frozen=True)
class Scene:
    """One scene of the movie.

    Attributes
    ----------
    name : str
        Its number, from 1.
    start, stop : int
        Seconds of the movie, counted as in `RunDesign`; `stop` is exclusive.
    storyline, place : str
    """

    name: str
    start: int
    stop: int
    storyline: str
    place: str


@dataclass(frozen=True, kw_only=True)
class Story:
    """The story of a synthetic dataset.

    Attributes
    ----------
    config : SimulateConfig
        With a `story_fraction` above 0.
    regions : numpy.ndarray
        Region of each voxel as `assign_regions` counts, ``(voxels,)``.
    coordinates_mm : numpy.ndarray
        World coordinates of the voxels in the template's space, ``(voxels, 3)``.
    """

    config: SimulateConfig
    regions: np.ndarray
    coordinates_mm: np.ndarray

    @cached_property
    def scenes(self) -> list[Scene]:
        """Scenes of the movie: lengths are 6 s and an exponential rest, with the mean `scene_s`."""
        rng = self.config.rng(RandomStream.STORY)
        stop = max(run.stimulus_start + run.stimulus for run in run_designs(self.config))
        scenes, start = list[Scene](), FIRST_STIMULUS_SECOND
        while start < stop:
            number, place = len(scenes), PLACES[int(rng.integers(2))]
            length = _SHORTEST_S + int(rng.exponential(self.config.scene_s - _SHORTEST_S))
            # A rest that is too short for a scene belongs to the last one.
            end = start + length if start + length + _SHORTEST_S <= stop else stop
            storyline = STORYLINES[number // _SCENES_OF_A_STORYLINE % 2]
            scenes.append(Scene(str(number + 1), start, end, storyline, place))
            start = end
        return scenes

    @cached_property
    def voxels(self) -> np.ndarray:
        """Voxels that show the story: bool ``(voxels,)``, the upper half of the hierarchy."""
        n_levels = len(self.config.timescales_s)
        is_upper: np.ndarray = self.regions % n_levels >= n_levels // 2
        return is_upper

    @cached_property
    def patterns(self) -> np.ndarray:
        """Pattern of each scene, ``(scenes, voxels)``: in each voxel of the story the mean square over scenes is 1."""
        rng = self.config.rng(RandomStream.STORY, 1)
        n_fields = len(self.scenes) + len(STORYLINES)
        fields = smooth_fields(rng, self.coordinates_mm[self.voxels], _SMOOTH_MM, n_fields)
        of_storylines = fields[[STORYLINES.index(scene.storyline) - len(STORYLINES) for scene in self.scenes]]
        shown = np.sqrt(0.5) * (fields[: len(self.scenes)] + of_storylines)
        shown /= np.sqrt((shown**2).mean(0))
        patterns = np.zeros((len(self.scenes), len(self.regions)))
        patterns[:, self.voxels] = shown
        return patterns

    @cached_property
    def variance_fraction(self) -> np.ndarray:
        """Fraction of each voxel's variance that is simulated here, ``(voxels,)``."""
        return self.config.story_fraction * self.voxels

    def strength(self, subject: int) -> np.ndarray:
        """Strength of a subject's memory of each scene, ``(scenes,)``."""
        draws = (self.config.rng(RandomStream.STRENGTH, index) for index in (0, subject + 1))
        shared, own = (draw.standard_normal(len(self.scenes)) for draw in draws)
        strength: np.ndarray = np.sqrt(0.5) * (shared + own)
        return strength

    def retelling(self, subject: int) -> Retelling:
        """Draw which scenes a subject retells, and when."""
        rng = self.config.rng(RandomStream.RETELLING, subject)
        chance = 1 / (1 + np.exp(-self.config.memory_gain * self.strength(subject)))
        retold = np.flatnonzero(rng.random(len(self.scenes)) < chance)
        lengths = rng.integers(_RETOLD_S[0], _RETOLD_S[1] + 1, size=len(retold))
        return Retelling(story=self, scenes=tuple(retold.tolist()), lengths=tuple(lengths.tolist()))

    def time_courses(self, subject: int, run: RunDesign) -> np.ndarray:
        """Strength of each of `patterns` at each volume, ``(n_volumes, scenes)``; zero during fixation."""
        # The mean square of exp(z / 2) is exp(1 / 2).
        amplitudes = np.exp(self.strength(subject) / 2 - 0.25) * np.sqrt(self.config.story_fraction)
        time_courses = np.zeros((run.n_volumes, len(self.scenes)))
        for index, (first, stop) in self._shown(run):
            time_courses[first:stop, index] = amplitudes[index]
        return time_courses

    def events(self, run: RunDesign) -> list[tuple[float, float, str, Scene]]:
        """Scenes that a run shows: onset and duration (s), trial type, and the scene."""
        return [
            (float(first), float(stop - first), "scene", self.scenes[index])
            for index, (first, stop) in self._shown(run)
        ]

    def _shown(self, run: RunDesign) -> list[tuple[int, tuple[int, int]]]:
        """Volumes at which a run shows scenes: index of the scene; its first volume, and the one after its last."""
        shown = []
        for index, scene in enumerate(self.scenes):
            first, stop = (
                run.fixation + min(max(second - run.stimulus_start, 0), run.stimulus)
                for second in (scene.start, scene.stop)
            )
            if first < stop:
                shown.append((index, (first, stop)))
        return shown


@dataclass(frozen=True, kw_only=True)
class Retelling:
    """One subject's retelling: a run without a stimulus.

    Attributes
    ----------
    story : Story
    scenes : tuple of int
        Indices of the scenes that are retold, ascending.
    lengths : tuple of int
        Seconds for which each is retold.
    """

    story: Story
    scenes: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def design(self) -> RunDesign:
        """The run: a rest of ten seconds before and after it; its number is 0."""
        rest = 10
        return RunDesign(
            run=0, n_volumes=2 * rest + sum(self.lengths), fixation=rest, overlap=0, stimulus=0, stimulus_start=0
        )

    @property
    def patterns(self) -> np.ndarray:
        """Those of the story."""
        return self.story.patterns

    @property
    def variance_fraction(self) -> np.ndarray:
        """Fraction of each voxel's variance that the retelling shows, less that of the stimulus, ``(voxels,)``.

        Without a stimulus there is noise in its place.
        """
        config = self.story.config
        return config.retelling_fraction * self.story.voxels - config.stimulus_fraction

    def time_courses(self, subject: int, run: RunDesign) -> np.ndarray:
        """Strength of each of `patterns` at each volume, ``(n_volumes, scenes)``; `subject` is known already."""
        time_courses = np.zeros((run.n_volumes, len(self.story.scenes)))
        for onset, duration, _, scene in self.events(run):
            volumes = slice(int(onset), int(onset + duration))
            time_courses[volumes, int(scene.name) - 1] = np.sqrt(self.story.config.retelling_fraction)
        return time_courses

    def events(self, run: RunDesign) -> list[tuple[float, float, str, Scene]]:
        """Scenes as they are retold: onset and duration (s), trial type, and the scene."""
        onsets = run.fixation + np.cumsum([0, *self.lengths])
        return [
            (float(onset), float(length), "retelling", self.story.scenes[index])
            for onset, length, index in zip(onsets, self.lengths, self.scenes, strict=False)
        ]
