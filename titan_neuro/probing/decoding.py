"""Probe 5, decoding: what of the stimulus, or of any time-stamped table, can be read from the memory by a linear
decoder.

Decoders are fitted on runs that the fold's model was trained on, and read the held-out runs: nothing of a held-out
subject (or run, as the study divides them) reaches the decoder that reads it. Models of different folds, and so what
they hold, have no axes in common; decoders are fitted fold by fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from titan_neuro.probing.tools.annotations import annotations_of, is_labeled, label_time_points, read_annotations
from titan_neuro.probing.tools.decoded_scores import READ, DecodedScores
from titan_neuro.probing.tools.linear_decoder import (
    Reduction,
    fit_decoder,
    fit_reduction,
    narrowed,
    refit,
)
from titan_neuro.probing.tools.results import SCORES, ProbeContext, ProbedFold, ProbeResults, score_row
from titan_neuro.probing.tools.trace import time_polynomial, trace_run
from titan_neuro.typing import RunData

# What is also read by decoders that were fitted on other moments of the stimulus: refitting takes time.
_READ_ELSEWHERE = ("memory", "state", "time point alone")
# Time points that the decoders of a fold are fitted on: neighbors in time say nearly the same.
_FITTED_TIME_POINTS = 4096

_Labels = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DecodingConfig:
    """What is decoded, and from how much.

    Attributes
    ----------
    tables : tuple of str
        Paths of further tables in BIDS ``events.tsv`` form, relative to where the command runs. One applies to all runs
        that have the entities of its name; onsets count from a run's first time point; ``trial_type`` holds categories,
        other columns hold numbers.
    delay_s : float
        Haemodynamic delay: the label of a time point is what was shown so long before.
    n_components : int
        Principal components of what is read.
    max_runs : int
        Runs, evenly chosen among those of training and validation, that the decoders of a fold are fitted on.
    n_stretches : int
        Where others saw the same stimulus, it is cut into so many stretches, and each is also read by a decoder that
        was fitted on the others alone; 1: that is not asked.
    exclusion_s : float
        Kept free between such a stretch and the time points that its decoder is fitted on.
    """

    tables: tuple[str, ...] = ()
    delay_s: Annotated[float, Field(ge=0)] = 5.0
    n_components: Annotated[int, Field(ge=1)] = 100
    max_runs: Annotated[int, Field(ge=1)] = 16
    n_stretches: Annotated[int, Field(ge=1)] = 4
    exclusion_s: Annotated[float, Field(gt=0)] = 20.0


@plain_dataclass(frozen=True, kw_only=True, eq=False)
class _Fitted:
    """One kind of features of the runs that decoders are fitted on, and the decoders: all per time point."""

    reduction: Reduction
    features: np.ndarray
    labels: _Labels
    stimuli: np.ndarray
    positions: np.ndarray
    decoders: dict[str, Any]


class DecodingProbe:
    """Fit decoders once a fold, let them read its held-out runs, and keep how they do at every shift of the labels.

    Parameters
    ----------
    config : DecodingConfig
    metadata : ProbeContext

    Raises
    ------
    InputNotFoundError, MetadataError
        A table is not there, or can't be read.
    """

    def __init__(self, config: DecodingConfig, metadata: ProbeContext) -> None:
        self.config, self.metadata = config, metadata
        self._tables = read_annotations(config.tables)
        self._fold: ProbedFold | None = None
        self._fitted: dict[str, _Fitted] = {}
        self._elsewhere: dict[tuple[Any, ...], Any] = {}
        self._scores = DecodedScores(metadata)
        self._not_asked: dict[str, None] = {}

    def add(self, fold: ProbedFold, run: RunData) -> None:
        """Read a held-out run."""
        labels = self._labels(run)
        if not labels:
            self._not_asked[f"{run.key}: no event or table says what was shown."] = None
            return
        if fold is not self._fold:
            self._fold, self._fitted, self._elsewhere = fold, self._fit(fold), {}
        for read, (features, series) in self._features(fold, run).items() if self._fitted else ():
            if read not in self._fitted:
                self._not_asked[f"{read}: the runs to fit on have no labels at its time points."] = None
                continue
            reduced = self._fitted[read].reduction(features)
            for target, of_time_points in labels.items():
                self._read(read, target, run, reduced, series, of_time_points[series])
        if not self._fitted:
            self._not_asked[f"{run.key}: no run of training or validation has labels."] = None

    def _labels(self, run: RunData) -> _Labels:
        """Label of every time point, by the name of what is decoded."""
        times = np.arange(run.n_time_points) * self.metadata.repetition_time - self.config.delay_s
        labels = {table.name: label_time_points(table, times) for table in annotations_of(run, self._tables)}
        return {name: of_time_points for name, of_time_points in labels.items() if is_labeled(of_time_points).any()}

    def _features(self, fold: ProbedFold, run: RunData) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """What can be read of a run, ``(series, width)``, and the time points that it belongs to."""
        trained, untrained = trace_run(fold.model, run), trace_run(fold.untrained, run)
        every, seldom = np.arange(run.n_time_points), trained.state_time_points
        return {
            "memory": (narrowed(trained.memory), every),
            "state": (trained.state, seldom),
            "time point alone": (narrowed(trained.time_point), every),
            "encoded": (narrowed(trained.encoded), every),
            "untrained memory": (narrowed(untrained.memory), every),
            "untrained state": (untrained.state, seldom),
            "polynomial of time": (time_polynomial(run.n_time_points), every),
        }

    def _fit(self, fold: ProbedFold) -> dict[str, _Fitted]:
        labels = {run.key: found for run in fold.others if (found := self._labels(run))}
        runs = [run for run in fold.others if run.key in labels]
        count = min(self.config.max_runs, len(runs))
        chosen = [runs[index] for index in np.linspace(0, len(runs) - 1, count).round().astype(int)]
        parts: dict[str, list[tuple[RunData, np.ndarray, np.ndarray]]] = {read: [] for read in READ}
        for run in chosen:
            labeled = np.logical_or.reduce([is_labeled(values) for values in labels[run.key].values()])
            for read, (features, series) in self._features(fold, run).items():
                usable = np.flatnonzero((labeled & ~run.high_motion)[series])
                kept = usable[:: max(1, -(-len(usable) * count // _FITTED_TIME_POINTS))]
                parts[read].append((run, features[kept], series[kept]))
        return {
            read: self._fit_one(of_runs, labels)
            for read, of_runs in parts.items()
            if sum(len(at) for _, _, at in of_runs)
        }

    def _fit_one(
        self, parts: Sequence[tuple[RunData, np.ndarray, np.ndarray]], labels_of: Mapping[str, _Labels]
    ) -> _Fitted:
        features = np.concatenate([values for _, values, _ in parts])
        reduction = fit_reduction(features, self.config.n_components)
        reduced = reduction(features)
        of_runs = [(labels_of[run.key], series) for run, _, series in parts]
        labels = {}
        for target, like in {name: like for all_labels, _ in of_runs for name, like in all_labels.items()}.items():
            nothing = "" if like.dtype.kind == "U" else np.nan
            pieces = [
                found[target][series] if target in found else np.full(len(series), nothing) for found, series in of_runs
            ]
            labels[target] = np.concatenate(pieces)
        by_subject = len({run.subject for run, _, _ in parts}) > 1
        groups = _each([run.subject if by_subject else run.key for run, _, _ in parts], parts)
        decoders = {}
        for target, values in labels.items():
            there = is_labeled(values)
            if len(np.unique(values[there])) > 1:
                decoders[target] = fit_decoder(reduced[there], values[there], groups[there])
        return _Fitted(
            reduction=reduction,
            features=reduced,
            labels=labels,
            stimuli=_each([run.stimulus for run, _, _ in parts], parts),
            positions=np.concatenate([series - run.stimulus_start for run, _, series in parts]),
            decoders=decoders,
        )

    def _read(
        self, read: str, target: str, run: RunData, features: np.ndarray, series: np.ndarray, labels: np.ndarray
    ) -> None:
        """Keep how well a run's labels are decoded from one kind of features."""
        decoder = self._fitted[read].decoders.get(target)
        if decoder is None:
            self._not_asked[f"{target}: the runs to fit on have fewer than two kinds of it."] = None
            return
        if labels.dtype.kind == "U":
            self._scores.classes[target] = max(self._scores.classes.get(target, 0), len(decoder.classes_))
            # What was never seen in training can't be decoded.
            labels = np.where(np.isin(labels, decoder.classes_), labels, "")
        usable = ~run.high_motion[series]
        if len(np.unique(labels[usable & is_labeled(labels)])) < 2:
            self._not_asked[f"{run.key}: {target}: fewer than two kinds of it in time points that count ({read})."] = (
                None
            )
            return
        self._scores.keep((target, read, 0.0), run, decoder.predict(features), labels, usable)
        if read in _READ_ELSEWHERE and self.config.n_stretches > 1:
            predicted = self._read_elsewhere(read, target, run, features, series)
            if predicted is not None:
                self._scores.keep((target, read, self.config.exclusion_s), run, predicted, labels, usable)

    def _read_elsewhere(
        self, read: str, target: str, run: RunData, features: np.ndarray, series: np.ndarray
    ) -> np.ndarray | None:
        """Predict each stretch by a decoder that was fitted on other moments; None where it saw no such stimulus at
        all.
        """
        fitted = self._fitted[read]
        same, there = fitted.stimuli == run.stimulus, is_labeled(fitted.labels[target])
        if not same.any():
            return None
        apart = round(self.config.exclusion_s / self.metadata.repetition_time)
        predicted = []
        for stretch in np.array_split(np.arange(len(series)), self.config.n_stretches):
            if not len(stretch):
                continue
            first, last = series[stretch[[0, -1]]] - run.stimulus_start
            key = (read, target, run.stimulus, first, last)
            if key not in self._elsewhere:
                near = same & (fitted.positions >= first - apart) & (fitted.positions <= last + apart)
                rest = there & ~near
                several = len(np.unique(fitted.labels[target][rest])) > 1
                self._elsewhere[key] = (
                    refit(fitted.decoders[target], fitted.features[rest], fitted.labels[target][rest])
                    if several
                    else None
                )
            if self._elsewhere[key] is None:
                self._not_asked[f"{target}: other moments of {run.stimulus} have fewer than two kinds of it."] = None
                return None
            predicted.append(self._elsewhere[key].predict(features[stretch]))
        whole: np.ndarray = np.concatenate(predicted)
        return whole

    def results(self) -> ProbeResults:
        """Return what was decoded, by chance too, and how much better than from the controls."""
        rows = self._scores.rows()
        for name in dict.fromkeys(table.name for table in self._tables if table.name not in self._scores.targets):
            self._not_asked[f"{name}: says nothing of what was read."] = None
        if len(self._scores.subjects) == 1:
            self._not_asked["Differences from controls are not tested: there is one subject."] = None
        tests = sum(not row["is_control"] for row in rows)
        if not rows:
            rows = [score_row("decoding", "memory")]
        return ProbeResults(
            sentence=self._sentence(rows),
            tables={"scores": pd.DataFrame(rows)[list(SCORES)]},
            metadata={
                "Description": "Linear decoders, fitted on runs of training and validation, read events and tables "
                "from held-out runs: balanced accuracy of logistic regression, or Pearson's r of ridge regression.",
                "Test": "Scores: the labels of each run are moved along it, round its end, by the same share in all "
                "subjects who saw the same; one-sided, p = (b + 1) / (n + 1). Differences: signs of subjects "
                "flipped, one-sided.",
                "Correction": f"None over the {tests} tests of rows that are no controls (Bonferroni: p times that).",
                "Interval": "95 % bootstrap over subjects",
                "Subjects": self._scores.subjects,
                "Classes": self._scores.classes,
                "DelaySeconds": self.config.delay_s,
                "NotAsked": list(self._not_asked),
                "Caveats": [
                    "At x = 0 others saw the same moments: what is decoded may be the moment, by anything that all "
                    "brains do then, rather than what the label says. Only at x > 0 must it hold at other moments.",
                    "A decoder that was fitted on other moments knows the mean label of these, which lies on the other "
                    "side of the mean where the one that it reads lies on this: its scores tend to lie below chance.",
                    "With the labels moved, p says that predictions go with the labels, not by what: slow drifts that "
                    "share a trend with the labels do, too; see the polynomial of time.",
                    "The model was trained on the runs that decoders are fitted on, not on those that are read.",
                ],
                "x": {
                    "Description": "How far in the stimulus the nearest time point lies that the decoder was fitted on; "
                    "0: the same moments, where others saw the same stimulus",
                    "Units": "s",
                },
            },
        )

    def _sentence(self, rows: Sequence[dict[str, Any]]) -> str:
        if not self._scores.scores:
            why = next(iter(self._not_asked), "no run was asked about.")
            return f"Nothing was decoded (n = 0): {why}"
        by_name = {(row["measure"], row["condition"]): row for row in rows}
        said = [self._scores.said(target, self.config.exclusion_s, by_name) for target in self._scores.targets]
        return f"{'; '.join(said)} (labels moved along the run; differences: signs of subjects flipped; uncorrected)."


def _each(names: Sequence[str], parts: Sequence[tuple[RunData, np.ndarray, np.ndarray]]) -> np.ndarray:
    """A name for each time point of each part."""
    return np.repeat(names, [len(series) for _, _, series in parts])
