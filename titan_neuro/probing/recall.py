"""Probe 6, recall: are scenes reinstated when a person retells them, and is a person's memory like the model's?

Each scene of a stimulus that a person retells is compared with the same and with other scenes as they were watched: by
other people, by this person, and by the model that read this person's recording. What the model did at a scene while it
was watched is then compared between scenes that are retold and scenes that are forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from titan_neuro.probing.probe_settings import RecallConfig
from titan_neuro.probing.tools.memory_surprise import record_activity_change, record_surprise
from titan_neuro.probing.tools.recall_scores import (
    DISPLACEMENT,
    LENGTH,
    OTHERS,
    POSITION,
    REINSTATEMENT,
    SKILL,
    STRENGTH,
    RecallScores,
    SubjectRecall,
)
from titan_neuro.probing.tools.reinstatement import compare, map_reinstatement, neighborhoods, too_small
from titan_neuro.probing.tools.results import ProbedFold, ProbeResults, ProbeSetup, scores_table
from titan_neuro.probing.tools.retold_scenes import WatchedScenes
from titan_neuro.probing.tools.scenes import (
    Patterns,
    average_activity,
    average_over_runs,
    average_readings,
    find_scenes,
    forecast_scenes,
    named_scenes,
    task_of,
)
from titan_neuro.probing.tools.trace import (
    ACTIVITY_PATTERN,
    MEMORY_OUTPUT,
    MEMORY_WEIGHTS,
    TIME_POLYNOMIAL,
    time_polynomial,
    trace_run,
)
from titan_neuro.probing.tools.untrained import untrained_name
from titan_neuro.typing import RunData

# Readings of the weights: every so many time points, so that short scenes have one, too.
_WEIGHTS_EVERY = 4
_TRACE_WIDTH = 1024


class _Reading(NamedTuple):
    """Forecasts of the scenes of a run: patterns by source, and measures ``(time,)`` by name."""

    patterns: dict[str, Patterns]
    measures: dict[str, np.ndarray]


class RecallProbe:
    """Compare each subject's retelling with what was watched, when the first of the subject's runs is added.

    Parameters
    ----------
    config : RecallConfig
    setup : ProbeSetup
    """

    def __init__(self, config: RecallConfig, setup: ProbeSetup) -> None:
        self.config, self.setup = config, setup
        self._scores = RecallScores(setup)
        self._not_tested: dict[str, None] = {}
        # Patterns of the activity summed over the people of these runs, and the number of people, by scene.
        self._summed: dict[tuple[str, ...], dict[str, tuple[np.ndarray, int]]] = {}
        self._near: csr_array | None = None

    def add(self, fold: ProbedFold, run: RunData) -> None:
        """Compare the retelling of a run's subject with all that the subject watched in this fold, once."""
        tasks = self.config.tasks
        if tasks is None or task_of(run) != tasks.watching:
            return
        runs = [each for each in self._watching(fold.test_runs) if each.subject == run.subject]
        retellings = [each for each in fold.set_aside_runs if each.subject == run.subject]
        if run.key != runs[0].key:
            return
        if not retellings:
            self._note(f"sub-{run.subject} has no run of the task {tasks.retelling}.")
        elif not any(named_scenes(each, self.config.column) for each in runs):
            self._note(f"{run.key}: no event names a scene (column {self.config.column}).")
        elif not any(named_scenes(each, self.config.column) for each in retellings):
            self._note(f"{retellings[0].key}: no event names a scene (column {self.config.column}).")
        else:
            self._scores.subjects.append(self._compare(fold, runs, retellings))

    def _note(self, reason: str) -> None:
        self._not_tested[reason] = None

    def _watching(self, runs: Iterable[RunData]) -> list[RunData]:
        return [run for run in runs if self.config.tasks is not None and task_of(run) == self.config.tasks.watching]

    def _scenes(self, run: RunData) -> dict[str, np.ndarray]:
        return find_scenes(
            run, self.config.column, delay_s=self.config.delay_s, repetition_time=self.setup.repetition_time
        )

    def _compare(self, fold: ProbedFold, runs: Sequence[RunData], retellings: Sequence[RunData]) -> SubjectRecall:
        readings = [self._forecasts(fold, run) for run in runs]
        seen = {
            OTHERS: self._of_others(fold, runs[0].subject),
            **_join([reading.patterns for reading in readings]),
            **_join([self._states(fold, run) for run in runs]),
        }
        # Forecasts and other people's patterns are compared with the volumes of the retelling, states with its states.
        spoken = _join([self._states(fold, run) for run in retellings])
        similarities = {
            name: similarity
            for name, patterns in seen.items()
            if (similarity := compare(spoken.get(name, spoken[ACTIVITY_PATTERN]), patterns)) is not None
        }
        if self._near is None:
            self._near = neighborhoods(getattr(runs[0], "space", None), self.config.radius_mm)
            if self._near is not None and (reason := too_small(self._near, self.config.radius_mm)):
                self._note(reason)
        mapped = {
            name: map_reinstatement(spoken[ACTIVITY_PATTERN], seen[name], self._near)
            for name in (OTHERS, self._forecast_name(self.setup.horizons[-1]))
        }
        names = {name for run in retellings for name in named_scenes(run, self.config.column)}
        return SubjectRecall(
            subject=runs[0].subject,
            similarities=similarities,
            maps={name: values for name, values in mapped.items() if values is not None},
            scenes=self._watched_scenes(runs, [reading.measures for reading in readings], names),
        )

    def _states(self, fold: ProbedFold, run: RunData) -> dict[str, Patterns]:
        """Read a run with both models: the states of their memories, and the volumes and the time alone."""
        scenes, every = self._scenes(run), np.arange(run.n_time_points)
        states = {
            ACTIVITY_PATTERN: average_activity(run, scenes),
            TIME_POLYNOMIAL: average_readings(time_polynomial(run.n_time_points), every, scenes),
        }
        for model, name_of in ((fold.model, str), (fold.untrained_model, untrained_name)):
            trace = trace_run(model, run, weights_every_time_points=_WEIGHTS_EVERY, width=_TRACE_WIDTH)
            # Weights hold all scenes so far; their changes hold what is written at one.
            written = np.diff(trace.memory_weights, axis=0, prepend=np.zeros_like(trace.memory_weights[:1]))
            states[name_of(MEMORY_OUTPUT)] = average_readings(trace.memory_output, every, scenes)
            states[name_of(MEMORY_WEIGHTS)] = average_readings(written, trace.weights_time_points, scenes)
        return states

    def _forecasts(self, fold: ProbedFold, run: RunData) -> _Reading:
        """Forecast a run with both models, and record how surprised their memories are."""
        displacement = getattr(run, "displacement", None)
        measures: dict[str, np.ndarray] = {
            **record_activity_change(run),
            DISPLACEMENT: np.full(run.n_time_points, np.nan) if displacement is None else np.asarray(displacement),
        }
        patterns: dict[str, Patterns] = {}
        for model, name_of in ((fold.model, str), (fold.untrained_model, untrained_name)):
            forecasts = forecast_scenes(model, run, self._scenes(run))
            patterns |= {name_of(self._forecast_name(h)): each for h, each in forecasts.patterns.items()}
            surprise = {name_of(name): values for name, values in record_surprise(model, run).items()}
            measures |= {name_of(SKILL): forecasts.skill, name_of(STRENGTH): forecasts.strength, **surprise}
        return _Reading(patterns, measures)

    def _forecast_name(self, horizon: int) -> str:
        return f"forecast, lead time {horizon * self.setup.repetition_time:g} s"

    def _of_others(self, fold: ProbedFold, subject: str) -> Patterns:
        """Average the watching of all other people of the study; each of them counts once."""
        runs = sorted(self._watching((*fold.training_runs, *fold.test_runs)), key=lambda run: run.key)
        key = tuple(run.key for run in runs)
        if key not in self._summed:
            of_people = [self._activity(runs, name) for name in sorted({run.subject for run in runs})]
            summed: dict[str, tuple[np.ndarray, int]] = {}
            # Whoever saw most scenes comes first: scenes are in the order of the stimulus.
            for patterns in sorted(of_people, key=len, reverse=True):
                for name, pattern in patterns.items():
                    total, count = summed.get(name, (np.zeros_like(pattern), 0))
                    summed[name] = total + pattern, count + 1
            self._summed = {key: summed}
        own, others = self._activity(runs, subject), Patterns()
        for name, (total, count) in self._summed[key].items():
            if (n_others := count - (name in own)) > 0:
                others[name] = (total - own.get(name, 0)) / n_others
        return others

    def _activity(self, runs: Sequence[RunData], subject: str) -> Patterns:
        """Average one person's recording over each scene of these runs."""
        return average_over_runs([average_activity(run, self._scenes(run)) for run in runs if run.subject == subject])

    def _watched_scenes(
        self, runs: Sequence[RunData], measures_of: Sequence[Mapping[str, np.ndarray]], retold: set[str]
    ) -> WatchedScenes:
        """Average the measures of each scene over its time points, where the head is still."""
        values: dict[str, dict[str, list[np.ndarray]]] = {}
        for run, measures_of_run in zip(runs, measures_of, strict=True):
            for scene, time_points in self._scenes(run).items():
                of_scene = values.setdefault(scene, {})
                for name, series in measures_of_run.items():
                    of_scene.setdefault(name, []).append(series[time_points])
        names = tuple(values)
        lengths = np.array([len(np.concatenate(values[name][SKILL])) for name in names])
        measures = {
            measure: np.array([_finite_mean(np.concatenate(values[name][measure])) for name in names])
            for measure in measures_of[0]
        }
        return WatchedScenes(
            names=names,
            n_time_points=lengths,
            is_retold=np.array([name in retold for name in names]),
            measures={**measures, LENGTH: lengths.astype(float), POSITION: np.arange(len(names), dtype=float)},
        )

    def results(self) -> ProbeResults:
        """Return reinstatement, its differences from controls, and what tells retold from forgotten scenes."""
        if self.config.tasks is None:
            self._note("probe.recall.tasks names no task of watching and none of retelling.")
        if not self._scores.subjects:
            reason = next(iter(self._not_tested), "no test subject has watched and retold.")
            rows, tables, maps = [], {}, {}
            summary = f"Recall was not tested: {reason}"
        else:
            rows, tables = self._scores.rows(), {"subjects": self._scores.subject_table()}
            maps, summary = self._scores.maps(), self._scores.summarize(rows)
        scores = scores_table(rows, measure=REINSTATEMENT, condition=OTHERS)
        return ProbeResults(
            summary=summary, tables={"scores": scores, **tables}, maps=maps, metadata=self._metadata(rows)
        )

    def _metadata(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        shortest, longest = (h * self.setup.repetition_time for h in (self.setup.horizons[0], self.setup.horizons[-1]))
        return {
            "Description": "Reinstatement: correlation of a retold scene's pattern with that of the same scene, less "
            "that with all other scenes, mean over a subject's retold scenes, then over subjects. Volumes of the "
            "retelling are compared with other people's volumes, with this person's and with the model's forecasts, "
            f"{shortest:g} and {longest:g} s ahead; states of a memory with its states while it reads the retelling. "
            "AUC: fraction of pairs of a retold and a forgotten scene in which the retold one has the larger value.",
            "Test": "p = (b + 1) / (n + 1). Reinstatement: names of retold scenes shuffled within subjects, one-sided. "
            "Over neighboring scenes, and differences: sign flips over subjects, one-sided. AUC: values shuffled over "
            "scenes within subjects, two-sided. Subjects share their permutations.",
            "Correction": "None in the table. PCorrected: Holm over the measures of the model by which retold and "
            "forgotten scenes are compared.",
            "PCorrected": self._scores.corrected(rows),
            "PSignFlips": self._scores.sign_flip_p(),
            "Interval": "95 % bootstrap over subjects",
            "Adjustment": "Position of a scene, its square and the logarithm of its length are regressed out of each "
            "measure within subjects, except in the rows of position and length themselves.",
            "Tasks": None if self.config.tasks is None else asdict(self.config.tasks),
            "Column": self.config.column,
            "DelaySeconds": self.config.delay_s,
            "Subjects": self._scores.names,
            "ScenesRetold": {each.subject: int(each.scenes.is_retold.sum()) for each in self._scores.subjects},
            "ScenesWatched": {each.subject: len(each.scenes.names) for each in self._scores.subjects},
            "NotTested": list(self._not_tested),
            "Caveats": [
                "Scenes are mostly retold in their order: whatever changes steadily over a run makes the states of a "
                "memory alike at like scenes. Compare with the polynomial of time and with neighboring scenes.",
                "The states compared are those of one model that reads both recordings of a person. That the person's "
                "memory works like it does not follow.",
            ],
        }


def _join(of_runs: Sequence[Mapping[str, Patterns]]) -> dict[str, Patterns]:
    """Join the patterns of several runs, source by source."""
    return {name: average_over_runs([each[name] for each in of_runs]) for name in of_runs[0]}


def _finite_mean(values: np.ndarray) -> float:
    """Mean of those values that are finite; NaN if none is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
