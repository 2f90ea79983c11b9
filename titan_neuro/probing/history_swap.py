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

from titan_neuro.metrics import bootstrap_interval, corrected_over_map, sign_flip_test, sign_flips
from titan_neuro.metrics.measures import FloatArray
from titan_neuro.probing.findings import SCORES, Findings, ProbedFold, ProbeFacts, score_row
from titan_neuro.probing.swaps import NOTHING, PART, SUBJECT, TRUE, SwapPlan, SwapPlanner
from titan_neuro.probing.windows import joined, observe_run, recall_windows
from titan_neuro.typing import FrameRun

# A run gives up no more of its frames as history, so that there are frames left to forecast from.
_LARGEST_SHARE = 0.4


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class HistorySwapConfig:
    """What is kept, and what is swapped.

    Attributes
    ----------
    kept_s : tuple of float
        Seconds before a forecast that are kept.
    history_s : float
        Seconds before those that are swapped; of a short run two fifths of it at most.
    blocks_s : tuple of float
        Seconds of the blocks that a history is scrambled in; those that fit into it twice are asked.
    targets_per_run : int
        Frames of a run, evenly spread over those that can be asked, from which forecasts are made.
    """

    kept_s: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (8.0, 16.0, 32.0, 64.0)
    history_s: Annotated[float, Field(gt=0)] = 240.0
    blocks_s: tuple[Annotated[float, Field(gt=0)], ...] = (1.0, 4.0, 12.0, 36.0, 120.0)
    targets_per_run: Annotated[int, Field(ge=1)] = 16


