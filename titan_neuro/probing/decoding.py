"""Probe 5, decoding: which events, annotations and continuous tables a linear decoder reads from the memory.

Decoders are fitted on runs that the fold's model was trained on, and applied to the held-out runs: nothing of a
held-out subject (or run, depending on the split) reaches the decoder that is applied to it. The features of models of
different folds are unrelated, so each fold has its own decoders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from titan_neuro.errors import ConfigError, MetadataError, list_names
from titan_neuro.probing.probe_settings import DecodingConfig
from titan_neuro.probing.tools.annotations import Annotation, annotations_of, is_labeled, read_annotations
from titan_neuro.probing.tools.decoding_scores import READOUTS, DecodingScores
from titan_neuro.probing.tools.linear_decoder import Reduction, fit_decoder, fit_reduction, project_wide, refit
from titan_neuro.probing.tools.results import ProbedFold, ProbeResults, ProbeSetup, scores_table
from titan_neuro.probing.tools.trace import (
    ACTIVITY_PATTERN,
    MEMORY_OUTPUT,
    MEMORY_WEIGHTS,
    TIME_POLYNOMIAL,
    TOKENS,
    UNTRAINED_OUTPUT,
    UNTRAINED_WEIGHTS,
    time_polynomial,
    trace_run,
)
from titan_neuro.runs import unit_labels
from titan_neuro.typing import RunData

# Also decoded by decoders that were fitted on other time segments of the stimulus; fitting them takes time.
_ACROSS_SEGMENTS = (
    *(MEMORY_OUTPUT, MEMORY_WEIGHTS, ACTIVITY_PATTERN),
    *(UNTRAINED_OUTPUT, UNTRAINED_WEIGHTS, TIME_POLYNOMIAL),
)
# Time points that the decoders of a fold are fitted on, at most: neighbors in time are nearly redundant.
_MAX_FITTED_TIME_POINTS = 4096
_MAX_LISTED = 30

_Labels = dict[str, np.ndarray]


class _LabeledRun(NamedTuple):
    """One readout of a run at its labeled time points: features ``(time, width)``, time points ``(time,)``."""

    run: RunData
    features: np.ndarray
    time_points: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class _FittedReadout:
    """One readout of the runs that decoders are fitted on, and the decoders by target.

    `features`, `labels` (by target), `stimuli` and `positions` (time points from the stimulus's beginning) have one row
    for each time point.
    """

    reduction: Reduction
    features: np.ndarray
    labels: _Labels
    stimuli: np.ndarray
    positions: np.ndarray
    decoders: dict[str, Any]


class DecodingProbe:
    """Fit decoders once a fold, decode its held-out runs, and score them at every circular shift of their labels.

    Parameters
    ----------
    config : DecodingConfig
    setup : ProbeSetup

    Raises
    ------
    InputNotFoundError, MetadataError
        A table does not exist, or is not readable.
    """

    def __init__(self, config: DecodingConfig, setup: ProbeSetup) -> None:
        self.config, self.setup = config, setup
        self._tables = read_annotations(config.tables)
        self._fold: ProbedFold | None = None
        self._fitted: dict[str, _FittedReadout] = {}
        self._decoders_of_segments: dict[tuple[Any, ...], Any] = {}
        self._scores = DecodingScores(setup)
        self._not_tested: dict[str, None] = {}
        # By target: text or numbers.
        self._kinds: dict[str, str] = {}

    def add(self, fold: ProbedFold, run: RunData) -> None:
        """Decode a held-out run.

        Raises
        ------
        ConfigError
            One of the settings' `columns` is in no table of the fold's runs.
        MetadataError
            A column holds numbers in one run and text in another.
        """
        self._require_columns(fold)
        labels = self._labels(run)
        if not labels:
            self._note(f"{run.key}: no event or table labels what was shown.")
            return
        if fold is not self._fold:
            self._fold, self._fitted, self._decoders_of_segments = fold, self._fit(fold), {}
        if not self._fitted:
            self._note(f"{run.key}: no run of training or validation has labels.")
            return
        for readout, (features, time_points) in self._readouts(fold, run).items():
            if readout not in self._fitted:
                self._note(f"{readout}: the training runs have no labels at its time points.")
                continue
            reduced = self._fitted[readout].reduction(features)
            for target, of_run in labels.items():
                self._decode(readout, target, run, reduced, time_points, of_run[time_points])

    def _note(self, reason: str) -> None:
        """Note why something was not tested."""
        self._not_tested[reason] = None

    def _annotations(self, run: RunData) -> list[Annotation]:
        return [*annotations_of(run, self._tables, self.setup.repetition_time).values()]

    def _require_columns(self, fold: ProbedFold) -> None:
        """Check that each of the chosen columns is in a table of the fold's runs."""
        if fold is self._fold or self.config.columns == ("*",):
            return
        runs = (*fold.test_runs, *fold.training_runs)
        annotations = {annotation.name: annotation for run in runs for annotation in self._annotations(run)}
        for pattern in self.config.columns:
            is_name = not any(character in pattern for character in "*?[")
            if is_name and not any(annotation.matches([pattern]) for annotation in annotations.values()):
                listed = ", ".join([*annotations][:_MAX_LISTED]) + (", ..." if len(annotations) > _MAX_LISTED else "")
                raise ConfigError(
                    f"probe.decoding.columns: {pattern!r} is in no table of the study's runs.",
                    f"There are: {listed or 'none: the runs have no events and no tables'}.",
                )

    def _labels(self, run: RunData) -> _Labels:
        """Label of every time point, by target: all columns at the first lag, then at the next."""
        repetition_time, config = self.setup.repetition_time, self.config
        times = np.arange(run.n_time_points) * repetition_time - config.delay_s
        asked = [annotation for annotation in self._annotations(run) if annotation.matches(config.columns)]
        labels = {
            _target(annotation.name, lag): annotation.label_time_points(times - lag, repetition_time)
            for lag in config.lags_s
            for annotation in asked
        }
        labels = {name: of_time_points for name, of_time_points in labels.items() if is_labeled(of_time_points).any()}
        for name, of_time_points in labels.items():
            kind = of_time_points.dtype.kind
            if self._kinds.setdefault(name, kind) != kind:
                raise MetadataError(
                    f"{run.key}: {name}: expected numbers in all runs, or text in all, found both.",
                    "Correct the column in the events tables, or leave it out of probe.decoding.columns.",
                )
        return labels

    def _readouts(self, fold: ProbedFold, run: RunData) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Features of each readout, ``(time, width)``, and their time points."""
        trained, untrained = trace_run(fold.model, run), trace_run(fold.untrained_model, run)
        every, of_weights = np.arange(run.n_time_points), trained.weights_time_points
        return {
            MEMORY_OUTPUT: (project_wide(trained.memory_output), every),
            MEMORY_WEIGHTS: (trained.memory_weights, of_weights),
            ACTIVITY_PATTERN: (project_wide(trained.activity), every),
            TOKENS: (project_wide(trained.tokens), every),
            UNTRAINED_OUTPUT: (project_wide(untrained.memory_output), every),
            UNTRAINED_WEIGHTS: (untrained.memory_weights, of_weights),
            TIME_POLYNOMIAL: (time_polynomial(run.n_time_points), every),
        }

    def _fit(self, fold: ProbedFold) -> dict[str, _FittedReadout]:
        """Fit the decoders of a fold, by readout."""
        labels = {run.key: of_run for run in fold.training_runs if (of_run := self._labels(run))}
        runs = [run for run in fold.training_runs if run.key in labels]
        count = min(self.config.max_runs, len(runs))
        selected = [runs[index] for index in np.linspace(0, len(runs) - 1, count).round().astype(int)]
        parts: dict[str, list[_LabeledRun]] = {readout: [] for readout in READOUTS}
        for run in selected:
            labeled = np.logical_or.reduce([is_labeled(values) for values in labels[run.key].values()])
            for readout, (features, time_points) in self._readouts(fold, run).items():
                usable = np.flatnonzero((labeled & ~run.high_motion)[time_points])
                thinned = usable[:: max(1, -(-len(usable) * count // _MAX_FITTED_TIME_POINTS))]
                parts[readout].append(_LabeledRun(run, features[thinned], time_points[thinned]))
        return {
            readout: self._fit_readout(of_runs, labels)
            for readout, of_runs in parts.items()
            if sum(len(part.time_points) for part in of_runs)
        }

    def _fit_readout(self, parts: Sequence[_LabeledRun], labels_of: Mapping[str, _Labels]) -> _FittedReadout:
        features = np.concatenate([part.features for part in parts])
        reduction = fit_reduction(features, self.config.n_components)
        reduced = reduction(features)
        labels = _concatenate_labels(parts, labels_of)
        groups = _for_each_time_point(unit_labels([part.run for part in parts]), parts)
        decoders = {}
        for target, values in labels.items():
            labeled = is_labeled(values)
            if len(np.unique(values[labeled])) > 1:
                decoders[target] = fit_decoder(reduced[labeled], values[labeled], groups[labeled])
        return _FittedReadout(
            reduction=reduction,
            features=reduced,
            labels=labels,
            stimuli=_for_each_time_point([part.run.stimulus for part in parts], parts),
            positions=np.concatenate([part.time_points - part.run.stimulus_start for part in parts]),
            decoders=decoders,
        )

    def _decode(
        self,
        readout: str,
        target: str,
        run: RunData,
        features: np.ndarray,
        time_points: np.ndarray,
        labels: np.ndarray,
    ) -> None:
        """Decode one target of a run from one readout, and score it."""
        decoder = self._fitted[readout].decoders.get(target)
        if decoder is None:
            self._note(f"{target}: the training runs have fewer than two classes of it.")
            return
        if labels.dtype.kind == "U":
            self._scores.classes[target] = max(self._scores.classes.get(target, 0), len(decoder.classes_))
            # Classes that do not occur in training can't be decoded.
            labels = np.where(np.isin(labels, decoder.classes_), labels, "")
        usable = ~run.high_motion[time_points]
        if len(np.unique(labels[usable & is_labeled(labels)])) < 2:
            self._note(f"{run.key}: {target}: fewer than two classes of it at usable time points ({readout}).")
            return
        self._scores.add((target, readout, 0.0), run, decoder.predict(features), labels, usable)
        if readout in _ACROSS_SEGMENTS and self.config.n_segments > 1:
            predicted = self._predict_across_segments(readout, target, run, features, time_points)
            if predicted is not None:
                self._scores.add((target, readout, self.config.exclusion_s), run, predicted, labels, usable)

    def _predict_across_segments(
        self, readout: str, target: str, run: RunData, features: np.ndarray, time_points: np.ndarray
    ) -> np.ndarray | None:
        """Predict each time segment by a decoder fitted on the others; None where no training run has the stimulus."""
        fitted = self._fitted[readout]
        same_stimulus, labeled = fitted.stimuli == run.stimulus, is_labeled(fitted.labels[target])
        if not same_stimulus.any():
            return None
        exclusion = round(self.config.exclusion_s / self.setup.repetition_time)
        predicted = list[np.ndarray]()
        for segment in np.array_split(np.arange(len(time_points)), self.config.n_segments):
            if not len(segment):
                continue
            first, last = time_points[segment[[0, -1]]] - run.stimulus_start
            key = (readout, target, run.stimulus, first, last)
            if key not in self._decoders_of_segments:
                in_zone = (fitted.positions >= first - exclusion) & (fitted.positions <= last + exclusion)
                outside = labeled & ~(same_stimulus & in_zone)
                labels = fitted.labels[target][outside]
                self._decoders_of_segments[key] = (
                    refit(fitted.decoders[target], fitted.features[outside], labels)
                    if len(np.unique(labels)) > 1
                    else None
                )
            decoder = self._decoders_of_segments[key]
            if decoder is None:
                self._note(f"{target}: other time segments of {run.stimulus} have fewer than two classes of it.")
                return None
            predicted.append(decoder.predict(features[segment]))
        whole: np.ndarray = np.concatenate(predicted)
        return whole

    def results(self) -> ProbeResults:
        """Return decoding scores, their null distributions, and their differences from the controls'."""
        rows = self._scores.rows()
        chosen = [
            _target(table.name, lag)
            for table in self._tables
            if table.matches(self.config.columns)
            for lag in self.config.lags_s
        ]
        for name in dict.fromkeys(name for name in chosen if name not in self._scores.targets):
            self._note(f"{name}: labels no time point that was decoded.")
        if len(self._scores.subjects) == 1:
            self._note("Differences from controls are not tested: there is one subject.")
        return ProbeResults(
            summary=self._summary(rows),
            tables={"scores": scores_table(rows, measure="decoding", condition=MEMORY_OUTPUT)},
            metadata=self._metadata(sum(not row["is_control"] for row in rows)),
        )

    def _summary(self, rows: Sequence[dict[str, Any]]) -> str:
        if not rows:
            return f"Nothing was decoded: {next(iter(self._not_tested), 'there is no held-out run.')}"
        by_name = {(row["measure"], row["condition"]): row for row in rows}
        return self._scores.summarize(self.config.exclusion_s, by_name)

    def _metadata(self, n_tests: int) -> dict[str, Any]:
        return {
            "Description": "Linear decoders, fitted on runs of training and validation, decode events and tables in "
            "held-out runs. Balanced accuracy of logistic regression, or Pearson's r of ridge regression.",
            "Test": "Scores: the labels of each run are shifted circularly, by the same fraction of its length in all "
            "subjects who saw the same stimulus; one-sided, p = (b + 1) / (n + 1). Differences: one-sided sign-flip "
            "test over subjects.",
            "Correction": f"None over the {n_tests} tests of rows that are not controls (Bonferroni: p times that).",
            "Interval": "95 % bootstrap over subjects",
            "Subjects": self._scores.subjects,
            "Classes": self._scores.classes,
            "DelaySeconds": self.config.delay_s,
            "LagsSeconds": list(self.config.lags_s),
            "NotTested": list(self._not_tested),
            "Caveats": [
                *self._slow_caveat(),
                "At x = 0 the decoder was fitted on the same time points of the stimulus, where other subjects saw it: "
                "it may decode the time point, by any response that all brains share, instead of the label. Only at "
                "x > 0 must the label generalize to other time points.",
                "A decoder fitted on other time segments expects their mean label, which deviates from the overall "
                "mean in the opposite direction to that of the decoded segment: its scores tend to lie below chance.",
                "With shifted labels, p shows that predictions follow the labels, not why: slow drifts with the same "
                "trend as the labels follow them, too; see the polynomial of time.",
                "The model was trained on the runs that decoders are fitted on, not on those that are decoded.",
            ],
            "x": {
                "Description": "Gap in the stimulus between the decoded time points and those that the decoder was "
                "fitted on; 0: the same time points, where other subjects saw the same stimulus",
                "Units": "s",
            },
        }

    def _slow_caveat(self) -> list[str]:
        if not self._scores.slow:
            return []
        return [
            f"Too liberal a test: labels and predictions of {list_names([*self._scores.slow])} are autocorrelated over "
            "more than a tenth of a run, where circular shifts reject more than 5 % by chance (8 % at a coefficient of "
            "0.97, 13 % at 0.99, over 100 time points)."
        ]


def _target(name: str, lag_s: float) -> str:
    """Name of a column that is decoded this many seconds after it was shown (and after the hemodynamic delay)."""
    return f"{name}, {lag_s:g} s before" if lag_s else name


def _concatenate_labels(parts: Sequence[_LabeledRun], labels_of: Mapping[str, _Labels]) -> _Labels:
    """Concatenate the labels of several runs, by target; ``""`` or NaN in a run that does not have the target."""
    examples = {name: values for part in parts for name, values in labels_of[part.run.key].items()}
    labels = {}
    for target, example in examples.items():
        missing = "" if example.dtype.kind == "U" else np.nan
        labels[target] = np.concatenate(
            [
                labels_of[part.run.key][target][part.time_points]
                if target in labels_of[part.run.key]
                else np.full(len(part.time_points), missing)
                for part in parts
            ]
        )
    return labels


def _for_each_time_point(names: Sequence[str], parts: Sequence[_LabeledRun]) -> np.ndarray:
    """Repeat the name of each run for each of its time points."""
    return np.repeat(names, [len(part.time_points) for part in parts])
