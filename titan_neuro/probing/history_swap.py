"""Probe 2, history swap: what the forecast loses when what came before the last seconds is replaced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from titan_neuro.forecaster import Forecaster, Observation
from titan_neuro.metrics import bootstrap_interval, corrected_over_map, sign_flip_test, sign_flips
from titan_neuro.metrics.measures import FloatArray
from titan_neuro.probing.tools.results import SCORES, ProbeContext, ProbedFold, ProbeResults, score_row
from titan_neuro.probing.tools.swaps import NOTHING, PART, SUBJECT, TRUE, SwapPlan, SwapPlanner
from titan_neuro.probing.tools.windows import joined, observe_run, recall_windows
from titan_neuro.typing import RunData

# A run gives up no more of its time points as history, so that there are time points left to forecast from.
_LARGEST_FRACTION = 0.4


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class HistorySwapConfig:
    """What is kept, and what is swapped.

    Attributes
    ----------
    context_s : tuple of float
        Seconds before a forecast that are kept.
    history_s : float
        Seconds before those that are swapped; of a short run two fifths of it at most.
    blocks_s : tuple of float
        Seconds of the blocks that a history is scrambled in; those that fit into it twice are asked.
    seams_per_run : int
        Seams in a run, evenly spread over those that can be asked about; from each, a forecast is made for every length
        kept.
    """

    context_s: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (8.0, 16.0, 32.0, 64.0)
    history_s: Annotated[float, Field(gt=0)] = 240.0
    blocks_s: tuple[Annotated[float, Field(gt=0)], ...] = (1.0, 4.0, 12.0, 36.0, 120.0)
    seams_per_run: Annotated[int, Field(ge=1)] = 6


class HistorySwapProbe:
    """Collect squared errors with the true history and with each that it is swapped for.

    A window is a stretch of history and, from the seam on, the time points that are kept; memories begin empty at its
    first time point. Windows of all conditions have the same seams, and forecasts are made from the last time point of
    each length kept, so that losses are paired. What the memory is told of a time point was observed in the time
    point's own run: kept time points and the linear skip are the same with every history, and an error of the linear
    forecast is never one across the seam.

    Parameters
    ----------
    config : HistorySwapConfig
    metadata : ProbeContext
    """

    def __init__(self, config: HistorySwapConfig, metadata: ProbeContext) -> None:
        self.config, self.metadata = config, metadata
        self.kept = tuple(sorted({self._series(seconds) for seconds in config.context_s}))
        self._blocks = {
            f"scrambled in blocks of {block * metadata.repetition_time:g} s": block
            for block in sorted({self._series(seconds) for seconds in config.blocks_s})
        }
        # Squared errors with the true history, with the other, and of the linear skip: (3, horizons), (3, features).
        self._sums: dict[tuple[bool, str, int], dict[str, FloatArray]] = {}
        self._by_feature: dict[str, FloatArray] = {}
        self._histories: set[int] = set()
        self._trained_on = 0
        # Why something could not be asked, and of which runs.
        self._not_asked: dict[str, list[str]] = {}

    def _series(self, seconds: float) -> int:
        return max(1, round(seconds / self.metadata.repetition_time))

    @torch.inference_mode()
    def add(self, fold: ProbedFold, run: RunData) -> None:
        """Ask about a held-out run; one that is too short, or has nothing to score, is left out and said so."""
        plan = self._plan(fold, run)
        for reason in plan.not_asked:
            self._not_asked.setdefault(reason, []).append(run.key)
        if not plan.windows:
            return
        self._histories.add(plan.history)
        tested = {test.key for test in fold.tests} | {run.key}
        self._trained_on += any(source.key not in tested for source in plan.sources)
        targets, where = torch.unique(plan.targets[plan.usable], return_inverse=True)
        truth = self._truth(run, targets)
        for model, is_control in ((fold.model, False), (fold.untrained, True)):
            model.eval()
            linear, seen = observe_run(model, run, targets)
            nowhere = targets[:0]
            bank = joined([seen, *(observe_run(model, other, nowhere)[1] for other in plan.sources[1:])])
            residual = (truth - linear)[where]
            true = self._squares(model, bank, plan, TRUE, residual)
            base = [_sum_of_squares(residual[plan.usable.nonzero()[:, 1] == index]) for index in range(len(self.kept))]
            for condition in plan.windows.keys() - {TRUE}:
                # Windows cost, and what order is to a memory that was not trained says little.
                if is_control and condition in self._blocks:
                    continue
                swapped = self._squares(model, bank, plan, condition, residual)
                for index, kept in enumerate(self.kept):
                    if plan.usable[:, index].any():
                        sums = np.stack([true[index], swapped[index], base[index]])
                        self._take(run.subject, (is_control, condition, kept), sums)

    def _truth(self, run: RunData, targets: Tensor) -> Tensor:
        """Time points that are forecast from the targets, ``(targets, horizons, features)``."""
        horizons = torch.tensor(self.metadata.horizons)
        return torch.stack(
            [
                run.read(time_point + 1, time_point + int(horizons[-1]) + 1)[horizons - 1]
                for time_point in targets.tolist()
            ]
        )

    def _squares(
        self, model: Forecaster, bank: Observation, plan: SwapPlan, condition: str, residual: Tensor
    ) -> list[FloatArray]:
        """Sum squared errors over the targets of each length kept, ``(horizons, features)`` each."""
        windows = plan.windows[condition]
        seam = windows.shape[1] - max(self.kept)
        beyond = recall_windows(model, bank, windows, [seam + kept - 1 for kept in self.kept])[plan.usable]
        length = plan.usable.nonzero()[:, 1]
        errors = residual - beyond
        return [_sum_of_squares(errors[length == index]) for index in range(len(self.kept))]

    def _plan(self, fold: ProbedFold, run: RunData) -> SwapPlan:
        history = min(self._series(self.config.history_s), int(_LARGEST_FRACTION * run.n_time_points))
        if history < 1:
            return SwapPlan(
                history=history, sources=[run], not_asked=["The run is too short to swap a time point of it"]
            )
        horizons, seed = self.metadata.horizons, self.metadata.seed
        planner = SwapPlanner(
            run, fold.tests, fold.others, horizons=horizons, kept=self.kept, history=history, seed=seed
        )
        fitting = {condition: block for condition, block in self._blocks.items() if 2 * block <= history}
        plan = planner.plan(fitting, count=self.config.seams_per_run)
        plan.not_asked += [
            f"A history of {history} time points is too short to be {condition}"
            for condition in self._blocks
            if condition not in fitting
        ]
        return plan

    def _take(self, subject: str, asked: tuple[bool, str, int], sums: FloatArray) -> None:
        """Add squared errors with the true history, with the other, and of the linear skip: (3, horizons, features)."""
        by_subject = self._sums.setdefault(asked, {})
        by_subject[subject] = by_subject.get(subject, 0) + sums.sum(axis=-1)
        if asked == (False, NOTHING, self.kept[0]):
            # Of one contrast alone: all of them would be too many for the voxels of a brain.
            self._by_feature[subject] = self._by_feature.get(subject, 0) + sums[:, 0]

    def lost(self) -> Iterator[tuple[tuple[bool, str, int], FloatArray]]:
        """What skill_ar loses, ``(subjects, horizons)``: by whether it is the control, condition and time points kept."""
        conditions = [PART, SUBJECT, *self._blocks, NOTHING]
        for is_control in (False, True):
            for condition in conditions:
                for kept in self.kept:
                    sums = self._sums.get((is_control, condition, kept))
                    if sums:
                        yield (is_control, condition, kept), _loss(np.stack([sums[name] for name in sorted(sums)]))

    def results(self) -> ProbeResults:
        """Return the table of losses, and the map of what is lost with nothing before the shortest stretch."""
        rows = [row for asked, losses in self.lost() for row in self._rows(asked, losses)]
        table = pd.DataFrame(rows or [score_row("skill_ar lost", NOTHING)], columns=list(SCORES))
        for is_control in (False, True):
            family = table["is_control"] == is_control
            table.loc[family, "p"] = corrected_over_map(table.loc[family, "p"].to_numpy(dtype=float))
        subjects = sorted({subject for sums in self._sums.values() for subject in sums})
        return ProbeResults(
            sentence=self._sentence(table),
            tables={"scores": table},
            maps=self._maps(),
            metadata=self._metadata(subjects),
        )

    def _rows(self, asked: tuple[bool, str, int], losses: FloatArray) -> Iterator[dict[str, Any]]:
        is_control, condition, kept = asked
        metadata, n_subjects = self.metadata, len(losses)
        draws = {"n_permutations": metadata.n_permutations, "seed": metadata.seed}
        p = sign_flip_test(losses, **draws)
        chance = sign_flips(n_subjects, **draws) @ losses / n_subjects
        null_low, null_high = np.quantile(chance, (0.025, 0.975), axis=0)
        for number, horizon in enumerate(metadata.horizons):
            low, high = bootstrap_interval(losses[:, number], n_resamples=metadata.n_resamples, seed=metadata.seed)
            yield score_row(
                f"skill_ar lost at h = {horizon} time point{'s' if horizon > 1 else ''}",
                f"{condition}, untrained model" if is_control else condition,
                is_control=is_control,
                x=kept * metadata.repetition_time,
                value=losses[:, number].mean(),
                low=low,
                high=high,
                null=chance[:, number].mean(),
                null_low=null_low[number],
                null_high=null_high[number],
                p=p[number],
                n_subjects=n_subjects,
            )

    def _sentence(self, table: pd.DataFrame) -> str:
        first = table[(table["x"] == table["x"].min()) & ~table["is_control"]]
        if first.empty:
            return "What a history is worth could not be asked: no run is long enough, or has time points to score."
        told = []
        for condition in (NOTHING, PART, SUBJECT):
            of_it = first[first["condition"] == condition]
            losses = [
                # Adding 0 takes the sign from a rounded zero.
                f"{round(row.value, 3) + 0:.3f} at {row.measure.split(' at ')[1]} (p = {row.p:.2g})"
                for row in of_it.itertuples()
            ]
            if losses:
                told.append(f"{condition} costs " + " and ".join(dict.fromkeys((losses[0], losses[-1]))))
        return (
            f"Put instead of what came before the last {first['x'].iloc[0]:g} s, {'; '.join(told)} of skill_ar "
            f"(n = {first['n_subjects'].max()}; one-sided sign-flip test over subjects, false discovery rate "
            f"controlled over {(~table['is_control']).sum()})."
        )

    def _maps(self) -> dict[str, tuple[FloatArray, dict[str, Any]]]:
        if not self._by_feature:
            return {}
        losses = _loss(np.stack([self._by_feature[name] for name in sorted(self._by_feature)]), pooled=False)
        mean, p = losses.mean(axis=0), np.full(losses.shape[1], np.nan)
        there = np.isfinite(mean)
        draws = {"n_permutations": self.metadata.n_permutations, "seed": self.metadata.seed}
        p[there] = sign_flip_test(losses[:, there], **draws)
        kept, n_subjects = self.kept[0] * self.metadata.repetition_time, len(losses)
        what = f"with nothing before the last {kept:g} s, at the shortest horizon"
        return {
            "lost": (
                mean,
                {"Description": f"skill_ar lost {what}, mean over subjects", "NumberOfSubjects": n_subjects},
            ),
            "lostq": (
                corrected_over_map(p),
                {
                    "Description": f"p that skill_ar is lost {what}",
                    "Test": "one-sided sign-flip test over subjects",
                    "Correction": "false discovery rate over features (Benjamini-Hochberg)",
                    "NumberOfSubjects": n_subjects,
                },
            ),
        }

    def _metadata(self, subjects: list[str]) -> dict[str, Any]:
        seconds = self.metadata.repetition_time
        return {
            "Description": "skill_ar with the true history less that with another before the same last seconds. With "
            "nothing, what the memory held is lost; another history may mislead it, too.",
            "Test": "one-sided sign-flip test over subjects; null is the mean, null_low and null_high are 95 % of the "
            "means of flipped losses",
            "Correction": "p: false discovery rate (Benjamini-Hochberg) over conditions, x and horizons, of the "
            "trained and of the untrained model apart",
            "Interval": "95 % bootstrap over subjects",
            "Controls": "An untrained model, not scrambled. The current time point alone and a polynomial of time have no "
            "history: by construction they lose nothing.",
            "Subjects": subjects,
            "SeamsPerRun": self.config.seams_per_run,
            "HistorySeconds": sorted(series * seconds for series in self._histories),
            "RunsWithHistoriesTrainedOn": self._trained_on,
            "NotAsked": [f"{reason}: {', '.join(keys)}." for reason, keys in self._not_asked.items()],
            "x": {"Description": "Last seconds before the forecast, which are kept", "Units": "s"},
        }


def _sum_of_squares(errors: Tensor) -> FloatArray:
    """Sum squares over targets, ``(horizons, features)``."""
    summed: FloatArray = errors.square().sum(0, dtype=torch.float64).numpy()
    return summed


def _loss(sums: FloatArray, *, pooled: bool = True) -> FloatArray:
    """What skill_ar loses, from ``(subjects, 3, ...)``: with the true history, with the other, of the linear skip.

    NaN where the linear forecast has no error, as of a feature that never changes; where `pooled` that is an error of
    the data, and 0.
    """
    true, swapped, linear = np.moveaxis(sums, 1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        loss: FloatArray = np.where(linear > 0, (swapped - true) / linear, 0.0 if pooled else np.nan)
    return loss
