"""The hidden Markov model of events: a recording as a sequence of stable patterns (Baldassano et al. 2017)."""

from __future__ import annotations

import numpy as np

# The variance of the observations shrinks from step to step, so that boundaries are first vague and then sharp; the fit
# ends where a smaller one explains the recording less well. With BrainIAK's values for 64 features, which it z-scores
# with one degree of freedom less, boundaries are those of its `EventSegment`.
_INITIAL_VARIANCE, _DECAY, _MAX_STEPS = 4.0 * 64 / 63, 0.98, 500


def fit_events(series: np.ndarray, n_events: int) -> np.ndarray:
    """Fit events that follow each other, each of one pattern, to a recording.

    A time point of event ``k`` is distributed around the pattern of ``k``: its log density is ``-(1 - r) / variance``
    plus a constant, with ``r`` the cosine between both. All divisions into `n_events` events are equally likely
    beforehand. Patterns, and the probabilities of all divisions, are estimated in turn while the variance shrinks.

    Parameters
    ----------
    series : numpy.ndarray
        ``(time, features)``, of mean 0 over time.
    n_events : int
        At most the number of time points.

    Returns
    -------
    numpy.ndarray
        ``(time, n_events)``: the probability that a time point belongs to an event.
    """
    directions = _directions(series)
    belongs, _ = _probabilities(np.zeros((len(series), n_events)))
    highest = -np.inf
    for step in range(1, _MAX_STEPS):
        patterns = belongs.T @ series / belongs.sum(axis=0)[:, None]
        variance = _INITIAL_VARIANCE * _DECAY**step
        log_density = (directions @ _directions(patterns).T - 1) / variance - np.log(2 * np.pi * variance) / 2
        candidate, log_likelihood = _probabilities(log_density)
        if log_likelihood < highest:
            break
        belongs, highest = candidate, log_likelihood
    return belongs


def _directions(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; those of length 0 stay."""
    lengths: np.ndarray = np.linalg.norm(rows, axis=1, keepdims=True)
    directions: np.ndarray = rows / np.where(lengths > 0, lengths, 1.0)
    return directions


def _probabilities(log_density: np.ndarray) -> tuple[np.ndarray, float]:
    """Sum over all divisions of the time points into events, by the forward-backward algorithm.

    Parameters
    ----------
    log_density : numpy.ndarray
        ``(time, events)``: of each time point, if it belonged to the event.

    Returns
    -------
    belongs : numpy.ndarray
        ``(time, events)``: probabilities.
    log_likelihood : float
        Logarithm of the sum over all divisions of the product of the densities.
    """
    n_time_points, n_events = log_density.shape
    forward, backward = np.full((2, n_time_points, n_events), -np.inf)
    forward[0, 0] = log_density[0, 0]
    for t in range(1, n_time_points):
        forward[t] = forward[t - 1]
        forward[t, 1:] = np.logaddexp(forward[t - 1, 1:], forward[t - 1, :-1])
        forward[t] += log_density[t]
    backward[-1, -1] = 0
    for t in range(n_time_points - 2, -1, -1):
        after = backward[t + 1] + log_density[t + 1]
        backward[t] = after
        backward[t, :-1] = np.logaddexp(after[:-1], after[1:])
    return np.exp(forward + backward - forward[-1, -1]), float(forward[-1, -1])
