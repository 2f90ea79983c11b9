"""Retold against forgotten scenes: does a measure, taken while a scene was watched, tell whether it is retold later?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

# Of each kind: with fewer, an AUC has too few values to be compared with chance.
_FEWEST_SCENES = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class WatchedScenes:
    """Measures of the scenes that one subject watched.

    Attributes
    ----------
    names : tuple of str
        In the order of the stimulus.
    n_time_points : numpy.ndarray
        int ``(scenes,)``: length of each.
    is_retold : numpy.ndarray
        bool ``(scenes,)``.
    measures : mapping of str to numpy.ndarray
        ``(scenes,)`` each; NaN where a scene has no value.
    """

    names: tuple[str, ...]
    n_time_points: np.ndarray
    is_retold: np.ndarray
    measures: Mapping[str, np.ndarray]

    def auc(self, measure: str, keys: Mapping[str, np.ndarray], *, adjusted: bool = True) -> np.ndarray | None:
        """Area under the ROC curve of retold against forgotten scenes, as observed and under permutation.

        Parameters
        ----------
        measure : str
        keys : mapping of str to numpy.ndarray
            From :func:`titan_neuro.probing.tools.reinstatement.draw_keys`, by which the scenes are shuffled: the values
            of the measure against the retelling.
        adjusted : bool
            Whether position in the stimulus (linear and quadratic) and length (logarithm) are regressed out first.

        Returns
        -------
        numpy.ndarray or None
            ``(1 + permutations,)``: the fraction of pairs in which the retold scene has the larger value (ties: one
            half), unpermuted first. None where fewer than three scenes of either kind have a value, or all have the
            same.
        """
        values = self.measures[measure]
        finite = np.isfinite(values)
        is_retold = self.is_retold[finite]
        if min(is_retold.sum(), (~is_retold).sum()) < _FEWEST_SCENES:
            return None
        if adjusted:
            values = _residual(values[finite], np.flatnonzero(finite), np.log(self.n_time_points[finite]))
        else:
            values = values[finite]
        if np.ptp(values) <= 1e-9 * np.abs(self.measures[measure][finite]).max():
            return None
        ranks = rankdata(values)
        names = [name for name, is_finite in zip(self.names, finite, strict=True) if is_finite]
        order = np.argsort(np.column_stack([keys[name] for name in names]), axis=1)
        sums = np.append(ranks[is_retold].sum(), ranks[order][:, is_retold].sum(axis=1))
        n_retold, n_forgotten = is_retold.sum(), (~is_retold).sum()
        auc: np.ndarray = (sums - n_retold * (n_retold + 1) / 2) / (n_retold * n_forgotten)
        return auc


def _residual(values: np.ndarray, position: np.ndarray, log_length: np.ndarray) -> np.ndarray:
    """Regress the position in the stimulus, its square and the length out of values, all ``(scenes,)``."""
    centered = position - position.mean()
    design = np.column_stack([np.ones(len(values)), centered, centered**2, log_length])
    residual: np.ndarray = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return residual
