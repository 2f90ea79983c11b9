"""One fold: baselines fitted on its training runs, then every row of the table streamed through its test runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from tqdm import tqdm

from titan_neuro.baselines import Reference
from titan_neuro.evaluation.benchmark import Benchmark, SeedScores
from titan_neuro.evaluation.causality import check_causal
from titan_neuro.evaluation.forecasters import check_runs, check_seeds, kinds_of
from titan_neuro.evaluation.rollout_scores import RolloutScores, combine_rollouts
from titan_neuro.evaluation.rollouts import roll_run
from titan_neuro.evaluation.scores import REFERENCES, Fold, Scores, combine_scores
from titan_neuro.evaluation.sums import sums_of
from titan_neuro.metrics import score_run
from titan_neuro.seeds import keyed_generator
from titan_neuro.typing import ForecastModel, RunData

logger = logging.getLogger(__name__)
# A short run keeps most of its time points.
_LARGEST_OFFSET_FRACTION = 0.1


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class EvaluationConfig:
    """How forecasts are scored. The horizons are the models'.

    Attributes
    ----------
    block_time_points : int
        Time points given to a model at a time, at least 2.
    max_offset_time_points : int
        A test run begins at a random time point, this one at the latest, and never after a tenth of the run.
    rollout_every_time_points : int
        From so many time points to the next a rollout starts; 0 for no rollouts. Networks whose states stand at the
        same place inside a segment roll side by side: a multiple of their segments costs a third of another number.
    n_resamples : int
        Bootstrap resamples of the subjects.
    """

    block_time_points: Annotated[int, Field(ge=2)] = 64
    max_offset_time_points: Annotated[int, Field(ge=0)] = 30
    rollout_every_time_points: Annotated[int, Field(ge=0)] = 32
    n_resamples: Annotated[int, Field(ge=1000)] = 10_000


def score_fold(
    models: Mapping[int, Sequence[ForecastModel]],
    baselines: Sequence[ForecastModel],
    references: Sequence[Reference],
    train_runs: Sequence[RunData],
    test_runs: Sequence[RunData],
    config: EvaluationConfig,
    *,
    protocol: str,
) -> Benchmark:
    """Score models, baselines and references on the test runs of one fold.

    For each seed, each test run is streamed once, from an empty state, through every row of the table, from an offset
    that is drawn for run and seed and is the same for all rows. A row is first shown to be causal, bit for bit, on the
    beginning of the first test run.

    Parameters
    ----------
    models : mapping of int to sequence of ForecastModel
        By seed, fitted on `train_runs`: the study's own model, its controls, its comparison models. Same names and
        horizons in every seed.
    baselines : sequence of ForecastModel
        Fitted here; ``mean``, ``persistence`` and ``ar`` among them.
    references : sequence of Reference
        Fitted here.
    train_runs : sequence of RunData
        What baselines and references are fitted on.
    test_runs : sequence of RunData
        What is scored.
    config : EvaluationConfig
        Block length, offsets, rollouts.
    protocol : {"subject", "run", "strict"}
        What the test runs must not share with the training runs: a subject; a run; a subject, and what was shown.

    Returns
    -------
    Benchmark
        Join those of all folds with `combine`.

    Raises
    ------
    ConfigError
        No model; two of one name; horizons that differ or are not ascending from 1.
    NoMatchError
        No test run.
    MismatchError
        The split is not what the protocol says; another number of features; a forecast of a wrong shape.
    ImageError
        A test run has nothing to score.
    TrainingError
        The baselines can't be fitted.
    TitanNeuroError
        A model looks ahead, or forecasts a value that is not finite.
    """
    check_seeds(models)
    first_models = next(iter(models.values()))
    kinds = kinds_of(first_models, baselines, references)
    check_runs(train_runs, test_runs, protocol)
    for row in (*baselines, *references):
        row.fit(train_runs)
    of_first = [*baselines, *(reference.follow(test_runs[0], 0) for reference in references)]
    for forecaster in [*of_first, *(model for own in models.values() for model in own)]:
        check_causal(forecaster, test_runs[0], config.block_time_points)

    mapped = (first_models[0].name, REFERENCES["skill_ar"], REFERENCES["r2"])
    roll = config.rollout_every_time_points > 0 and first_models[0].horizons[0] == 1
    if config.rollout_every_time_points and not roll:
        logger.warning(
            "No rollouts: they are made of forecasts one time point ahead, and the horizons don't begin with 1."
        )
    still, high_motion, rolled, offsets = {}, {}, {}, {}
    bar = tqdm(total=len(models) * len(test_runs), desc="evaluate", unit="run", disable=None)
    for seed, own in models.items():
        offsets[seed] = {run.key: draw_offset(run, seed, config) for run in test_runs}
        parts: list[tuple[Scores, Scores, RolloutScores | None]] = []
        for run in test_runs:
            first_time_point = offsets[seed][run.key]
            followers = [reference.follow(run, first_time_point) for reference in references]
            by_name = {forecaster.name: forecaster for forecaster in (*own, *baselines, *followers)}
            forecasters = [by_name[name] for name in kinds]
            scores = _score(forecasters, run, first_time_point, mapped, config.block_time_points)
            parts.append(
                (
                    *scores,
                    roll_run(forecasters, run, first_time_point, config.rollout_every_time_points) if roll else None,
                )
            )
            bar.update()
        still[seed] = combine_scores([part for part, _, _ in parts])
        high_motion[seed] = combine_scores([part for _, part, _ in parts])
        if roll:
            rolled[seed] = combine_rollouts([part for _, _, part in parts if part is not None])
    bar.close()
    fold = Fold(tuple(run.key for run in train_runs), tuple(run.key for run in test_runs))
    return Benchmark(protocol, kinds, SeedScores(still), high_motion, rolled, offsets, (fold,))


def draw_offset(run: RunData, seed: int, config: EvaluationConfig) -> int:
    """Return the time point at which a test run begins; the same for the same run and seed, whatever else is scored."""
    latest = min(config.max_offset_time_points, int(run.n_time_points * _LARGEST_OFFSET_FRACTION))
    return int(keyed_generator(seed, run.key).integers(latest + 1))


def _score(
    forecasters: Sequence[ForecastModel],
    run: RunData,
    first_time_point: int,
    mapped: tuple[str, ...],
    block_time_points: int,
) -> tuple[Scores, Scores]:
    """Scores of one run: over the time points at which the head lay still, and over those at which it moved."""
    names, horizons = tuple(forecaster.name for forecaster in forecasters), tuple(forecasters[0].horizons)
    still, high_motion = score_run(forecasters, run, block_time_points, first_time_point)
    sums = sums_of(run.key, still, [names.index(name) for name in mapped])
    return (
        Scores(names, mapped, horizons, {run.subject: sums}),
        Scores(names, (), horizons, {} if high_motion is None else {run.subject: sums_of(run.key, high_motion)}),
    )
