"""One fold: baselines are fitted on its training runs, then every row is streamed through its test runs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from titan_neuro.baselines import OracleReference
from titan_neuro.evaluation.benchmark import Benchmark, ScoresBySeed
from titan_neuro.evaluation.causality import check_causal
from titan_neuro.evaluation.config import EvaluationConfig
from titan_neuro.evaluation.controls import shared_parts
from titan_neuro.evaluation.forecasters import check_runs, check_seeds, kinds_of
from titan_neuro.evaluation.metrics_and_rows import REFERENCES, Kind
from titan_neuro.evaluation.rollout_scores import RolloutScores, combine_rollouts
from titan_neuro.evaluation.rollouts import RunRollouts
from titan_neuro.evaluation.scores import FoldRuns, Scores, combine_scores
from titan_neuro.evaluation.shared_calls import shared_calls
from titan_neuro.evaluation.streaming import score_run
from titan_neuro.evaluation.sums import subject_sums
from titan_neuro.progress import Progress
from titan_neuro.runs import InMemoryRun
from titan_neuro.seeds import named_generator
from titan_neuro.typing import ForecastModel, RunData

logger = logging.getLogger(__name__)
# A test run loses at most this fraction of its time points to the offset.
_MAX_OFFSET_FRACTION = 0.1
# Most numbers in the forecasts of a block: a row holds a few such tensors, and the rows share what the last calls made.
_BLOCK_NUMBERS = 2**25


def score_fold(
    models: Mapping[int, Sequence[ForecastModel]],
    baselines: Sequence[ForecastModel],
    references: Sequence[OracleReference],
    train_runs: Sequence[RunData],
    test_runs: Sequence[RunData],
    config: EvaluationConfig,
    *,
    protocol: str,
    name: str = "Scoring",
) -> Benchmark:
    """Score models, baselines and oracle references on the test runs of one fold.

    For each seed, each test run is streamed once through every row, from an empty state and from an offset that is
    drawn for run and seed. Before that, every row is checked to be causal, bit for bit, on the first test run.

    Parameters
    ----------
    models : mapping of int to sequence of ForecastModel
        By seed, fitted on `train_runs`: the study's own model, its controls, its comparison models. Same names and
        lead times in every seed.
    baselines : sequence of ForecastModel
        ``mean``, ``persistence`` and ``ar`` among them; fitted here, as are `references`.
    references : sequence of OracleReference
    train_runs, test_runs : sequence of RunData
        Runs that are fitted on, and runs that are scored.
    config : EvaluationConfig
    protocol : {"subject", "run", "strict"}
        What the test runs must not share with the training runs: the subject; the run; the subject and the stimulus.
    name : str
        Of the fold, in the lines that say how far the work is.

    Returns
    -------
    Benchmark
        Join those of all folds with `combine`.

    Raises
    ------
    ConfigError, NoMatchError, MismatchError
        Rows or runs don't fit together; see :mod:`titan_neuro.evaluation.forecasters`.
    ImageError, TitanNeuroError
        A test run or a forecast can't be scored; see :func:`score_run` and :func:`check_causal`.
    TrainingError
        The baselines can't be fitted.
    """
    check_seeds(models)
    first_models = next(iter(models.values()))
    kinds = kinds_of(first_models, baselines, references)
    check_runs(train_runs, test_runs, protocol)
    config = _possible(config, first_models[0].horizons, test_runs[0].n_features)
    with Progress(len(baselines) + len(references) + 1, name, unit="row") as progress:
        _fit(baselines, references, train_runs, {run.stimulus for run in test_runs}, progress)
        by_seed = {seed: _Rows(kinds, of_seed, baselines, references) for seed, of_seed in models.items()}
        _check_all_causal(by_seed, test_runs[0], config.block_time_points)
        progress.step("every row is causal")
    with Progress(len(models) * len(test_runs), name) as progress:
        results = {seed: _score_seed(rows, test_runs, seed, config, progress) for seed, rows in by_seed.items()}
    fold = FoldRuns(tuple(run.key for run in train_runs), tuple(run.key for run in test_runs))
    return _benchmark_of(protocol, kinds, results, fold)


def draw_offset(run: RunData, seed: int, config: EvaluationConfig) -> int:
    """Draw the time point at which a test run begins; it depends on the run's key and length, the seed and `config`.

    Returns
    -------
    int
        From 0 to `config.max_offset_time_points`, and at most a tenth of the run.
    """
    latest = min(config.max_offset_time_points, int(run.n_time_points * _MAX_OFFSET_FRACTION))
    return int(named_generator(seed, run.key).integers(latest + 1))


@dataclass(frozen=True, eq=False)
class _Rows:
    """All rows of the table in one seed."""

    kinds: Mapping[str, Kind]
    models: Sequence[ForecastModel]
    baselines: Sequence[ForecastModel]
    references: Sequence[OracleReference]

    def forecasters(self, run: RunData, first_time_point: int) -> list[ForecastModel]:
        """All rows in the order of the table, the references bound to the run."""
        bound = [reference.bind(run, first_time_point) for reference in self.references]
        by_name = {forecaster.name: forecaster for forecaster in (*self.models, *self.baselines, *bound)}
        return [by_name[name] for name in self.kinds]


def _fit(
    baselines: Sequence[ForecastModel],
    references: Sequence[OracleReference],
    runs: Sequence[RunData],
    stimuli: Collection[str],
    progress: Progress,
) -> None:
    for baseline in baselines:
        baseline.fit(runs)
        progress.step(f"{baseline.name} is fitted")
    for reference in references:
        reference.fit(runs, stimuli)
        progress.step(f"{reference.name} is fitted")


@dataclass(frozen=True, eq=False)
class _SeedResult:
    """Scores of one seed, of targets without and with high motion, and the offset of each test run."""

    low_motion: Scores
    high_motion: Scores
    rollouts: RolloutScores | None
    offsets: Mapping[str, int]


def _check_all_causal(by_seed: Mapping[int, _Rows], run: RunData, block_time_points: int) -> None:
    """Check each row once: baselines and references with the first seed alone."""
    first = next(iter(by_seed.values()))
    shared = [*first.baselines, *(reference.bind(run, 0) for reference in first.references)]
    for forecaster in [*shared, *(model for rows in by_seed.values() for model in rows.models)]:
        check_causal(forecaster, run, block_time_points)


def _benchmark_of(
    protocol: str, kinds: Mapping[str, Kind], results: Mapping[int, _SeedResult], fold: FoldRuns
) -> Benchmark:
    return Benchmark(
        protocol=protocol,
        kinds=kinds,
        scores=ScoresBySeed({seed: result.low_motion for seed, result in results.items()}),
        high_motion={seed: result.high_motion for seed, result in results.items()},
        rollouts={seed: result.rollouts for seed, result in results.items() if result.rollouts is not None},
        offsets={seed: result.offsets for seed, result in results.items()},
        folds=(fold,),
    )


def _possible(config: EvaluationConfig, horizons: Sequence[int], n_features: int) -> EvaluationConfig:
    """Shorten the blocks, to a power of two, where features are many.

    Turn rollouts off, with a warning, where there are no forecasts one time point ahead.
    """
    fitting = 2 ** max(1, (_BLOCK_NUMBERS // (len(horizons) * n_features)).bit_length() - 1)
    config = replace(config, block_time_points=min(config.block_time_points, fitting))
    if config.rollout_every_time_points and horizons[0] != 1:
        logger.warning(
            "No rollouts: they are made of forecasts one time point ahead, and the horizons don't begin with 1."
        )
        return replace(config, rollout_every_time_points=0)
    return config


def _score_seed(
    rows: _Rows,
    test_runs: Sequence[RunData],
    seed: int,
    config: EvaluationConfig,
    progress: Progress,
) -> _SeedResult:
    mapped = (rows.models[0].name, REFERENCES["skill_ar"], REFERENCES["r2"])
    offsets = {run.key: draw_offset(run, seed, config) for run in test_runs}
    low_motion, high_motion, rollouts = [], [], []
    for stored in test_runs:
        run = _read_once(stored)
        forecasters = rows.forecasters(run, offsets[run.key])
        rolled = None
        if config.rollout_every_time_points:
            rolled = RunRollouts(forecasters, run, offsets[run.key], config.rollout_every_time_points)
        models = forecasters if rolled is None else rolled.models
        with shared_calls(shared_parts(forecasters)):
            low, high = _score_run(models, run, offsets[run.key], mapped, config.block_time_points)
        low_motion.append(low)
        high_motion.append(high)
        if rolled is not None:
            rollouts.append(rolled.scores())
        progress.step(f"{run.key} is scored with seed {seed}")
    return _SeedResult(
        combine_scores(low_motion),
        combine_scores(high_motion),
        combine_rollouts(rollouts) if rollouts else None,
        offsets,
    )


def _read_once(run: RunData) -> RunData:
    """Hold a run in memory: scores and rollouts read the whole of it, and share this one copy."""
    return InMemoryRun(
        run.read(0, run.n_time_points),
        run.scored,
        run.key,
        run.subject,
        run.stimulus,
        run.high_motion,
        stimulus_start=run.stimulus_start,
    )


def _score_run(
    forecasters: Sequence[ForecastModel],
    run: RunData,
    first_time_point: int,
    mapped: tuple[str, ...],
    block_time_points: int,
) -> tuple[Scores, Scores]:
    """Scores of one run: over targets without high motion, and over those with it, of which there may be none."""
    names, horizons = tuple(forecaster.name for forecaster in forecasters), tuple(forecasters[0].horizons)
    statistics = score_run(forecasters, run, block_time_points, first_time_point)
    sums = subject_sums(run.key, statistics.low_motion, [names.index(name) for name in mapped])
    high = statistics.high_motion
    return (
        Scores(names, mapped, horizons, {run.subject: sums}),
        Scores(names, (), horizons, {} if high is None else {run.subject: subject_sums(run.key, high)}),
    )
