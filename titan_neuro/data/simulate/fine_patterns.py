"""What no linear model of voxels can use: fine patterns, whose kind is told by their power alone.

At each second of the stimulus the voxels of the ventral stream show one of three fine patterns: signs that alternate
from voxel to voxel along x, along y or along z. Each block of about 32 mm shows it with a sign of its own, + or -, at
random. After some seconds (4 on average, geometric) another pattern is drawn, and signs anew. ``fine_pattern_lag_s``
later the voxels of the dorsal stream show the response to the pattern: one of three smooth maps, which add up to zero.
Patterns, responses, and which belongs to which are the same in all subjects and runs; their order and the signs are new
in each run.

A pattern and its negative have the same response, and are equally frequent: the covariance of the response with every
voxel, and with every mean of voxels, is zero. So autoregressions and ridge regressions can't forecast the response, and
the stimulus memory can't, since the order is not that of the movie. An encoder that squares or rectifies what its
filters of a few voxels find, and then averages over a part of the brain, can.

With the fraction at 0, the same seed gives the same values of everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from titan_neuro.data.simulate.config import RandomStream, RunDesign, SimulateConfig
from titan_neuro.data.simulate.fields import smooth_fields

N_FINE_PATTERNS = 3
_SECONDS_SHOWN = 4
_BLOCK_MM = 32.0
_SMOOTH_MM = 12.0
_VENTRAL, _DORSAL = 0, 2


@dataclass(frozen=True, kw_only=True)
class FinePatterns:
    """The fine patterns of a synthetic dataset and their responses.

    Attributes
    ----------
    config : SimulateConfig
        `fine_pattern_fraction` is above 0.
    regions : numpy.ndarray
        Region of each voxel as `assign_regions` counts, ``(voxels,)``.
    coordinates_mm : numpy.ndarray
        World coordinates of the voxels, on a grid along the axes, ``(voxels, 3)``.
    """

    config: SimulateConfig
    regions: np.ndarray
    coordinates_mm: np.ndarray

    @cached_property
    def voxel_sets(self) -> dict[str, np.ndarray]:
        """Bool masks ``(voxels,)``: fine, response."""
        stream = self.regions // len(self.config.timescales_s)
        return {"fine": stream == _VENTRAL, "fine-response": stream == _DORSAL}

    @cached_property
    def patterns(self) -> np.ndarray:
        """Each fine pattern in each block, block by block, then the responses: ``(patterns, voxels)``."""
        return np.concatenate(list(self.patterns_by_set().values()))

    def patterns_by_set(self) -> dict[str, np.ndarray]:
        """Patterns of each of `voxel_sets`, ``(patterns, voxels)``, zero outside its voxels.

        Values of fine patterns are -1 and 1. In each voxel of the responses the mean of the patterns is 0, their mean
        square 1.
        """
        fine, response = self.voxel_sets.values()
        places = np.rint((self.coordinates_mm - self.coordinates_mm.min(0)) / self.config.voxel_size_mm).astype(int)
        side = max(2, round(_BLOCK_MM / self.config.voxel_size_mm))
        _, block = np.unique(places[fine] // side, axis=0, return_inverse=True)
        patterns = np.zeros((block.max() + 1, N_FINE_PATTERNS, len(places)))
        patterns[block, :, np.flatnonzero(fine)] = 1 - 2 * (places[fine] % 2)
        rng = self.config.rng(RandomStream.FINE_PATTERNS)
        fields = smooth_fields(rng, self.coordinates_mm[response], _SMOOTH_MM, N_FINE_PATTERNS)
        fields -= fields.mean(0)
        responses = np.zeros((N_FINE_PATTERNS, len(places)))
        responses[:, response] = fields / np.sqrt((fields**2).mean(0))
        return {"fine": patterns.reshape(-1, len(places)), "fine-response": responses}

    @cached_property
    def variance_fraction(self) -> np.ndarray:
        """Fraction of each voxel's variance that is simulated here, ``(voxels,)``."""
        fraction: np.ndarray = self.config.fine_pattern_fraction * np.any(list(self.voxel_sets.values()), axis=0)
        return fraction

    def sequence(self, subject: int, run: RunDesign) -> np.ndarray:
        """Index of the fine pattern at each second, from 0: ``(lag + seconds of stimulus,)``.

        The first ``lag`` seconds lie before the stimulus: their patterns are never shown, but have responses.
        """
        return self._draw(subject, run)[0]

    def time_courses(self, subject: int, run: RunDesign) -> np.ndarray:
        """Strength of each of `patterns` at each volume, ``(n_volumes, patterns)``; zero during fixation."""
        which, signs = self._draw(subject, run)
        is_shown = np.eye(N_FINE_PATTERNS)[which]
        shown = (signs[:, :, None] * is_shown[:, None]).reshape(len(which), -1)
        strengths = np.concatenate([shown[-run.stimulus :], is_shown[: run.stimulus]], axis=1)
        time_courses = np.zeros((run.n_volumes, strengths.shape[1]))
        scale = np.sqrt(self.config.fine_pattern_fraction)
        time_courses[run.fixation : run.fixation + run.stimulus] = scale * strengths
        return time_courses

    def _draw(self, subject: int, run: RunDesign) -> tuple[np.ndarray, np.ndarray]:
        """Draw pattern, ``(seconds,)``, and sign in each block, ``(seconds, blocks)``, at each second."""
        rng = self.config.rng(RandomStream.FINE_PATTERNS, subject, run.run)
        n_seconds = self.config.fine_pattern_lag_s + run.stimulus
        n_blocks = (len(self.patterns) - N_FINE_PATTERNS) // N_FINE_PATTERNS
        showing = np.cumsum(rng.random(n_seconds) < 1 / _SECONDS_SHOWN)
        which = rng.integers(N_FINE_PATTERNS, size=showing[-1] + 1)
        signs = rng.choice([-1.0, 1.0], size=(showing[-1] + 1, n_blocks))
        return which[showing], signs[showing]
