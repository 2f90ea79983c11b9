"""Ridge regression that goes on learning while a stream runs: recursive least squares, a block of frames at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

# Weights are learned anew after so many frames of a run.
BLOCK_FRAMES = 8


@dataclass(frozen=True, eq=False)
class OnlineState:
    """What is known of a stream. Its size does not depend on the stream's length.

    Attributes
    ----------
    n_frames : int
        Frames read.
    inverse : torch.Tensor
        float64, ``(penalties, predictors, predictors)``: inverse of the sum of products of predictors, plus penalty.
    weights : torch.Tensor
        float32, ``(horizons, predictors, outputs)``.
    predictors : torch.Tensor
        The last `reach` frames, and those of the block that is not yet full.
    errors : torch.Tensor
        The same frames, ``(frames, horizons, outputs)``.
    gains : torch.Tensor
        float32, ``(blocks, penalties, predictors, BLOCK_FRAMES)``: of the last blocks, oldest first.
    """

    n_frames: int
    inverse: Tensor
    weights: Tensor
    predictors: Tensor
    errors: Tensor
    gains: Tensor


class OnlineRidge:
    """Regress, for each horizon, what a forecast misses on predictors, from the pairs of a stream that are complete.

    After each block of `BLOCK_FRAMES` frames, the weights of a horizon are those of the ridge regression on all blocks
    of predictors whose targets were seen by then: exact, by the matrix inversion lemma (block recursive least squares).
    They start at 0, and the penalty draws them there.

    Parameters
    ----------
    horizons : tuple of int
        Frames ahead.
    penalties : tuple of float
        Of each horizon, above 0; horizons that share one share the inverse.
    """

    def __init__(self, horizons: tuple[int, ...], penalties: tuple[float, ...]) -> None:
        self.horizons = horizons
        self._penalties = tuple(sorted(set(penalties)))
        self._which = [self._penalties.index(penalty) for penalty in penalties]
        # Blocks that a horizon's targets lie behind its predictors.
        self._late = [-(-horizon // BLOCK_FRAMES) for horizon in horizons]

    @property
    def reach(self) -> int:
        """Full frames that are kept."""
        return BLOCK_FRAMES * (max(self._late) + 1)

    def start(self, n_predictors: int, n_outputs: int) -> OnlineState:
        """Nothing seen: weights of 0."""
        eye = torch.eye(n_predictors, dtype=torch.float64)
        return OnlineState(
            0,
            torch.stack([eye / penalty for penalty in self._penalties]),
            torch.zeros(len(self.horizons), n_predictors, n_outputs),
            torch.zeros(self.reach, n_predictors),
            torch.zeros(self.reach, len(self.horizons), n_outputs),
            torch.zeros(max(self._late) + 1, len(self._penalties), n_predictors, BLOCK_FRAMES),
        )

    def step(self, predictors: Tensor, errors: Tensor, state: OnlineState) -> tuple[Tensor, OnlineState]:
        """Forecast from every frame, and learn.

        Parameters
        ----------
        predictors : torch.Tensor
            ``(time, predictors)``.
        errors : torch.Tensor
            ``(time, horizons, outputs)``: what the forecast made `horizon` frames before this frame missed in it; what
            stands before the first such forecast is not used.
        state : OnlineState
            Not changed.

        Returns
        -------
        corrections : torch.Tensor
            ``(time, horizons, outputs)``: what these forecasts are expected to miss.
        state : OnlineState
        """
        corrections = []
        while len(predictors):
            n_some = min(BLOCK_FRAMES - state.n_frames % BLOCK_FRAMES, len(predictors))
            some, predictors = predictors[:n_some], predictors[n_some:]
            corrections.append(torch.matmul(some, state.weights).transpose(0, 1))
            state = self._read(some, errors[:n_some], state)
            errors = errors[n_some:]
        return torch.cat(corrections), state

    def _read(self, predictors: Tensor, errors: Tensor, state: OnlineState) -> OnlineState:
        predictors, errors = torch.cat([state.predictors, predictors]), torch.cat([state.errors, errors])
        n_frames = state.n_frames + len(predictors) - len(state.predictors)
        inverse, weights, gains = state.inverse, state.weights, state.gains
        if n_frames % BLOCK_FRAMES == 0:
            predictors, errors = predictors[-self.reach :].clone(), errors[-self.reach :].clone()
            inverse, gain = _absorb(predictors[-BLOCK_FRAMES:].double(), inverse)
            gains = torch.cat([gains[1:], gain.float()[None]])
            weights = self._learn(weights, predictors, errors, gains)
        return OnlineState(n_frames, inverse, weights, predictors, errors, gains)

    def _learn(self, weights: Tensor, predictors: Tensor, errors: Tensor, gains: Tensor) -> Tensor:
        """Learn, for each horizon, the last block whose targets are complete; before there is one, its gain is 0."""
        learned = weights.clone()
        for index, (horizon, late) in enumerate(zip(self.horizons, self._late, strict=True)):
            start = self.reach - BLOCK_FRAMES * (late + 1)
            keys = predictors[start : start + BLOCK_FRAMES]
            missed = errors[start + horizon : start + horizon + BLOCK_FRAMES, index] - keys @ weights[index]
            learned[index].addmm_(gains[-1 - late, self._which[index]], missed)
        return learned


def _absorb(predictors: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Add a block's products to what `inverse` is the inverse of; also return the gain of what its targets miss."""
    seen = inverse @ predictors.T
    spread = predictors @ seen + torch.eye(len(predictors), dtype=predictors.dtype)
    gain = torch.linalg.solve(spread, seen.mT).mT
    # One triangular root on both sides keeps the inverse symmetric.
    root = torch.linalg.solve_triangular(torch.linalg.cholesky(spread), seen.mT, upper=False)
    return torch.baddbmm(inverse, root.mT, root, alpha=-1), gain


def due_errors(residuals: Tensor, horizons: tuple[int, ...]) -> Tensor:
    """Move each horizon's residuals, ``(time, horizons, outputs)``, from the frame of the forecast to the target's."""
    moved = [
        pad(residuals[:-horizon, index], (0, 0, min(horizon, len(residuals)), 0))
        for index, horizon in enumerate(horizons)
    ]
    return torch.stack(moved, dim=1)
