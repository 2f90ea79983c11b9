"""Probe 1, context length: how the skill of the forecast depends on the context that the memory has read.

It maps the model's temporal receptive windows (TRW), after Hasson et al. (2008) and Lerner et al. (2011).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from titan_neuro.forecaster import Forecaster, Observation
from titan_neuro.metrics import bootstrap_interval
from titan_neuro.probing.probe_settings import ContextLengthConfig
from titan_neuro.probing.tools.forecasts import (
    forecast_whole_run,
    forecast_windows,
    observe_run,
    read_targets,
    select_origins,
    sum_of_squares,
)
from titan_neuro.probing.tools.results import ProbedFold, ProbeResults, ProbeSetup
from titan_neuro.typing import RunData


class ContextLengthProbe:
    """Collect squared errors of forecasts whose memory has read a context of each length, and the whole run.

    With a context of ``L`` time points the memory is empty before time point ``t - L + 1`` and reads on to the
    forecast origin ``t``. The linear skip keeps its lags, so that the curve shows the memory alone. A context longer
    than the run up to ``t`` is the whole run up to ``t``. All contexts are scored on the same targets.

    Parameters
    ----------
    config : ContextLengthConfig
    setup : ProbeSetup

    Attributes
    ----------
    contexts : tuple of int
        In time points, ascending; without the whole run.
    """

    def __init__(self, config: ContextLengthConfig, setup: ProbeSetup) -> None:
        self.config, self.setup = config, setup
        lengths, seconds = list[int](), 2.0
        while seconds <= config.longest_s:
            lengths.append(setup.in_time_points(seconds))
            seconds *= 2
        self.contexts = tuple(sorted({*lengths, *config.contexts_time_points}))
        # By subject: squared errors (contexts + whole run, horizons, features), and those of the linear skip.
        self._errors: dict[str, np.ndarray] = {}
        self._linear_errors: dict[str, np.ndarray] = {}
        self._longest_run_s = 0.0

    @torch.inference_mode()
    def add(self, fold: ProbedFold, run: RunData) -> None:
        """Score a held-out run.

        Raises
        ------
        NoMatchError
            The run has no time point whose targets are all scored.
        """
        model, horizons = fold.model.eval(), self.setup.horizons
        origins = self._origins(run)
        self._longest_run_s = max(self._longest_run_s, run.n_time_points * self.setup.repetition_time)
        linear, observed = observe_run(model, run, origins)
        residual = read_targets(run, origins, horizons) - linear
        of_whole_run = forecast_whole_run(model, observed, origins)
        shape = (len(horizons), self.setup.n_features)
        sums = self._errors.setdefault(run.subject, np.zeros((len(self.contexts) + 1, *shape)))
        for index, context in enumerate(self.contexts):
            sums[index] += sum_of_squares(residual - _forecast(model, observed, origins, context, of_whole_run))
        sums[-1] += sum_of_squares(residual - of_whole_run)
        linear_sums = self._linear_errors.setdefault(run.subject, np.zeros(shape))
        linear_sums += sum_of_squares(residual)

    def _origins(self, run: RunData) -> Tensor:
        return select_origins(run, self.setup.horizons, count=self.config.origins_per_run)

    def skill(self) -> tuple[list[str], np.ndarray]:
        """Return the subjects and their skill_ar, ``(subjects, contexts + whole run, horizons, features)``.

        NaN where the linear forecast has no error (a constant feature).
        """
        errors, linear = self._stacked_errors()
        with np.errstate(invalid="ignore", divide="ignore"):
            skill: np.ndarray = np.where(linear > 0, 1 - errors / linear, np.nan)
        return sorted(self._errors), skill

    def _stacked_errors(self) -> tuple[np.ndarray, np.ndarray]:
        """Squared errors with each context, and those of the linear skip: ``(subjects, contexts or 1, ...)``."""
        subjects = sorted(self._errors)
        errors = np.stack([self._errors[subject] for subject in subjects])
        return errors, np.stack([self._linear_errors[subject] for subject in subjects])[:, None]

    def results(self) -> ProbeResults:
        """Return the curve and the map of temporal receptive windows."""
        curve, subjects = self.curve(), sorted(self._errors)
        return ProbeResults(
            summary=self._summary(curve),
            tables={"curve": curve},
            maps={"timescale": (self.receptive_window(), self._map_metadata(len(subjects)))},
            metadata={
                "Description": "Error removed beyond linear autoregression (skill_ar) in held-out runs, by the context "
                "that the memory has read before the forecast",
                "Subjects": subjects,
                "OriginsPerRun": self.config.origins_per_run,
                "Interval": "95 % bootstrap over subjects",
                "context_s": {"Description": "What the memory has read before the forecast", "Units": "s"},
            },
        )

    def _map_metadata(self, n_subjects: int) -> dict[str, Any]:
        return {
            "Description": "Temporal receptive window (TRW): the shortest context with "
            f"{self.config.gain_fraction:.0%} of the gain, at the shortest lead time",
            "Units": "s",
            "NumberOfSubjects": n_subjects,
        }

    def _summary(self, curve: pd.DataFrame) -> str:
        at_shortest = curve[curve["lead_time_points"] == self.setup.horizons[0]]
        shortest, whole = at_shortest.iloc[0], at_shortest.iloc[-1]
        return (
            "At the shortest lead time, the error removed beyond linear autoregression (skill_ar) is "
            f"{whole['skill_ar']:.3f} with the whole run as context and {shortest['skill_ar']:.3f} with the shortest "
            f"context (n = {whole['n_subjects']}). The difference is not tested, and does not show which part of the "
            "context the memory needs."
        )

    def curve(self) -> pd.DataFrame:
        """Return the curve: errors summed over features, then the mean over subjects and its bootstrap interval."""
        errors, linear = self._stacked_errors()
        by_subject = 1 - errors.sum(-1) / linear.sum(-1)
        setup, rows = self.setup, []
        for index, context in enumerate([*self.contexts, None]):
            for number, horizon in enumerate(setup.horizons):
                values = by_subject[:, index, number]
                low, high = bootstrap_interval(values, n_resamples=setup.n_resamples, seed=setup.seed)
                rows.append(
                    {
                        "context_time_points": "n/a" if context is None else context,
                        "context_s": "n/a" if context is None else context * setup.repetition_time,
                        "whole_run": str(context is None).lower(),
                        "lead_time_points": horizon,
                        "n_subjects": len(values),
                        "skill_ar": values.mean(),
                        "skill_ar_low": low,
                        "skill_ar_high": high,
                    }
                )
        return pd.DataFrame(rows)

    def receptive_window(self) -> np.ndarray:
        """Return the temporal receptive window of each feature at the shortest lead time, in seconds: ``(features,)``.

        It is taken from the mean skill over subjects: NaN where the whole run has no gain over the shortest context;
        the length of the longest run where no shorter context reaches the fraction of the gain.
        """
        _, skill = self.skill()
        mean = skill[:, :, 0].mean(axis=0)
        gain = mean[-1] - mean[0]
        is_reached = mean >= mean[0] + self.config.gain_fraction * gain
        contexts_s = [context * self.setup.repetition_time for context in self.contexts]
        seconds = np.array([*contexts_s, self._longest_run_s])
        return np.where(gain > 0, seconds[is_reached.argmax(axis=0)], np.nan)


def _forecast(model: Forecaster, observed: Observation, origins: Tensor, context: int, of_whole_run: Tensor) -> Tensor:
    """Forecast with a context of so many time points; where the run is shorter up to the origin, with all of it."""
    residual = of_whole_run.clone()
    is_cut = torch.nonzero(origins + 1 > context).flatten()
    if len(is_cut):
        windows = origins[is_cut, None] + torch.arange(1 - context, 1)
        residual[is_cut] = forecast_windows(model, observed, windows)[:, 0]
    return residual
