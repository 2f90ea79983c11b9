"""The linear forecast in components: from the film about the moment that was found, and from the brain's own past."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from titan_neuro.models.closed_form.components import ComponentRun, group_runs
from titan_neuro.models.closed_form.film import Films, probabilities
from titan_neuro.models.recall import Recall
from titan_neuro.ops.components import principal_components

# Moments about the one that is forecast, in frames: what is next in the film is a smooth function of them.
_LEADS = (-3, -2, -1, 0, 1, 2, 3)
# Ridge penalties a row, in units of the features' mean variance; the largest leaves nothing of them.
_PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 1e6)
_MAX_FOLDS = 4
# Components of the errors by which penalties are chosen.
_CHOOSING_COMPONENTS = 32


def fit_linear(recall: Recall, made: Sequence[ComponentRun], films: Films, directions: Tensor) -> None:
    """Set the values of the film memory and the map of the own past; note in each run what they come to.

    A ridge regression of the linear skip's errors, for each horizon, on both; a penalty for each of the two, chosen on
    subjects (runs, where there is one subject) that are held out in turn. What is noted in a run is from weights that
    were fitted without it: what is left of its errors is then as large as it will be in a subject of the test.
    """
    for run in made:
        # What keys may be made of is laid out by the recall itself; its first two parts are filled in below.
        run.known = recall.know(run.errors[None], recall.init_state(1), torch.tensor([run.subject]))[0][0]
        run.known[..., : 2 * recall.width] = 0.0
    offsets = sorted({horizon + lead for horizon in recall.horizons for lead in _LEADS})
    has_film = len(films.film) > 0
    recalled = [_recalled(recall, run, films, directions, offsets) if has_film else None for run in made]
    own = [_own_past(recall, run) for run in made]
    fold_of = group_runs(made, _MAX_FOLDS)
    shifted = {offset: films.ahead(films.frames.transpose(0, 1), offset) for offset in offsets} if has_film else {}
    n_present = films.present.sum(0).float()
    own_values = torch.zeros(*films.present.shape, len(recall.horizons), recall.width)
    for index, horizon in enumerate(recall.horizons):
        leads = [offsets.index(horizon + lead) for lead in _LEADS]
        tables = []
        for run, film, past in zip(made, recalled, own, strict=True):
            features = past if film is None else torch.cat([film[:, leads].flatten(1), past], dim=1)
            at = run.scored[horizon:].nonzero()[:, 0]
            tables.append((features[at], run.errors[horizon:, index][at]))
        n_film = len(leads) * len(directions) if has_film else 0
        weights, held_out = _ridge(tables, fold_of, n_film)
        recall.own_map[index].copy_(weights[n_film:])
        for run, film, past, fold in zip(made, recalled, own, fold_of, strict=True):
            without = held_out[fold]
            if film is not None:
                run.known[:, index, : recall.width] = film[:, leads].flatten(1) @ without[:n_film]
            run.known[:, index, recall.width : 2 * recall.width] = past @ without[n_film:]
        if has_film:
            by_lead = weights[:n_film].view(len(leads), len(directions), recall.width)
            for lead, weight in zip(_LEADS, by_lead, strict=True):
                value = (shifted[horizon + lead].transpose(0, 1) @ directions.T) @ weight
                # A mean over those who are there then, not over those who are here: some runs end before others.
                there = films.ahead(n_present, horizon + lead).clamp_min(1)
                own_values[:, :, index] += value * (n_present / there)[:, None]
    if has_film:
        _store_values(recall, films, own_values)
    for run in made:
        run.base = run.known[..., : recall.width] + run.known[..., recall.width : 2 * recall.width]


def _store_values(recall: Recall, films: Films, own_values: Tensor) -> None:
    weight = films.present.float() / films.present.sum(0).clamp_min(1)
    recall.film.values.copy_(torch.einsum("sn,snkd->nkd", weight, own_values))
    recall.film.hold_values(own_values)


def _recalled(recall: Recall, run: ComponentRun, films: Films, directions: Tensor, offsets: Sequence[int]) -> Tensor:
    """The others' film about the moment that was found, ``(time, offsets, components)``."""
    read = probabilities(recall, run)
    others = films.average(films.frames, run.subject) @ directions.T
    about = torch.cat([films.ahead(others, offset) for offset in offsets], dim=1)
    recalled: Tensor = (read @ about).view(len(read), len(offsets), -1)
    return recalled


def _own_past(recall: Recall, run: ComponentRun) -> Tensor:
    """Own components of the last frames, ``(time, lags * components)``, as `Recall.know` lays them out."""
    own = run.innovations @ recall.own_directions.T
    n_lags = recall.config.own_lags
    padded = torch.cat([own.new_zeros(n_lags - 1, own.shape[1]), own])
    return torch.cat([padded[n_lags - 1 - lag : n_lags - 1 - lag + len(own)] for lag in range(n_lags)], dim=1)


def _ridge(
    tables: Sequence[tuple[Tensor, Tensor]], fold_of: Sequence[int], n_film: int
) -> tuple[Tensor, dict[int, Tensor]]:
    """Weights ``(features, width)``, of all runs and without each fold.

    Features before `n_film` and after it have a penalty each.
    """
    n_features = tables[0][0].shape[1]
    folds = sorted(set(fold_of))
    moments = {}
    for fold in folds:
        features = torch.cat([tables[i][0] for i in range(len(tables)) if fold_of[i] == fold])
        targets = torch.cat([tables[i][1] for i in range(len(tables)) if fold_of[i] == fold])
        moments[fold] = (features.T @ features, features.T @ targets, len(features))
    gram, cross, n_rows = (sum(parts) for parts in zip(*moments.values(), strict=True))
    groups = [slice(0, n_film), slice(n_film, n_features)] if n_film else [slice(0, n_features)]
    units = [gram.diagonal()[group].mean().clamp_min(1e-12) for group in groups]
    if len(folds) == 1:
        nothing = torch.zeros(n_features, cross.shape[1])
        return nothing, dict.fromkeys(folds, nothing)

    def solve(matrix: Tensor, target: Tensor, penalties: Sequence[float], share: float) -> Tensor:
        ridge = torch.cat(
            [
                (penalty * share * unit).expand(group.stop - group.start)
                for penalty, unit, group in zip(penalties, units, groups, strict=True)
            ]
        )
        return torch.cholesky_solve(target, torch.linalg.cholesky(matrix + torch.diag(ridge)))

    strongest = principal_components(torch.cat([targets for _, targets in tables]), _CHOOSING_COMPONENTS).T

    @functools.cache
    def error(penalties: tuple[float, ...]) -> float:
        total = 0.0
        for own_gram, own_cross, n_own in moments.values():
            few = own_cross @ strongest
            weights = solve(gram - own_gram, cross @ strongest - few, penalties, 1 - n_own / n_rows)
            total += float((weights * (own_gram @ weights)).sum() - 2 * (weights * few).sum())
        return total

    # In turn, each beside the best of the others, twice.
    best = (1.0,) * len(groups)
    for place in [*range(len(groups))] * 2:
        best = min(((*best[:place], penalty, *best[place + 1 :]) for penalty in _PENALTIES), key=error)
    held_out = {
        fold: solve(gram - own_gram, cross - own_cross, best, 1 - n_own / n_rows)
        for fold, (own_gram, own_cross, n_own) in moments.items()
    }
    return solve(gram, cross, best, 1.0), held_out