class HistorySwapProbe:
    """Collect squared errors with the true history and with each that it is swapped for.

    A window is a stretch of history and, right after it, the frames that are kept; memories begin empty at its first
    frame. All windows of one length kept are made for the same targets, so that losses are paired. What the memory is
    told of a frame was observed in the frame's own run: kept frames and the linear skip are the same with every
    history, and an error of the linear forecast is never one across the seam.

    Parameters
    ----------
    config : HistorySwapConfig
    facts : ProbeFacts
    """

    def __init__(self, config: HistorySwapConfig, facts: ProbeFacts) -> None:
        self.config, self.facts = config, facts
        self.kept = tuple(sorted({self._frames(seconds) for seconds in config.kept_s}))
        self._blocks = {
            f"scrambled in blocks of {block * facts.repetition_time:g} s": block
            for block in sorted({self._frames(seconds) for seconds in config.blocks_s})
        }
        # Squared errors with the true history, with the other, and of the linear skip: (3, horizons), (3, features).
        self._sums: dict[tuple[bool, str, int], dict[str, FloatArray]] = {}
        self._by_feature: dict[str, FloatArray] = {}
        self._histories: set[int] = set()
        self._trained_on = 0
        self._not_asked: list[str] = []

    def _frames(self, seconds: float) -> int:
        return max(1, round(seconds / self.facts.repetition_time))

    @torch.inference_mode()
    def add(self, fold: ProbedFold, run: FrameRun) -> None:
        """Ask about a held-out run; one that is too short, or has nothing to score, is left out and said so."""
        plan = self._plan(fold, run)
        self._not_asked += plan.not_asked
        if not plan.swaps:
            return
        self._histories.add(plan.history)
        tested = {test.key for test in fold.tests} | {run.key}
        self._trained_on += any(source.key not in tested for source in plan.sources)
        ahead = [run.read(target + 1, target + max(self.facts.horizons) + 1) for target in plan.targets.tolist()]
        truth = torch.stack([frames[[horizon - 1 for horizon in self.facts.horizons]] for frames in ahead])
        for model, is_control in ((fold.model, False), (fold.untrained, True)):
            model.eval()
            linear, seen = observe_run(model, run, plan.targets)
            nowhere = plan.targets[:0]
            library = joined([seen, *(observe_run(model, other, nowhere)[1] for other in plan.sources[1:])])
            for kept, swap in plan.swaps.items():
                residual = truth[swap.rows] - linear[swap.rows]
                true = _squares(residual - recall_windows(model, library, swap.places[TRUE]))
                for condition, places in swap.places.items():
                    if condition != TRUE:
                        swapped = _squares(residual - recall_windows(model, library, places))
                        sums = np.stack([true, swapped, _squares(residual)])
                        self._take(run.subject, (is_control, condition, kept), sums)

    def _plan(self, fold: ProbedFold, run: FrameRun) -> SwapPlan:
        history = min(self._frames(self.config.history_s), int(_LARGEST_SHARE * run.n_frames))
        if history < 1:
            return SwapPlan(history=history, sources=[run], not_asked=[f"{run.key}: too short to swap a frame of it."])
        planner = SwapPlanner(
            run, fold.tests, fold.others, horizons=self.facts.horizons, history=history, seed=self.facts.seed
        )
        fitting = {condition: block for condition, block in self._blocks.items() if 2 * block <= history}
        plan = planner.plan(self.kept, fitting, count=self.config.targets_per_run)
        plan.not_asked += [
            f"{run.key}: a history of {history} frames is too short to be {condition}."
            for condition in self._blocks.keys() - fitting.keys()
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
        """What skill_ar loses, ``(subjects, horizons)``: by whether it is the control, condition and frames kept."""
        conditions = [PART, SUBJECT, *self._blocks, NOTHING]
        for is_control in (False, True):
            for condition in conditions:
                for kept in self.kept:
                    sums = self._sums.get((is_control, condition, kept))
                    if sums:
                        yield (is_control, condition, kept), _loss(np.stack([sums[name] for name in sorted(sums)]))

    def findings(self) -> Findings:
        """Return the table of losses, and the map of what is lost with nothing before the shortest stretch."""
        rows = [row for asked, losses in self.lost() for row in self._rows(asked, losses)]
        table = pd.DataFrame(rows or [score_row("skill_ar lost", NOTHING)], columns=list(SCORES))
        for is_control in (False, True):
            family = table["is_control"] == is_control
            table.loc[family, "p"] = corrected_over_map(table.loc[family, "p"].to_numpy(dtype=float))
        subjects = sorted({subject for sums in self._sums.values() for subject in sums})
        return Findings(
            sentence=self._sentence(table), tables={"scores": table}, maps=self._maps(), facts=self._facts(subjects)
        )

    def _rows(self, asked: tuple[bool, str, int], losses: FloatArray) -> Iterator[dict[str, Any]]:
        is_control, condition, kept = asked
        facts, n_subjects = self.facts, len(losses)
        draws = {"n_permutations": facts.n_permutations, "seed": facts.seed}
        p = sign_flip_test(losses, **draws)
        chance = sign_flips(n_subjects, **draws) @ losses / n_subjects
        null_low, null_high = np.quantile(chance, (0.025, 0.975), axis=0)
        for number, horizon in enumerate(facts.horizons):
            low, high = bootstrap_interval(losses[:, number], n_resamples=facts.n_resamples, seed=facts.seed)
            yield score_row(
                f"skill_ar lost at h = {horizon} frame{'s' if horizon > 1 else ''}",
                f"{condition}, untrained model" if is_control else condition,
                is_control=is_control,
                x=kept * facts.repetition_time,
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
            return "What a history is worth could not be asked: no run is long enough, or has frames to score."
        told = []
        for condition in (NOTHING, PART, SUBJECT):
            of_it = first[first["condition"] == condition]
            losses = [
                f"{row.value:.3f} at {row.measure.split(' at ')[1]} (p = {row.p:.2g})" for row in of_it.itertuples()
            ]
            if losses:
                told.append(f"{condition} costs " + " and ".join(dict.fromkeys((losses[0], losses[-1]))))
        return (
            f"Put in the place of what came before the last {first['x'].iloc[0]:g} s, {'; '.join(told)} of skill_ar "
            f"(n = {first['n_subjects'].max()}; one-sided sign-flip test over subjects, false discovery rate controlled "
            f"over {(~table['is_control']).sum()} losses)."
        )

    def _maps(self) -> dict[str, tuple[FloatArray, dict[str, Any]]]:
        if not self._by_feature:
            return {}
        losses = _loss(np.stack([self._by_feature[name] for name in sorted(self._by_feature)]), pooled=False)
        mean, p = losses.mean(axis=0), np.full(losses.shape[1], np.nan)
        there = np.isfinite(mean)
        draws = {"n_permutations": self.facts.n_permutations, "seed": self.facts.seed}
        p[there] = sign_flip_test(losses[:, there], **draws)
        kept, n_subjects = self.kept[0] * self.facts.repetition_time, len(losses)
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

    def _facts(self, subjects: list[str]) -> dict[str, Any]:
        seconds = self.facts.repetition_time
        return {
            "Description": "skill_ar with the true history less that with another before the same last seconds",
            "Test": "one-sided sign-flip test over subjects; null is the mean, null_low and null_high are 95 % of the "
            "means of flipped losses",
            "Correction": "p: false discovery rate (Benjamini-Hochberg) over conditions, x and horizons, of the trained "
            "and of the untrained model apart",
            "Interval": "95 % bootstrap over subjects",
            "Controls": "An untrained model. The current frame alone and a polynomial of time have no history: by "
            "construction they lose nothing.",
            "Subjects": subjects,
            "TargetsPerRun": self.config.targets_per_run,
            "HistorySeconds": sorted(frames * seconds for frames in self._histories),
            "RunsWithHistoriesTrainedOn": self._trained_on,
            "NotAsked": self._not_asked,
            "x": {"Description": "Last seconds before the forecast, which are kept", "Units": "s"},
        }


def _squares(errors: Tensor) -> FloatArray:
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
