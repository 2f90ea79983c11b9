"""Probe 1, context length: how the skill of the forecast depends on the context that the memory has read.

It maps the model's temporal receptive windows (TRW), after Hasson et al. (2008) and Lerner et al. (2011), and where in
the brain a long context pays, and compares both with the intrinsic timescales of the same recordings.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from titan_neuro.forecaster import Forecaster, Observation
from titan_neuro.metrics import bootstrap_interval, corrected_over_map
from titan_neuro.probing.probe_settings import ContextLengthConfig
from titan_neuro.probing.tools.forecasts import (
    forecast_whole_run,
    forecast_windows,
    observe_run,
    read_targets,
    select_origins,
    sum_of_squares,
)
from titan_neuro.probing.tools.intrinsic_timescale import autocorrelation, intrinsic_timescale
from titan_neuro.probing.tools.map_comparison import compare_maps
from titan_neuro.probing.tools.results import (
    ProbedFold,
    ProbeResults,
    ProbeSetup,
    corrected_p_map,
    describe_p,
    paired_row,
    score_row,
    scores_table,
    signed,
)
from titan_neuro.probing.tools.untrained import untrained_name
from titan_neuro.typing import RunData

# Measures of the table, and its rows.
GAIN, AGREEMENT = "skill_ar gained by long context", "Spearman's rho with the intrinsic timescale"
MODEL, UNTRAINED = "trained model", "untrained model"
WINDOW, GAIN_MAP = "temporal receptive window", "gain of long context"
# Autocorrelation is followed up to this lag: slow drifts of a recording that was not high-passed last for minutes.
_LONGEST_LAG_S = 60.0
_ALPHA = 0.05


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
        # By subject; of the untrained model with the shortest context and the whole run.
        self._errors: dict[str, SquaredErrors] = {}
        self._untrained_errors: dict[str, SquaredErrors] = {}
        self._longest_run_s = 0.0
        # Summed over runs, (lags, features).
        self._autocorrelation: np.ndarray | None = None
        self._centers_mm: np.ndarray | None = None

    @torch.inference_mode()
    def add(self, fold: ProbedFold, run: RunData) -> None:
        """Score a held-out run.

        Raises
        ------
        NoMatchError
            The run has no time point whose targets are all scored.
        """
        origins, subject = self._origins(run), run.subject
        targets = read_targets(run, origins, self.setup.horizons)
        self._longest_run_s = max(self._longest_run_s, run.n_time_points * self.setup.repetition_time)
        for model, contexts, by_subject in (
            (fold.model, self.contexts, self._errors),
            (fold.untrained_model, self.contexts[:1], self._untrained_errors),
        ):
            errors = _squared_errors(model, run, origins, targets, contexts)
            by_subject[subject] = by_subject[subject] + errors if subject in by_subject else errors
        correlation = autocorrelation(run, self.setup.in_time_points(_LONGEST_LAG_S) + 1)
        self._autocorrelation = correlation + (0 if self._autocorrelation is None else self._autocorrelation)
        if self._centers_mm is None and (space := getattr(run, "space", None)) is not None:
            self._centers_mm = space.centers_mm()

    def _origins(self, run: RunData) -> Tensor:
        return select_origins(run, self.setup.horizons, count=self.config.origins_per_run)

    def skill(self, *, pooled: bool = False) -> tuple[list[str], np.ndarray]:
        """Return the subjects and their skill_ar.

        Parameters
        ----------
        pooled : bool
            At every lead time, errors summed over features; else by feature, at the shortest lead time.

        Returns
        -------
        subjects : list of str
        skill : numpy.ndarray
            ``(subjects, contexts + whole run, features)``, NaN where the linear forecast has no error (a constant
            feature); if `pooled`, ``(subjects, contexts + whole run, horizons)``.
        """
        errors, linear = _stack(self._errors, pooled=pooled)
        with np.errstate(invalid="ignore", divide="ignore"):
            skill: np.ndarray = np.where(linear > 0, 1 - errors / linear, np.nan)
        return sorted(self._errors), skill

    def gain(self, *, untrained: bool = False, pooled: bool = False) -> np.ndarray:
        """Return the gain of skill_ar: with the whole run as context, less that with the shortest one.

        Parameters
        ----------
        untrained : bool
            Of the untrained model.
        pooled : bool
            At every lead time, errors summed over features; else by feature, at the shortest lead time.

        Returns
        -------
        numpy.ndarray
            ``(subjects, features)``, NaN where the linear forecast has no error; if `pooled`, ``(subjects, horizons)``.
        """
        errors, linear = _stack(self._untrained_errors if untrained else self._errors, pooled=pooled)
        removed, of_linear = errors[:, 0] - errors[:, -1], linear[:, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            gain: np.ndarray = np.where(of_linear > 0, removed / of_linear, np.nan)
        return gain

    def timescale(self) -> np.ndarray:
        """Return the intrinsic timescale of each feature, from the mean autocorrelation of the runs, in seconds."""
        if self._autocorrelation is None:
            return np.full(self.setup.n_features, np.nan)
        return intrinsic_timescale(self._autocorrelation / self._autocorrelation[0], self.setup.repetition_time)

    def results(self) -> ProbeResults:
        """Return the curve, the tests, and the maps."""
        curve, gains = self.curve(), self._gain_rows()
        maps = self._maps()
        agreements, not_tested = self._agreement_rows()
        n_subjects = len(self._errors)
        if 2**-n_subjects > _ALPHA:
            not_tested.append(f"With {n_subjects} subjects no p of a sign-flip test can be below {_ALPHA}.")
        scores = scores_table([*gains, *agreements], measure=GAIN, condition=MODEL)
        return ProbeResults(
            summary=self._summary(curve, [*gains, *agreements], maps["gainq"][0]),
            tables={"curve": curve, "scores": scores},
            maps=maps,
            metadata=self._metadata(not_tested),
        )

    def _gain_rows(self) -> list[dict[str, Any]]:
        """Gain of skill_ar, errors summed over features, at each lead time; p corrected over lead times."""
        rows = []
        for untrained, name in ((False, MODEL), (True, UNTRAINED)):
            gains = self.gain(untrained=untrained, pooled=True)
            of_model = [
                paired_row(GAIN, name, values, self.setup, x=horizon * self.setup.repetition_time)
                for horizon, values in zip(self.setup.horizons, gains.T, strict=True)
            ]
            corrected = corrected_over_map(np.array([row["p"] for row in of_model], dtype=float))
            rows += [
                {**row, "p": p, "is_control": untrained} for row, p in zip(of_model, corrected.tolist(), strict=True)
            ]
        return rows

    def _agreement_rows(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Agreement of the maps with the intrinsic timescale, and why one has no test."""
        timescale, rows, not_tested = self.timescale(), [], list[str]()
        compared = {
            WINDOW: self.receptive_window(),
            GAIN_MAP: self.gain().mean(axis=0),
            untrained_name(GAIN_MAP): self.gain(untrained=True).mean(axis=0),
        }
        for name, values in compared.items():
            found = compare_maps(
                timescale, values, self._centers_mm, n_maps=self.setup.n_permutations, seed=self.setup.seed
            )
            row = {"value": found.rho, "p": found.p, "n_subjects": len(self._errors)}
            if len(found.null):
                null_low, null_high = np.quantile(found.null, (0.025, 0.975))
                row |= {"null": float(found.null.mean()), "null_low": null_low, "null_high": null_high}
            x, is_control = self.setup.horizons[0] * self.setup.repetition_time, name == untrained_name(GAIN_MAP)
            rows.append(score_row(AGREEMENT, name, x=x, is_control=is_control, **row))
            if np.isnan(found.rho):
                not_tested.append(
                    f"{name}: too few features have a value in both maps ({found.n_units}), or all have the same."
                )
        if self._centers_mm is None:
            not_tested.append(
                "Maps are compared without a test: where the features lie is not known, which spatial null "
                "distributions need (voxels, or parcels that were prepared with the image of their atlas)."
            )
        return rows, not_tested

    def _maps(self) -> dict[str, tuple[np.ndarray, Mapping[str, Any]]]:
        gains, shared = self.gain(), {"NumberOfSubjects": len(self._errors)}
        shortest = f"{self.contexts[0] * self.setup.repetition_time:g} s"
        contrast = f"skill_ar with the whole run as context, less that with {shortest}, at the shortest lead time"
        window = f"the shortest context with {self.config.gain_fraction:.0%} of the gain, at the shortest lead time"
        return {
            "timescale": (
                self.receptive_window(),
                {"Description": f"Temporal receptive window (TRW): {window}", "Units": "s", **shared},
            ),
            "gain": (gains.mean(axis=0), {"Description": f"{contrast}, mean over subjects", **shared}),
            "gainq": (
                corrected_p_map(gains, self.setup),
                {
                    "Description": f"p of {contrast}",
                    "Test": "one-sided sign-flip test over subjects",
                    "Correction": "false discovery rate over features (Benjamini-Hochberg)",
                    **shared,
                },
            ),
            "intrinsic": (
                self.timescale(),
                {
                    "Description": "Intrinsic timescale of the recordings: area under their autocorrelation up to its "
                    f"first zero, at most {_LONGEST_LAG_S:g} s (Watanabe et al. 2019)",
                    "Units": "s",
                    **shared,
                },
            ),
        }

    def _metadata(self, not_tested: list[str]) -> dict[str, Any]:
        return {
            "Description": "Error removed beyond linear autoregression (skill_ar) in held-out runs, by the context "
            "that the memory has read before the forecast. Gain: with the whole run, less that with the shortest "
            "context. Maps of it are compared with the intrinsic timescale of the same recordings: the area under the "
            f"autocorrelation of a feature up to its first zero, at most {_LONGEST_LAG_S:g} s.",
            "Test": "Gain: one-sided sign-flip test over subjects. Spearman's rho over features: two-sided, against "
            "surrogates of the map of intrinsic timescales with its spatial autocorrelation (Moran spectral "
            "randomization); more than 1,000 features are averaged in cubes first. p = (b + 1) / (n + 1).",
            "Correction": "Gain: false discovery rate (Benjamini-Hochberg) over lead times, separately for the trained "
            "and the untrained model. Spearman's rho: none.",
            "Subjects": sorted(self._errors),
            "OriginsPerRun": self.config.origins_per_run,
            "Interval": "95 % bootstrap over subjects",
            "NotTested": not_tested,
            "Caveats": [
                "Spatial nulls are approximate: of two independent maps, 5 to 8 % agree at a nominal 5 %.",
                "Noise shortens the intrinsic timescale of a feature and hides what a long context gains there: both "
                "maps also follow the signal-to-noise ratio.",
            ],
            "context_s": {"Description": "What the memory has read before the forecast", "Units": "s"},
            "x": {"Description": "Lead time", "Units": "s"},
        }

    def _summary(self, curve: pd.DataFrame, rows: Sequence[Mapping[str, Any]], corrected: np.ndarray) -> str:
        whole = curve[curve["lead_time_points"] == self.setup.horizons[0]].iloc[-1]
        # The rows of a condition begin with the shortest lead time.
        by_name = {(row["measure"], row["condition"]): row for row in reversed(rows)}
        gain, untrained, rho = (by_name[name] for name in ((GAIN, MODEL), (GAIN, UNTRAINED), (AGREEMENT, WINDOW)))
        agreement = "Temporal receptive windows could not be compared with the recordings' intrinsic timescales"
        if np.isfinite(rho["value"]):
            test = f"{describe_p(rho['p'])}{', spatial null' if np.isfinite(rho['p']) else ': no positions'}"
            agreement = (
                "Temporal receptive windows agree with the recordings' intrinsic timescales by rho = "
                f"{rho['value']:.2f} ({test})"
            )
        return (
            "At the shortest lead time, the error removed beyond linear autoregression (skill_ar) is "
            f"{whole['skill_ar']:.3f} with the whole run as context, {signed(gain['value'])} more than with "
            f"{self.contexts[0] * self.setup.repetition_time:g} s ({describe_p(gain['p'])}, corrected; untrained model "
            f"{signed(untrained['value'])}; n = {whole['n_subjects']}), and the gain is above 0 in "
            f"{np.sum(corrected < _ALPHA):,} of {len(corrected):,} features (corrected). {agreement}; that the brain "
            "integrates over as long a time does not follow."
        )

    def curve(self) -> pd.DataFrame:
        """Return the curve: errors summed over features, then the mean over subjects and its bootstrap interval."""
        _, by_subject = self.skill(pooled=True)
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
        mean = skill.mean(axis=0)
        gain = mean[-1] - mean[0]
        is_reached = mean >= mean[0] + self.config.gain_fraction * gain
        contexts_s = [context * self.setup.repetition_time for context in self.contexts]
        seconds = np.array([*contexts_s, self._longest_run_s])
        return np.where(gain > 0, seconds[is_reached.argmax(axis=0)], np.nan)


