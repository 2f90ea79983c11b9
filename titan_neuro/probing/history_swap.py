"""Probe 2, history swap: how much skill is lost when the history before the last seconds is replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from titan_neuro.forecaster import Forecaster, Observation
from titan_neuro.metrics import bootstrap_interval, corrected_over_map, sign_flip_test, sign_flips
from titan_neuro.metrics.measures import FloatArray
from titan_neuro.probing.probe_settings import HistorySwapConfig
from titan_neuro.probing.tools.forecasts import (
    concatenate,
    forecast_windows,
    observe_run,
    read_targets,
    sum_of_squares,
)
from titan_neuro.probing.tools.history_swaps import (
    NO_HISTORY,
    OTHER_PART,
    OTHER_SUBJECT,
    TRUE_HISTORY,
    SwapPlan,
    SwapPlanner,
)
from titan_neuro.probing.tools.results import (
    ProbedFold,
    ProbeResults,
    ProbeSetup,
    corrected_p_map,
    describe_p,
    score_row,
    scores_table,
    signed,
)
from titan_neuro.probing.tools.untrained import untrained_name
from titan_neuro.typing import RunData

# Largest fraction of a run that its history may be, so that time points remain to forecast from.
_MAX_HISTORY_FRACTION = 0.4

_Key = tuple[bool, str, int]
"""Whether the model is the untrained one; condition; context in time points."""


class HistorySwapProbe:
    """Collect squared errors with the true history and with each replacement.

    A window is a history and, from the swap point on, the true context; memories are empty at its first time point. The
    windows of all conditions have the same swap points and forecast origins, so that losses are paired. Each time point
    was observed in its own run: context and linear skip are the same with every history, and no error of the linear
    forecast spans a swap point.

    Parameters
    ----------
    config : HistorySwapConfig
    setup : ProbeSetup
    """

    def __init__(self, config: HistorySwapConfig, setup: ProbeSetup) -> None:
        self.config, self.setup = config, setup
        self.contexts = tuple(sorted({setup.in_time_points(seconds) for seconds in config.context_s}))
        self._blocks = {
            f"scrambled in blocks of {block * setup.repetition_time:g} s": block
            for block in sorted({setup.in_time_points(seconds) for seconds in config.blocks_s})
        }
        # By subject: squared errors with the true history, with the swapped one, and of the linear skip, (3, horizons).
        self._sums: dict[_Key, dict[str, FloatArray]] = {}
        # The same without any history before the shortest context, at the shortest lead time, (3, features).
        self._by_feature: dict[str, FloatArray] = {}
        self._histories: set[int] = set()
        self._n_runs_with_training_histories = 0
        # Runs by the reason why something was not tested.
        self._not_tested: dict[str, list[str]] = {}

    @torch.inference_mode()
    def add(self, fold: ProbedFold, run: RunData) -> None:
        """Swap the histories of a held-out run; one that is too short or has no targets is noted in the metadata."""
        plan = self._plan(fold, run)
        for reason in plan.not_tested:
            self._not_tested.setdefault(reason, []).append(run.key)
        if not plan.windows:
            return
        self._histories.add(plan.history)
        test_keys = {test.key for test in fold.test_runs} | {run.key}
        self._n_runs_with_training_histories += any(source.key not in test_keys for source in plan.sources)
        origins, where = torch.unique(plan.origins[plan.usable], return_inverse=True)
        targets = read_targets(run, origins, self.setup.horizons)
        for model, is_control in ((fold.model, False), (fold.untrained_model, True)):
            model.eval()
            linear, observed = observe_run(model, run, origins)
            no_origins = origins[:0]
            sources = [observe_run(model, source, no_origins)[1] for source in plan.sources[1:]]
            self._score_windows(
                run.subject, model, concatenate([observed, *sources]), plan, (targets - linear)[where], is_control
            )

    def _score_windows(
        self, subject: str, model: Forecaster, observed: Observation, plan: SwapPlan, residual: Tensor, is_control: bool
    ) -> None:
        """Add the squared errors of every condition; `residual` is the target less the linear forecast."""
        true = self._squared_errors(model, observed, plan, TRUE_HISTORY, residual)
        context_index = plan.usable.nonzero()[:, 1]
        linear = [sum_of_squares(residual[context_index == index]) for index in range(len(self.contexts))]
        for condition in plan.windows.keys() - {TRUE_HISTORY}:
            # Windows are expensive, and the effect of order on an untrained memory is not informative.
            if is_control and condition in self._blocks:
                continue
            swapped = self._squared_errors(model, observed, plan, condition, residual)
            for index, context in enumerate(self.contexts):
                if plan.usable[:, index].any():
                    sums = np.stack([true[index], swapped[index], linear[index]])
                    self._add_sums(subject, (is_control, condition, context), sums)

    def _squared_errors(
        self, model: Forecaster, observed: Observation, plan: SwapPlan, condition: str, residual: Tensor
    ) -> list[FloatArray]:
        """Squared errors of each context, summed over its forecasts: ``(horizons, features)`` each."""
        windows = plan.windows[condition]
        swap_position = windows.shape[1] - max(self.contexts)
        positions = [swap_position + context - 1 for context in self.contexts]
        errors = residual - forecast_windows(model, observed, windows, positions)[plan.usable]
        context_index = plan.usable.nonzero()[:, 1]
        return [sum_of_squares(errors[context_index == index]) for index in range(len(self.contexts))]

    def _plan(self, fold: ProbedFold, run: RunData) -> SwapPlan:
        in_time_points = self.setup.in_time_points
        history = min(in_time_points(self.config.history_s), int(_MAX_HISTORY_FRACTION * run.n_time_points))
        if history < 1:
            reason = "The run is too short to swap a time point of it"
            return SwapPlan(history=history, sources=[run], not_tested=[reason])
        planner = SwapPlanner(
            run,
            fold.test_runs,
            fold.training_runs,
            horizons=self.setup.horizons,
            contexts=self.contexts,
            history=history,
            seed=self.setup.seed,
        )
        fitting = {condition: block for condition, block in self._blocks.items() if 2 * block <= history}
        plan = planner.plan(fitting, count=self.config.swaps_per_run)
        plan.not_tested += [
            f"A history of {history} time points is too short to be {condition}"
            for condition in self._blocks
            if condition not in fitting
        ]
        return plan

    def _add_sums(self, subject: str, key: _Key, sums: FloatArray) -> None:
        """Add squared errors ``(3, horizons, features)``: with the true and the swapped history, and linear."""
        by_subject = self._sums.setdefault(key, {})
        by_subject[subject] = by_subject.get(subject, 0) + sums.sum(axis=-1)
        if key == (False, NO_HISTORY, self.contexts[0]):
            # The map is of one contrast: all of them would take too much memory with the voxels of a brain.
            self._by_feature[subject] = self._by_feature.get(subject, 0) + sums[:, 0]

    def losses(self) -> Iterator[tuple[_Key, FloatArray]]:
        """Yield the loss of skill_ar of each key, ``(subjects, horizons)``."""
        conditions = [OTHER_PART, OTHER_SUBJECT, *self._blocks, NO_HISTORY]
        for is_control in (False, True):
            for condition in conditions:
                for context in self.contexts:
                    sums = self._sums.get((is_control, condition, context))
                    if sums:
                        yield (is_control, condition, context), _loss(np.stack([sums[name] for name in sorted(sums)]))

    def results(self) -> ProbeResults:
        """Return the table of losses, and the map of the loss without any history before the shortest context."""
        rows = [row for key, losses in self.losses() for row in self._rows(key, losses)]
        table = scores_table(rows, measure="skill_ar lost", condition=NO_HISTORY)
        for is_control in (False, True):
            family = table["is_control"] == is_control
            table.loc[family, "p"] = corrected_over_map(table.loc[family, "p"].to_numpy(dtype=float))
        subjects = sorted({subject for sums in self._sums.values() for subject in sums})
        return ProbeResults(
            summary=self._summary(table),
            tables={"scores": table},
            maps=self._maps(),
            metadata=self._metadata(subjects),
        )

    def _rows(self, key: _Key, losses: FloatArray) -> Iterator[dict[str, Any]]:
        is_control, condition, context = key
        setup, n_subjects = self.setup, len(losses)
        draws = {"n_permutations": setup.n_permutations, "seed": setup.seed}
        p = sign_flip_test(losses, **draws)
        flipped = sign_flips(n_subjects, **draws) @ losses / n_subjects
        null_low, null_high = np.quantile(flipped, (0.025, 0.975), axis=0)
        for index, horizon in enumerate(setup.horizons):
            low, high = bootstrap_interval(losses[:, index], n_resamples=setup.n_resamples, seed=setup.seed)
            yield score_row(
                f"skill_ar lost at a lead time of {horizon} time point{'s' if horizon > 1 else ''}",
                untrained_name(condition) if is_control else condition,
                is_control=is_control,
                x=context * setup.repetition_time,
                value=losses[:, index].mean(),
                low=low,
                high=high,
                null=flipped[:, index].mean(),
                null_low=null_low[index],
                null_high=null_high[index],
                p=p[index],
                n_subjects=n_subjects,
            )

    def _summary(self, table: pd.DataFrame) -> str:
        first = table[(table["x"] == table["x"].min()) & ~table["is_control"]]
        if first.empty:
            return "No history was swapped: no run is long enough and has targets to score."
        # The rows of a condition begin with the shortest lead time.
        rows = {str(row["condition"]): row for _, row in first[::-1].iterrows()}
        loss = rows[NO_HISTORY]
        others = [
            f"{signed(rows[condition]['value'])} with {whose}"
            for condition, whose in (
                (OTHER_PART, "another part of the stimulus"),
                (OTHER_SUBJECT, "another subject's history"),
            )
            if condition in rows
        ]
        compared = f"The loss is {' and '.join(others)}" if others else "No other history was available"
        # Adding 0 removes the sign of a rounded zero.
        lost = f"{round(loss['value'], 3) + 0:.3f} ({describe_p(loss['p'])}, corrected)"
        return (
            f"Erasing the history before the last {loss['x']:g} s of context lowers the error removed beyond linear "
            f"autoregression (skill_ar), at the shortest lead time, by {lost}. {compared} "
            f"(n = {int(loss['n_subjects'])}); a wrong history can also mislead the memory, so only the erased one "
            "shows what it contained."
        )

    def _maps(self) -> dict[str, tuple[FloatArray, Mapping[str, Any]]]:
        if not self._by_feature:
            return {}
        losses = _loss(np.stack([self._by_feature[name] for name in sorted(self._by_feature)]), pooled=False)
        context_s, n_subjects = self.contexts[0] * self.setup.repetition_time, len(losses)
        contrast = f"without any history before the last {context_s:g} s, at the shortest lead time"
        return {
            "lost": (
                losses.mean(axis=0),
                {"Description": f"skill_ar lost {contrast}, mean over subjects", "NumberOfSubjects": n_subjects},
            ),
            "lostq": (
                corrected_p_map(losses, self.setup),
                {
                    "Description": f"p of the skill_ar lost {contrast}",
                    "Test": "one-sided sign-flip test over subjects",
                    "Correction": "false discovery rate over features (Benjamini-Hochberg)",
                    "NumberOfSubjects": n_subjects,
                },
            ),
        }

    def _metadata(self, subjects: list[str]) -> dict[str, Any]:
        seconds = self.setup.repetition_time
        return {
            "Description": "Error removed beyond linear autoregression (skill_ar) with the true history, less that "
            "with another history before the same context. Without any history, what the memory contained is lost; "
            "another history can also mislead it.",
            "Test": "one-sided sign-flip test over subjects; null is the mean, null_low and null_high are the 95 % "
            "range of the mean of sign-flipped losses",
            "Correction": "p: false discovery rate (Benjamini-Hochberg) over conditions, x and lead times, separately "
            "for the trained and the untrained model",
            "Interval": "95 % bootstrap over subjects",
            "Controls": "An untrained model, without scrambled histories. The current activity pattern alone and a "
            "polynomial of time have no history and lose nothing by construction.",
            "Subjects": subjects,
            "SwapsPerRun": self.config.swaps_per_run,
            "HistorySeconds": sorted(history * seconds for history in self._histories),
            "RunsWithTrainingHistories": self._n_runs_with_training_histories,
            "NotTested": [f"{reason}: {', '.join(keys)}." for reason, keys in self._not_tested.items()],
            "x": {"Description": "Context before the forecast, left unchanged", "Units": "s"},
        }


def _loss(sums: FloatArray, *, pooled: bool = True) -> FloatArray:
    """Loss of skill_ar from squared errors ``(subjects, 3, ...)``: with the true and the swapped history, and linear.

    A feature whose linear forecast has no error, because it is constant, is NaN; if `pooled`, 0.
    """
    true, swapped, linear = np.moveaxis(sums, 1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        loss: FloatArray = np.where(linear > 0, (swapped - true) / linear, 0.0 if pooled else np.nan)
    return loss
