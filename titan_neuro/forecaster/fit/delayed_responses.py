"""Fit delayed responses: lags beyond those of the autoregression at which all subjects respond alike."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from titan_neuro.forecaster.fit.components import ComponentRun, SpatialComponents, residual_errors
from titan_neuro.forecaster.recall.config import RecallConfig
from titan_neuro.forecaster.recall.delayed_responses import DelayedResponses, DelayedResponsesFit
from titan_neuro.forecaster.recall.recall import Recalled
from titan_neuro.linear.ridge import RidgeStatistics, choose_option

# Robust standard deviations over all lags by which the agreement of the subjects at a lag must exceed the median.
_LEAST_Z = 6.0
_PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


def fit_delayed_responses(
    config: RecallConfig,
    runs: Sequence[ComponentRun],
    forecasts: Sequence[Recalled],
    components: SpatialComponents,
    horizons: tuple[int, ...],
) -> tuple[DelayedResponsesFit, list[Recalled]]:
    """Find the lags and the weights, and add their forecasts to those of the parts fitted before.

    At the lag of a delayed response, the covariance of the residual error with the innovations so long ago is alike in
    all subjects; at other lags it is random in each subject. Lags that stand out are used, at most
    `n_delayed_responses`. At each horizon they are used only if a ridge regression on them reduces the error of
    held-out folds by more than one standard error.

    Parameters
    ----------
    config : RecallConfig
    runs : sequence of ComponentRun
    forecasts : sequence of Recalled
        Of each run, by the parts fitted before, ``(time, horizons, width)``.
    components : SpatialComponents
    horizons : tuple of int
        Lead times in time points.

    Returns
    -------
    fit : DelayedResponsesFit
    forecasts : list of Recalled
        With those of the delayed responses added to what follows from the stream's own past.
    """
    sizes = components.sizes
    empty = DelayedResponsesFit.empty(n_horizons=len(horizons), width=sizes.width)
    sources = [run.innovations @ components.innovation_directions.T for run in runs]
    residuals = [residual_errors(run, made.total, horizons) for run, made in zip(runs, forecasts, strict=True)]
    lags = _find_lags(config, runs, sources, residuals, components, max(horizons) + 1)
    if not lags:
        return empty, list(forecasts)
    n_folds = 1 + max(run.fold for run in runs)
    fitted = [
        _solve(_statistics(runs, sources, residuals, lags, index, horizon), n_folds)
        for index, horizon in enumerate(horizons)
    ]
    weights, weights_without = zip(*fitted, strict=True)
    if not any(bool(part.any()) for part in weights):
        return empty, list(forecasts)
    fit = DelayedResponsesFit(torch.tensor(lags), torch.stack(weights), torch.stack(weights_without, dim=1))
    module = DelayedResponses(
        horizons=horizons, longest_lag=config.longest_lag, n_components=sizes.n_components, width=sizes.width
    )
    module.load(fit)
    delayed = [
        module(source[None], module.init_state(1), run.fold_index)[0][0]
        for run, source in zip(runs, sources, strict=True)
    ]
    return fit, [made._replace(own=made.own + more) for made, more in zip(forecasts, delayed, strict=True)]


def _find_lags(
    config: RecallConfig,
    runs: Sequence[ComponentRun],
    sources: Sequence[Tensor],
    residuals: Sequence[Tensor],
    components: SpatialComponents,
    first: int,
) -> list[int]:
    """Lags from `first` on at which the folds agree, in descending order of their z value."""
    # Runs of one time point have no lag.
    kept = [index for index, run in enumerate(runs) if len(run.series) > 1]
    folds = [runs[index].fold for index in kept]
    if len(set(folds)) < 2 or config.longest_lag <= first:
        return []
    all_sources = torch.cat([sources[index] for index in kept])
    source_scale = all_sources.square().mean(0).sqrt().clamp_min(1e-6 * float(all_sources.std()) + 1e-12)
    targets = [
        (residuals[index][:, 0] * runs[index].scored[:, None]) @ components.innovation_directions.T for index in kept
    ]
    target_scale = torch.cat(targets).square().mean(0).sqrt().clamp_min(1e-12)
    total = agreement = torch.zeros(())
    for fold in sorted(set(folds)):
        covariance = torch.zeros(())
        for index, target, its_fold in zip(kept, targets, folds, strict=True):
            if its_fold == fold:
                covariance = covariance + _lagged_covariance(
                    target / target_scale, sources[index] / source_scale, config.longest_lag
                )
        total = total + covariance
        agreement = agreement - covariance.square().sum(dim=(0, 1))
    # Sum of the products of different folds' covariances.
    agreement = (agreement + total.square().sum(dim=(0, 1)))[first : config.longest_lag + 1]
    median = agreement.median()
    # 1.4826 median absolute deviations are one standard deviation of a normal density.
    z = (agreement - median) / (1.4826 * (agreement - median).abs().median()).clamp_min(1e-12)
    strongest = z.argsort(descending=True)[: config.n_delayed_responses]
    return [first + int(place) for place in strongest if float(z[place]) > _LEAST_Z]


def _lagged_covariance(targets: Tensor, sources: Tensor, longest: int) -> Tensor:
    """Sums over time of products of targets with earlier sources: ``(targets, sources, lags from 0)``."""
    size = len(targets) + longest
    spectrum = torch.fft.rfft(targets.T, n=size)[:, None] * torch.fft.rfft(sources.T, n=size)[None].conj()
    covariance: Tensor = torch.fft.irfft(spectrum, n=size)[..., : longest + 1]
    return covariance


def _statistics(
    runs: Sequence[ComponentRun],
    sources: Sequence[Tensor],
    residuals: Sequence[Tensor],
    lags: Sequence[int],
    index: int,
    horizon: int,
) -> dict[int, RidgeStatistics]:
    """Statistics of the regression of the residual errors at one horizon on the sources at all lags, for each fold."""
    longest = max(lags)
    folds: dict[int, RidgeStatistics] = {}
    for run, source, residual in zip(runs, sources, residuals, strict=True):
        if len(source) < 2:
            continue
        padded = torch.cat([source.new_zeros(longest, source.shape[1]), source])
        is_target = run.scored.clone()
        is_target[:horizon] = False
        rows = is_target.nonzero() + longest - torch.tensor(lags)
        statistics = RidgeStatistics.from_rows(padded[rows].flatten(1), residual[is_target, index])
        folds[run.fold] = folds[run.fold] + statistics if run.fold in folds else statistics
    return folds


def _solve(folds: Mapping[int, RidgeStatistics], n_folds: int) -> tuple[Tensor, Tensor]:
    """Weights ``(features, width)``, and ``(folds, features, width)`` without each fold.

    They are 0 where held-out folds don't gain more than one standard error.
    """
    total = functools.reduce(operator.add, folds.values())
    unit = float(total.gram.diagonal().mean().clamp_min(1e-12))

    def without(fold: int, penalty: float) -> Tensor:
        if fold not in folds:
            return total.solve(penalty * unit)
        return (total - folds[fold]).solve(penalty * (1 - folds[fold].n_rows / total.n_rows) * unit)

    changes = [[own.error_change(without(fold, penalty)) for penalty in _PENALTIES] for fold, own in folds.items()]
    best = choose_option(torch.tensor(changes))
    if best is None:
        return torch.zeros_like(total.cross), torch.zeros(n_folds, *total.cross.shape)
    penalty = _PENALTIES[best]
    return total.solve(penalty * unit), torch.stack([without(fold, penalty) for fold in range(n_folds)])
