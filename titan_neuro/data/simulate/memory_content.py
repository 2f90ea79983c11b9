"""What only a memory can predict: associations that differ between subjects, and delayed responses to random sources.

**Associations.** Cues appear at random seconds of the stimulus. Each cue shows one of ``n_associations`` patterns over
the voxels of the ventral stream, for three volumes; or, with ``cue_source = "story"``, they are the characters of the
story, each shown as long as the scenes are in which it returns, at the same time to all subjects. Its response, a
pattern over the dorsal stream, begins ``association_lag_s`` later. All subjects share both sets of patterns, so a model
may learn the patterns from other subjects. Which response belongs to which cue is a random permutation of each subject,
the same in all of its runs. The patterns of a set add up to zero, so the mean over the possible responses is zero: the
pairs of other subjects do not help to predict a response, one earlier pair of the same subject determines it.

**Delayed responses.** Standard normal numbers ``w_j(t)``, new in each subject, run and second, are the strengths of the
source patterns, which lie over the left half of the middle stream. ``lag`` seconds later the same ``w_j`` are the
strengths of other patterns, over the right half of that stream; each of several lags has its own part of that half,
from the back to the front. The patterns are the same in all subjects, the strengths are not. A model without a clock
can predict them, too: it finds the delayed response of this moment among the earlier sources, and the source that
followed is the next delayed response.

Each voxel of a set has variance 1 from it, in expectation, while the stimulus runs. No responses come in the first
``lag`` seconds; delayed responses follow sources from before the stimulus, which are never shown. With both turned
off, the same seed gives the same values of everything else: the control dataset differs in this alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from titan_neuro.data.simulate.config import RandomStream, RunDesign, SimulateConfig
from titan_neuro.data.simulate.fields import smooth_fields
from titan_neuro.data.simulate.scenes import draw_scenes, shown_scenes

N_SOURCE_PATTERNS = 16
_PULSE = np.array([0.5, 1.0, 0.5])
_SMOOTH_MM = 12.0
_VENTRAL, _MIDDLE, _DORSAL = 0, 1, 2
# The order decides the random numbers of each.
_PATTERN_KINDS = ("cue", "response", "source", "delayed")
_ASSOCIATION_SETS = ("cue", "response")


class Cue(NamedTuple):
    """A cue as it is shown: its first volume, its index from 0, and its duration in volumes."""

    volume: int
    cue: int
    n_volumes: int


@dataclass(frozen=True, kw_only=True)
class MemoryContent:
    """The associations and delayed responses of a synthetic dataset.

    Attributes
    ----------
    config : SimulateConfig
        At least one of `association_fraction` and `delayed_response_fraction` is above 0.
    regions : numpy.ndarray
        Region of each voxel as `assign_regions` counts, ``(voxels,)``.
    coordinates_mm : numpy.ndarray
        World coordinates of the voxels in the template's space, ``(voxels, 3)``.
    """

    config: SimulateConfig
    regions: np.ndarray
    coordinates_mm: np.ndarray

    @cached_property
    def voxel_sets(self) -> dict[str, np.ndarray]:
        """Bool masks ``(voxels,)`` of each set: cue, response, source, delayed-1, delayed-2, ... (in order of lag)."""
        config = self.config
        stream = self.regions // len(config.timescales_s)
        x, y = self.coordinates_mm[:, 0], self.coordinates_mm[:, 1]
        voxel_sets: dict[str, np.ndarray] = {}
        if config.association_fraction > 0:
            voxel_sets |= {"cue": stream == _VENTRAL, "response": stream == _DORSAL}
        if config.delayed_response_fraction > 0:
            voxel_sets["source"] = (stream == _MIDDLE) & (x < 0)
            right = np.flatnonzero((stream == _MIDDLE) & (x >= 0))
            from_the_back = right[np.argsort(y[right], kind="stable")]
            for index, voxels in enumerate(np.array_split(from_the_back, len(config.delayed_response_lags_s))):
                voxel_sets[f"delayed-{index + 1}"] = np.isin(np.arange(len(stream)), voxels)
        return voxel_sets

    @cached_property
    def patterns(self) -> np.ndarray:
        """Patterns of all sets, ``(patterns, voxels)``, in the order of `voxel_sets`."""
        return np.concatenate(list(self.patterns_by_set().values()))

    def patterns_by_set(self) -> dict[str, np.ndarray]:
        """Patterns of each of `voxel_sets`, ``(patterns, voxels)``, zero outside its voxels.

        In each voxel the mean square over a set of associations, or the sum of squares over a set of sources or delayed
        responses, is 1.
        """
        rng = self.config.rng(RandomStream.PATTERNS)
        counts = dict(zip(_PATTERN_KINDS, [self.config.n_associations] * 2 + [N_SOURCE_PATTERNS] * 2, strict=True))
        # Generators of all kinds are made, used or not: associations are the same with delayed responses and without.
        generators = dict(zip(_PATTERN_KINDS, rng.spawn(len(_PATTERN_KINDS)), strict=True))
        patterns = {}
        for name, voxels in self.voxel_sets.items():
            kind = name.split("-")[0]
            fields = smooth_fields(generators[kind], self.coordinates_mm[voxels], _SMOOTH_MM, counts[kind])
            if kind in _ASSOCIATION_SETS:
                fields -= fields.mean(0)
                fields /= np.sqrt((fields**2).mean(0))
            else:
                fields /= np.sqrt((fields**2).sum(0))
            patterns[name] = np.zeros((counts[kind], len(voxels)))
            patterns[name][:, voxels] = fields
        return patterns

    @cached_property
    def variance_fraction(self) -> np.ndarray:
        """Fraction of each voxel's variance that is simulated here, ``(voxels,)``."""
        fraction = np.zeros(len(self.regions))
        for name, voxels in self.voxel_sets.items():
            fraction[voxels] = self._fraction(name)
        return fraction

    def pairing(self, subject: int) -> np.ndarray:
        """Index of the response that this subject pairs with each cue, ``(n_associations,)``, from 0."""
        return self.config.rng(RandomStream.PAIRING, subject).permutation(self.config.n_associations)

    def cues(self, subject: int, run: RunDesign) -> list[Cue]:
        """Cues of a run in their order."""
        if self.config.cue_source == "story":
            scenes = draw_scenes(self.config)
            characters = [(scenes[index].character, first, stop) for index, first, stop in shown_scenes(scenes, run)]
            return [Cue(first, which, stop - first) for which, first, stop in characters if which is not None]
        rng = self.config.rng(RandomStream.CUES, subject, run.run)
        onsets = np.flatnonzero(rng.random(run.stimulus) < 1 / self.config.cue_interval_s)
        cues = rng.integers(self.config.n_associations, size=len(onsets))
        shown = zip(onsets, cues, strict=True)
        return [Cue(run.fixation + int(second), int(cue), len(_PULSE)) for second, cue in shown]

    def source_strengths(self, subject: int, run: RunDesign) -> np.ndarray:
        """Strengths of the source patterns, ``(longest lag + seconds of stimulus, N_SOURCE_PATTERNS)``.

        The first ``longest lag`` rows lie before the stimulus: they are never shown, but have delayed responses.
        """
        rng = self.config.rng(RandomStream.SOURCES, subject, run.run)
        return rng.standard_normal((max(self.config.delayed_response_lags_s) + run.stimulus, N_SOURCE_PATTERNS))

    def time_courses(self, subject: int, run: RunDesign) -> np.ndarray:
        """Strength of each of `patterns` at each volume, ``(n_volumes, patterns)``; zero during fixation."""
        strengths = []
        if self.config.association_fraction > 0:
            strengths += self._association_strengths(subject, run)
        if self.config.delayed_response_fraction > 0:
            sources = self.source_strengths(subject, run)
            before = max(self.config.delayed_response_lags_s)
            lags = (0, *self.config.delayed_response_lags_s)
            strengths += [sources[before - lag : before - lag + run.stimulus] for lag in lags]
        fractions = [self._fraction(name) for name in self.voxel_sets]
        scaled = [np.sqrt(fraction) * part for fraction, part in zip(fractions, strengths, strict=True)]
        time_courses = np.zeros((run.n_volumes, sum(part.shape[1] for part in strengths)))
        time_courses[run.fixation : run.fixation + run.stimulus] = np.concatenate(scaled, axis=1)
        return time_courses

    def _fraction(self, name: str) -> float:
        is_association = name in _ASSOCIATION_SETS
        return self.config.association_fraction if is_association else self.config.delayed_response_fraction

    def _association_strengths(self, subject: int, run: RunDesign) -> list[np.ndarray]:
        pairing, lag, is_story = self.pairing(subject), self.config.association_lag_s, self.config.cue_source == "story"
        shown = self.cues(subject, run)
        longest = max((cue.n_volumes for cue in shown), default=0)
        cues, responses = np.zeros((2, run.stimulus + lag + longest, self.config.n_associations))
        # The variance is 1, the patterns being independent and adding up to zero: one cue per `cue_interval_s` on
        # average, or one character at a time.
        pulse = _PULSE * np.sqrt(self.config.cue_interval_s / (_PULSE**2).sum())
        for volume, cue, n_volumes in shown:
            second, course = volume - run.fixation, np.ones(n_volumes) if is_story else pulse
            cues[second : second + n_volumes, cue] += course
            responses[second + lag : second + lag + n_volumes, pairing[cue]] += course
        return [cues[: run.stimulus], responses[: run.stimulus]]
