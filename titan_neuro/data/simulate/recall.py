"""What only a memory can predict: associations that are new in every subject, and delayed responses of news long past.

**Associations.** Cues come at random seconds of the movie and each shows one of ``n_associations`` patterns over the
voxels of the ventral stream, for three volumes. Its response, a pattern over the dorsal stream, begins
``association_lag_s`` later. Both sets of patterns are the same in all subjects, so a model may learn what they look
like; which response belongs to which cue is a permutation drawn anew in each subject, and holds in all of its runs.
The patterns of a set add up to zero, so the mean over the possible responses is none: what was seen in other subjects
tells nothing, and a pair seen once in this subject tells all.

**Echoes.** Standard normal news ``w_j(t)``, drawn anew for each subject, run and second, show as patterns over the left
half of the middle stream, and again ``lag`` seconds later, to the same ``w_j``, as other patterns over its right half;
with several lags each has its own part of that half, from the back to the front. The patterns are the same in all
subjects, the news is not. Without a clock it can be predicted too: what the echo shows now was in the news, and what
the news showed next is what the echo shows next.

Every voxel of a set has variance 1 from it, in expectation, while the movie runs. In the first ``lag`` seconds no
responses come, and the delayed responses are of news that was never shown. Without them, at the same seed, everything
else is drawn as it was: the control differs in this alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from titan_neuro.data.simulate.config import Draw, Screening, SimulateConfig
from titan_neuro.data.simulate.fields import smooth_fields

DELAYED_RESPONSE_PATTERNS = 16
_BUMP = np.array([0.5, 1.0, 0.5])
_SMOOTH_MM = 12.0
_VENTRAL, _MIDDLE, _DORSAL = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Recall:
    """What is planted for a memory, and where.

    Attributes
    ----------
    config : SimulateConfig
        What is planted; at least one of the two has a fraction above 0.
    regions : numpy.ndarray
        Region of each voxel as `assign_regions` counts, ``(voxels,)``.
    coordinates_mm : numpy.ndarray
        World coordinates of the voxels in the template's space, ``(voxels, 3)``.
    """

    config: SimulateConfig
    regions: np.ndarray
    coordinates_mm: np.ndarray

    @cached_property
    def places(self) -> dict[str, np.ndarray]:
        """Voxels of each set by name, as masks ``(voxels,)``: cue, response, news, echo-1, echo-2, ... (by lag)."""
        config = self.config
        stream = self.regions // len(config.timescales_s)
        x, y = self.coordinates_mm[:, 0], self.coordinates_mm[:, 1]
        places: dict[str, np.ndarray] = {}
        if config.association_fraction > 0:
            places |= {"cue": stream == _VENTRAL, "response": stream == _DORSAL}
        if config.delayed_response_fraction > 0:
            places["news"] = (stream == _MIDDLE) & (x < 0)
            echoing = np.flatnonzero((stream == _MIDDLE) & (x >= 0))
            from_the_back = echoing[np.argsort(y[echoing], kind="stable")]
            for index, part in enumerate(np.array_split(from_the_back, len(config.delayed_response_lags_s))):
                places[f"echo-{index + 1}"] = np.isin(np.arange(len(stream)), part)
        return places

    @cached_property
    def patterns(self) -> np.ndarray:
        """Patterns of all sets, ``(patterns, voxels)``, in the order of `places`."""
        return np.concatenate(list(self.patterns_by_set().values()))

    def patterns_by_set(self) -> dict[str, np.ndarray]:
        """Patterns of each of `places`, ``(patterns, voxels)``, zero outside its voxels.

        The mean square over a set of associations, or the sum of squares over a set of delayed responses, is 1 in each
        voxel.
        """
        rng = self.config.rng(Draw.PATTERNS)
        names = ("cue", "response", "news", "delayed_response")
        counts = dict(zip(names, [self.config.n_associations] * 2 + [DELAYED_RESPONSE_PATTERNS] * 2, strict=True))
        # All are drawn, whatever is planted: associations look the same with delayed responses and without.
        generators = dict(zip(names, rng.spawn(len(names)), strict=True))
        patterns = {}
        for place, voxels in self.places.items():
            name = place.split("-")[0]
            drawn = np.zeros((counts[name], len(voxels)))
            fields = smooth_fields(generators[name], self.coordinates_mm[voxels], _SMOOTH_MM, counts[name])
            if name in {"cue", "response"}:
                fields -= fields.mean(0)
                fields /= np.sqrt((fields**2).mean(0))
            else:
                fields /= np.sqrt((fields**2).sum(0))
            drawn[:, voxels] = fields
            patterns[place] = drawn
        return patterns

    @cached_property
    def share(self) -> np.ndarray:
        """Part of each voxel's variance that is planted here, ``(voxels,)``."""
        share = np.zeros(len(self.regions))
        for place, voxels in self.places.items():
            share[voxels] = self._fraction(place)
        return share

    def _fraction(self, place: str) -> float:
        return (
            self.config.association_fraction if place in {"cue", "response"} else self.config.delayed_response_fraction
        )

    def pairing(self, subject: int) -> np.ndarray:
        """Index of the response that this subject pairs with each cue, ``(n_associations,)``, from 0."""
        return self.config.rng(Draw.PAIRING, subject).permutation(self.config.n_associations)

    def cues(self, subject: int, run: Screening) -> list[tuple[int, int]]:
        """Cues of a run in their order: (volume at which it begins, index of the cue from 0)."""
        rng = self.config.rng(Draw.CUES, subject, run.run)
        begins = np.flatnonzero(rng.random(run.stimulus) < 1 / self.config.cue_interval_s)
        which = rng.integers(self.config.n_associations, size=len(begins))
        return [(run.fixation + int(second), int(cue)) for second, cue in zip(begins, which, strict=True)]

    def news(self, subject: int, run: Screening) -> np.ndarray:
        """News of a run, ``(longest delayed_response lag + seconds of stimulus, DELAYED_RESPONSE_PATTERNS)``; what
        comes first is never shown.
        """
        rng = self.config.rng(Draw.NEWS, subject, run.run)
        return rng.standard_normal((max(self.config.delayed_response_lags_s) + run.stimulus, DELAYED_RESPONSE_PATTERNS))

    def courses(self, subject: int, run: Screening) -> np.ndarray:
        """How strongly each of `patterns` shows at each volume, ``(n_volumes, patterns)``; zero during fixation."""
        parts = []
        if self.config.association_fraction > 0:
            parts += self._association_courses(subject, run)
        if self.config.delayed_response_fraction > 0:
            news = self.news(subject, run)
            before = max(self.config.delayed_response_lags_s)
            parts += [
                news[before - lag : before - lag + run.stimulus] for lag in (0, *self.config.delayed_response_lags_s)
            ]
        fractions = [self._fraction(place) for place in self.places]
        scaled = [np.sqrt(fraction) * part for fraction, part in zip(fractions, parts, strict=True)]
        shown = np.zeros((run.n_volumes, sum(part.shape[1] for part in parts)))
        shown[run.fixation : run.fixation + run.stimulus] = np.concatenate(scaled, axis=1)
        return shown

    def _association_courses(self, subject: int, run: Screening) -> list[np.ndarray]:
        pairing = self.pairing(subject)
        lag, tail = self.config.association_lag_s, len(_BUMP)
        cues, responses = np.zeros((2, run.stimulus + lag + tail, self.config.n_associations))
        # One event a `cue_interval_s`, of independent marks that add up to zero: this makes the variance 1.
        bump = _BUMP * np.sqrt(self.config.cue_interval_s / (_BUMP**2).sum())
        for volume, cue in self.cues(subject, run):
            second = volume - run.fixation
            cues[second : second + tail, cue] += bump
            responses[second + lag : second + lag + tail, pairing[cue]] += bump
        return [cues[: run.stimulus], responses[: run.stimulus]]


def plan_recall(config: SimulateConfig, regions: np.ndarray, coordinates_mm: np.ndarray) -> Recall | None:
    """What is planted for a memory; None where both fractions are 0."""
    if config.association_fraction == config.delayed_response_fraction == 0:
        return None
    return Recall(config=config, regions=regions, coordinates_mm=coordinates_mm)
