"""What comes back in every subject after the same time: lags far beyond the linear forecast's, and what they tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from titan_neuro.forecaster.recall.fit.components import ComponentRun, residual_of
from titan_neuro.forecaster.recall.recall import Recall

# How far, in robust standard deviations over all lags, the subjects' agreement must stand out at a lag.
_LEAST_Z = 6.0
_PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


def fit_delayed_responses(recall: Recall, made: Sequence[ComponentRun]) -> None:
    """Find the lags of the delay line, and its map; add its forecasts to the runs' own.

    At a lag at which something comes back, the covariance of what is left of the error with the own components so long
    ago is alike in all subjects; elsewhere it is each subject's chance. Lags that stand out are kept,
    `n_delayed_responses` at most, and at each horizon only if a ridge regression on them errs less on subjects that are
    held out, by more than one standard error of the gain.
    """
    line = recall.delayed_responses
    runs = [run for run in made if len(run.series) > 1]
    own = [run.innovations @ recall.own_directions.T for run in runs]
    lags = _find_lags(recall, runs, own)
    if not lags:
        return
    n_folds = 1 + max(run.fold for run in made)
    fitted = [_ridge(_statistics(recall, runs, own, lags, at), n_folds) for at in range(len(line.horizons))]
    weights = torch.stack([whole for whole, _ in fitted])
    if not bool(weights.any()):
        return
    line.set_lags(torch.tensor(lags), weights, torch.stack([held_out for _, held_out in fitted], dim=1))
    for run, components in zip(runs, own, strict=True):
        run.base = run.base + line(components[None], line.init_state(1), torch.tensor([run.fold]))[0][0]


def _find_lags(recall: Recall, runs: Sequence[ComponentRun], own: Sequence[Tensor]) -> list[int]:
    """Lags at which the folds agree, those that stand out most first."""
    first, longest = max(recall.horizons) + 1, recall.delayed_responses.longest_lag
    fold_of = [run.fold for run in runs]
    if len(set(fold_of)) < 2 or longest <= first:
        return []
    spread = torch.cat(list(own)).square().mean(0).sqrt().clamp_min(1e-6 * float(torch.cat(list(own)).std()) + 1e-12)
    lefts = [(residual_of(recall, run, 0) * run.scored[:, None]) @ recall.own_directions.T for run in runs]
    left_spread = torch.cat(lefts).square().mean(0).sqrt().clamp_min(1e-12)
    total = agreement = torch.zeros(())
    for fold in sorted(set(fold_of)):
        members = [index for index, its in enumerate(fold_of) if its == fold]
        part = torch.zeros(())
        for index in members:
            part = part + _lagged_covariance(lefts[index] / left_spread, own[index] / spread, longest)
        total = total + part
        agreement = agreement - part.square().sum(dim=(0, 1))
    agreement = (agreement + total.square().sum(dim=(0, 1)))[first : longest + 1]
    middle = agreement.median()
    # 1.4826 median deviations are one standard deviation of a normal density.
    z = (agreement - middle) / (1.4826 * (agreement - middle).abs().median()).clamp_min(1e-12)
    standing_out = z.argsort(descending=True)[: recall.config.n_delayed_responses]
    return [first + int(place) for place in standing_out if float(z[place]) > _LEAST_Z]


def _lagged_covariance(left: Tensor, own: Tensor, longest: int) -> Tensor:
    """Sum over time points of products with what was `lag` time points before, ``(left's, own's, lags from 0)``."""
    size = len(left) + longest
    spectrum = torch.fft.rfft(left.T, n=size)[:, None] * torch.fft.rfft(own.T, n=size)[None].conj()
    covariance: Tensor = torch.fft.irfft(spectrum, n=size)[..., : longest + 1]
    return covariance


def _statistics(
    recall: Recall,
    runs: Sequence[ComponentRun],
    own: Sequence[Tensor],
    lags: Sequence[int],
    index: int,
) -> dict[int, tuple[Tensor, Tensor, int]]:
    """For each fold, products of the features, with the targets, and the number of time points."""
    longest, horizon = recall.delayed_responses.longest_lag, recall.horizons[index]
    found: dict[int, tuple[Tensor, Tensor, int]] = {}
    for run, components in zip(runs, own, strict=True):
        whole = torch.cat([components.new_zeros(longest, components.shape[1]), components])
        at = run.scored.clone()
        at[:horizon] = False
        places = at.nonzero() + longest - torch.tensor(lags)
        features, targets = whole[places].flatten(1), residual_of(recall, run, index)[at]
        gram, cross, n_time_points = found.get(run.fold, (0, 0, 0))
        found[run.fold] = (gram + features.T @ features, cross + features.T @ targets, n_time_points + len(targets))
    return found


def _ridge(folds: Mapping[int, tuple[Tensor, Tensor, int]], n_folds: int) -> tuple[Tensor, Tensor]:
    """Weights ``(features, width)``, and ``(folds, features, width)`` without each fold.

    They are 0 where the folds that are held out don't gain by more than a standard error.
    """
    grams, crosses, lengths = zip(*folds.values(), strict=True)
    gram, cross, n_time_points = torch.stack(grams).sum(0), torch.stack(crosses).sum(0), sum(lengths)
    unit = gram.diagonal().mean().clamp_min(1e-12)

    def solve(matrix: Tensor, target: Tensor, ridge: float) -> Tensor:
        weights: Tensor = torch.linalg.solve(matrix + ridge * unit * torch.eye(len(matrix)), target)
        return weights

    def without(fold: int, penalty: float) -> Tensor:
        own_gram, own_cross, n_own = folds.get(fold, (0, 0, 0))
        return solve(gram - own_gram, cross - own_cross, penalty * (1 - n_own / n_time_points))

    def gains(penalty: float) -> Tensor:
        found = []
        for fold, (own_gram, own_cross, _) in folds.items():
            weights = without(fold, penalty)
            found.append(2 * (weights * own_cross).sum() - (weights * (own_gram @ weights)).sum())
        return torch.stack(found)

    penalty = max(_PENALTIES, key=lambda choice: float(gains(choice).sum()))
    gained = gains(penalty)
    if float(gained.mean()) <= float(gained.std()) / len(gained) ** 0.5:
        return torch.zeros_like(cross), torch.zeros(n_folds, *cross.shape)
    return solve(gram, cross, penalty), torch.stack([without(fold, penalty) for fold in range(n_folds)])