@dataclass(frozen=True, eq=False)
class SquaredErrors:
    """Squared errors summed over forecast origins; rows are the contexts, the whole run, and the linear skip.

    Those of all features at all lead times would take gigabytes, of the voxels of some twenty brains.

    Attributes
    ----------
    pooled : numpy.ndarray
        Summed over features, ``(rows, horizons)``.
    by_feature : numpy.ndarray
        At the shortest lead time, ``(rows, features)``.
    """

    pooled: np.ndarray
    by_feature: np.ndarray

    @classmethod
    def of(cls, errors: Iterable[Tensor]) -> SquaredErrors:
        """Sum the errors of each row, ``(origins, horizons, features)``; one row is in memory at a time."""
        sums = ((square.sum(axis=1), square[0].copy()) for square in map(sum_of_squares, errors))
        return cls(*(np.stack(parts) for parts in zip(*sums, strict=True)))

    def __add__(self, other: SquaredErrors) -> SquaredErrors:
        return SquaredErrors(self.pooled + other.pooled, self.by_feature + other.by_feature)


def _stack(by_subject: Mapping[str, SquaredErrors], *, pooled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Errors of all subjects in the order of their labels, ``(subjects, contexts + whole run, ...)``, and linear."""
    parts = [by_subject[subject] for subject in sorted(by_subject)]
    errors = np.stack([part.pooled if pooled else part.by_feature for part in parts])
    return errors[:, :-1], errors[:, -1:]


def _squared_errors(
    model: Forecaster, run: RunData, origins: Tensor, targets: Tensor, contexts: Sequence[int]
) -> SquaredErrors:
    """Squared errors with each context, with the whole run, and of the linear skip."""
    model.eval()
    linear, observed = observe_run(model, run, origins)
    residual = targets - linear
    of_whole_run = forecast_whole_run(model, observed, origins)
    cut = (residual - _forecast(model, observed, origins, context, of_whole_run) for context in contexts)
    return SquaredErrors.of(itertools.chain(cut, (residual - of_whole_run, residual)))


def _forecast(model: Forecaster, observed: Observation, origins: Tensor, context: int, of_whole_run: Tensor) -> Tensor:
    """Forecast with a context of so many time points; where the run is shorter up to the origin, with all of it."""
    residual = of_whole_run.clone()
    is_cut = torch.nonzero(origins + 1 > context).flatten()
    if len(is_cut):
        windows = origins[is_cut, None] + torch.arange(1 - context, 1)
        residual[is_cut] = forecast_windows(model, observed, windows)[:, 0]
    return residual
