"""Probe 1, context length: what the forecast loses when the memory is cut to the last few seconds.

The model's temporal receptive window, after Hasson et al. (2008) and Lerner et al. (2011).
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from titan_neuro.forecaster import Forecaster, Observation
from titan_neuro.metrics import bootstrap_interval
from titan_neuro.probing.tools.results import ProbeContext, ProbedFold, ProbeResults
from titan_neuro.probing.tools.windows import ENCODED_AT_A_TIME, observe_run, recall_windows, spread_targets
from titan_neuro.typing import RunData


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ContextLengthConfig:
    """How the memory is cut.

    Attributes
    ----------
    longest_s : float
        Contexts are 2, 4, 8, ... seconds up to this, and the whole run.
    contexts_time_points : tuple of int
        Further contexts, in time points.
    targets_per_run : int
        Time points of a run, evenly spread over the scored ones, from which forecasts are made with every context.
    gain_fraction : float
        The timescale is the shortest context that reaches this share of the gain from the shortest to the longest.
    """

    longest_s: Annotated[float, Field(ge=2)] = 128.0
    contexts_time_points: tuple[Annotated[int, Field(ge=1)], ...] = ()
    targets_per_run: Annotated[int, Field(ge=1)] = 48
    gain_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9


class ContextLengthProbe:
    """Collect squared errors over runs, with the memory cut to each length and whole.

    For a context of ``L`` time points the memory starts empty at time point ``t - L + 1`` and reads on to ``t``; the
    linear skip keeps its own lags, so that the curve shows the memory alone. A context longer than what lies before
    ``t`` is the whole run up to ``t``. All contexts are scored on the same time points.

    Parameters
    ----------
    config : ContextLengthConfig
    metadata : ProbeContext
    """

    def __init__(self, config: ContextLengthConfig, metadata: ProbeContext) -> None:
        self.config, self.metadata = config, metadata
        self.repetition_time, self.horizons = metadata.repetition_time, metadata.horizons
        lengths = []
        seconds = 2.0
        while seconds <= config.longest_s:
            lengths.append(max(1, round(seconds / metadata.repetition_time)))
            seconds *= 2
        self.contexts = tuple(sorted({*lengths, *config.contexts_time_points}))
        self._n_features = metadata.n_features
        self._errors: dict[str, np.ndarray] = {}
        self._linear: dict[str, np.ndarray] = {}
        self._longest_run_s = 0.0

    @torch.inference_mode()
    def add(self, fold: ProbedFold, run: RunData) -> None:
        """Score a held-out run.

        Raises
        ------
        NoMatchError
            The run has no time point whose targets are all scored.
        """
        model = fold.model.eval()
        series = run.read(0, run.n_time_points)
        targets = self._targets(run)
        self._longest_run_s = max(self._longest_run_s, run.n_time_points * self.repetition_time)
        linear, seen = observe_run(model, run, targets)
        truth = torch.stack([series[targets + horizon] for horizon in self.horizons], dim=1)
        whole = self._whole_run(model, seen, targets)
        sums = self._errors.setdefault(
            run.subject, np.zeros((len(self.contexts) + 1, len(self.horizons), self._n_features))
        )
        for index, context in enumerate(self.contexts):
            beyond = self._cut(model, seen, targets, context, whole)
            sums[index] += (truth - linear - beyond).square().double().sum(0).numpy()
        sums[-1] += (truth - linear - whole).square().double().sum(0).numpy()
        base = self._linear.setdefault(run.subject, np.zeros((len(self.horizons), self._n_features)))
        base += (truth - linear).square().double().sum(0).numpy()

    def _targets(self, run: RunData) -> Tensor:
        return spread_targets(run, self.horizons, count=self.config.targets_per_run)

    @staticmethod
    def _whole_run(model: Forecaster, seen: Observation, targets: Tensor) -> Tensor:
        state, found = None, []
        for start in range(0, seen.tokens.shape[1], ENCODED_AT_A_TIME):
            beyond, state = model.forecast_residual(seen.at(slice(start, start + ENCODED_AT_A_TIME)), state)
            wanted = targets[(targets >= start) & (targets < start + ENCODED_AT_A_TIME)] - start
            found.append(beyond[0, wanted].cpu())
        return torch.cat(found)

    @staticmethod
    def _cut(model: Forecaster, seen: Observation, targets: Tensor, context: int, whole: Tensor) -> Tensor:
        beyond = whole.clone()
        cut = torch.nonzero(targets + 1 > context).flatten()
        if len(cut):
            windows = targets[cut, None] + torch.arange(1 - context, 1)
            beyond[cut] = recall_windows(model, seen, windows)[:, 0]
        return beyond

    def skill(self) -> tuple[list[str], np.ndarray]:
        """Return the subjects and their ``skill_ar``: ``(subjects, contexts + whole run, horizons, features)``.

        NaN where the linear forecast has no error (a constant feature).
        """
        errors, base = self._stacked()
        with np.errstate(invalid="ignore", divide="ignore"):
            skill: np.ndarray = np.where(base > 0, 1 - errors / base, np.nan)
        return sorted(self._errors), skill

    def _stacked(self) -> tuple[np.ndarray, np.ndarray]:
        """Squared errors with each context, and those of the linear skip: ``(subjects, contexts or 1, ...)``."""
        subjects = sorted(self._errors)
        errors = np.stack([self._errors[subject] for subject in subjects])
        return errors, np.stack([self._linear[subject] for subject in subjects])[:, None]

    def results(self) -> ProbeResults:
        """Return the curve and the map of timescales."""
        curve = self.curve()
        share = f"{self.config.gain_fraction:.0%}"
        whole = curve[(curve["whole_run"] == "true") & (curve["lead_time_points"] == self.horizons[0])].iloc[0]
        subjects = sorted(self._errors)
        return ProbeResults(
            sentence=f"With the whole run in memory, skill_ar is {whole['skill_ar']:.3f} at h = {self.horizons[0]} "
            f"(n = {len(subjects)}).",
            tables={"curve": curve},
            maps={
                "timescale": (
                    self.timescale(),
                    {
                        "Description": f"Shortest context with {share} of the gain, at the shortest horizon",
                        "Units": "s",
                        "NumberOfSubjects": len(subjects),
                    },
                )
            },
            metadata={
                "Description": "skill_ar of held-out runs with the memory cut to the last seconds",
                "Subjects": subjects,
                "TargetsPerRun": self.config.targets_per_run,
                "Interval": "95 % bootstrap over subjects",
                "context_s": {"Description": "What the memory has read before the forecast", "Units": "s"},
            },
        )

    def curve(self) -> pd.DataFrame:
        """Return the curve: errors summed over features, a mean over subjects and its bootstrap interval."""
        errors, base = self._stacked()
        by_subject = 1 - errors.sum(-1) / base.sum(-1)
        rows = []
        for index, context in enumerate([*self.contexts, 0]):
            for number, horizon in enumerate(self.horizons):
                values = by_subject[:, index, number]
                low, high = bootstrap_interval(values, n_resamples=self.metadata.n_resamples, seed=self.metadata.seed)
                rows.append(
                    {
                        "context_time_points": context if context else "n/a",
                        "context_s": context * self.repetition_time if context else "n/a",
                        "whole_run": str(not context).lower(),
                        "lead_time_points": horizon,
                        "n_subjects": len(values),
                        "skill_ar": values.mean(),
                        "skill_ar_low": low,
                        "skill_ar_high": high,
                    }
                )
        return pd.DataFrame(rows)

    def timescale(self) -> np.ndarray:
        """Return, per feature, the timescale in seconds at the shortest horizon: ``(features,)``.

        Taken from the mean skill over subjects; NaN where the whole run gains nothing over the shortest context, and
        the length of the longest run where no shorter context reaches the share of the gain.
        """
        _, skill = self.skill()
        mean = skill[:, :, 0].mean(axis=0)
        gain = mean[-1] - mean[0]
        reached = mean >= mean[0] + self.config.gain_fraction * gain
        seconds = np.array([*(context * self.repetition_time for context in self.contexts), self._longest_run_s])
        return np.where(gain > 0, seconds[reached.argmax(axis=0)], np.nan)
