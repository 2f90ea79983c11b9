"""A story: scenes that all subjects watch, remember with different strength, and retell.

The movie is cut into scenes, of two storylines that alternate: each returns after the scenes of the other, which last a
minute or more at full length. A scene shows a pattern over the voxels of the upper half of the hierarchy, of which one
half (of the variance) belongs to its storyline and one half to the scene itself. All subjects share the patterns.

A subject's memory of a scene has a strength ``z``, standard normal, of which one half (of the variance) is shared by
all subjects. It shows twice:

- while the scene is watched: its pattern has the amplitude ``exp(z / 2)``, scaled to a mean square of 1; and with an
  ``engagement`` above 0 the regions of the story follow the movie with only ``1 / (1 + exp(-engagement z))`` of the
  variance that the movie has elsewhere, the rest being the subject's own activity (scenes that are remembered are those
  at which people's brains are alike: Hasson et al., Neuron 57, 452, 2008);
- in the retelling, one run without a stimulus, for which the subject draws scenes with probability
  ``1 / (1 + exp(-memory_gain z))``. Retold scenes follow each other in their order, each shows its pattern again.

With ``cue_source = "story"`` each scene also shows a character: see `titan_neuro.data.simulate.memory_content`.

With ``memory_gain = 0`` scenes are drawn without regard to their strength, and with ``retelling_fraction = 0`` nothing
reappears: what a probe then finds is a false positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from titan_neuro.data.simulate.config import RandomStream, RunDesign, SimulateConfig
from titan_neuro.data.simulate.fields import smooth_fields
from titan_neuro.data.simulate.scenes import STORYLINES, Scene, draw_scenes, shown_scenes

_SMOOTH_MM = 12.0
_RETOLD_S = (6, 12)


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
        """Scenes of the movie."""
        return draw_scenes(self.config)

    @cached_property
    def voxels(self) -> np.ndarray:
        """Voxels that show the story: bool ``(voxels,)``, the upper half of the hierarchy."""
        n_levels = len(self.config.timescales_s)
        is_upper: np.ndarray = self.regions % n_levels >= n_levels // 2
        return is_upper & (self.regions < self.config.n_driven_regions)

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
        for index, first, stop in shown_scenes(self.scenes, run):
            time_courses[first:stop, index] = amplitudes[index]
        return time_courses

    def followed(self, subject: int, run: RunDesign) -> np.ndarray | None:
        """How much of the movie's variance follows the movie, a fraction, ``(n_volumes, regions)``; None: all of it."""
        config, n_levels = self.config, len(self.config.timescales_s)
        if config.engagement == 0:
            return None
        in_story = np.arange(config.n_driven_regions) % n_levels >= n_levels // 2
        followed = np.ones((run.n_volumes, config.n_driven_regions))
        chance = 1 / (1 + np.exp(-config.engagement * self.strength(subject)))
        for index, first, stop in shown_scenes(self.scenes, run):
            followed[first:stop, in_story] = chance[index]
        return followed

    def events(self, run: RunDesign) -> list[tuple[float, float, str, Scene]]:
        """Scenes that a run shows: onset and duration (s), trial type, and the scene."""
        return [
            (float(first), float(stop - first), "scene", self.scenes[index])
            for index, first, stop in shown_scenes(self.scenes, run)
        ]


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
        is_driven = self.story.regions < config.n_driven_regions
        return config.retelling_fraction * self.story.voxels - config.stimulus_fraction * is_driven

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
