"""One fold: baselines fitted on its training runs, then every model and baseline streamed through its test runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from tqdm import tqdm

from titan_neuro.baselines import AutoregressionBaseline, Persistence, TrainingMean
from titan_neuro.errors import ConfigError, MismatchError, NoMatchError
from titan_neuro.evaluation.causality import check_causal
from titan_neuro.evaluation.scores import BASELINES, Fold, Scores, SubjectMoments, combine
from titan_neuro.metrics import score_run
from titan_neuro.typing import ForecastModel, FrameRun


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class EvaluationConfig:
    """How forecasts are scored. The horizons are the models'.

    Attributes
    ----------
    block_frames : int
        Frames given to a model at a time, at least 2.
    n_resamples : int
        Bootstrap resamples of the subjects.
    """

    block_frames: Annotated[int, Field(ge=2)] = 64
    n_resamples: Annotated[int, Field(ge=1000)] = 10_000


def score_fold(
    models: Sequence[ForecastModel],
    train_runs: Sequence[FrameRun],
    test_runs: Sequence[FrameRun],
    config: EvaluationConfig,
) -> Scores:
    """Score models and baselines on the test runs of one fold.

    Each test run is streamed once, from an empty state, through every model; a model is first shown to be causal, bit
    for bit, on the beginning of the first test run.

    Parameters
    ----------
    models : sequence of ForecastModel
        At least one, already fitted on `train_runs`, all with the same horizons.
    train_runs : sequence of FrameRun
        What the baselines are fitted on.
    test_runs : sequence of FrameRun
        What is scored.
    config : EvaluationConfig
        Block length.

    Returns
    -------
    Scores
        Baselines first, then `models`. Join those of all folds with `combine`.

    Raises
    ------
    ConfigError
        No model; two of one name; horizons that differ or are not ascending from 1.
    NoMatchError
        No test run.
    MismatchError
        A run is both trained and tested on, or has another number of features; a forecast has a wrong shape.
    ImageError
        A test run has nothing to score.
    TrainingError
        The baselines can't be fitted.
    TitanNeuroError
        A model looks ahead, or forecasts a value that is not finite.
    """
    horizons = _common_horizons(models)
    _check_runs(train_runs, test_runs)
    baselines: list[ForecastModel] = [
        TrainingMean(horizons),
        Persistence(horizons),
        AutoregressionBaseline(horizons),
    ]
    for baseline in baselines:
        baseline.fit(train_runs)
    entrants = [*baselines, *models]
    for entrant in entrants:
        check_causal(entrant, test_runs[0], config.block_frames)

    fold = Fold(tuple(run.key for run in train_runs), tuple(run.key for run in test_runs))
    names = tuple(entrant.name for entrant in entrants)
    scores = Scores(names, horizons, {}, (fold,))
    for run in tqdm(test_runs, desc="evaluate", unit="run", disable=None):
        moments = score_run(entrants, run, config.block_frames)
        scores = combine([scores, Scores(names, horizons, {run.subject: SubjectMoments((run.key,), moments)}, ())])
    return scores


def _common_horizons(models: Sequence[ForecastModel]) -> tuple[int, ...]:
    if not models:
        raise ConfigError("There is no model to score.")
    names = [*BASELINES, *(model.name for model in models)]
    if len(set(names)) < len(names):
        raise ConfigError(f"Each model needs a name of its own; found {', '.join(names)} (the first three are taken).")
    horizons = tuple(models[0].horizons)
    for model in models:
        if tuple(model.horizons) != horizons:
            raise ConfigError(
                f"Models differ in their horizons: {models[0].name} {horizons}, {model.name} {tuple(model.horizons)}.",
                "Score models of different horizons in separate tables.",
            )
    if not horizons or horizons[0] < 1 or list(horizons) != sorted(set(horizons)):
        raise ConfigError(f"Horizons must ascend and be at least 1; {models[0].name} has {horizons}.")
    return horizons


def _check_runs(train_runs: Sequence[FrameRun], test_runs: Sequence[FrameRun]) -> None:
    if not test_runs:
        raise NoMatchError("The fold has no test run.", "Check the split and the filters.")
    shared = sorted({run.key for run in train_runs} & {run.key for run in test_runs})
    if shared:
        raise MismatchError(
            f"{len(shared)} runs are both trained and tested on, the first is {shared[0]}.", "Check the split."
        )
    for run in test_runs:
        if train_runs and run.n_features != train_runs[0].n_features:
            raise MismatchError(
                f"{run.key} has {run.n_features} features; the training runs, such as {train_runs[0].key}, have "
                f"{train_runs[0].n_features}.",
                "Prepare all runs with one mask or one parcellation.",
            )
