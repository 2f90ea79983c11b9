"""The third stage: the forecasts of held-out runs are scored beside controls, comparison models and baselines."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from titan_neuro.baselines import SharedFits, make_baselines, make_oracle_references
from titan_neuro.data.bids.maps import write_map
from titan_neuro.data.repeats import find_repeats
from titan_neuro.evaluation import ScoreContext, combine, controls_of, format_scores, score_fold, write_scores
from titan_neuro.evaluation.metrics_and_rows import AR, STIMULUS_LOCKED, TEST_RETEST
from titan_neuro.evaluation.noise_ceilings import retest_ceiling, stimulus_locked_ceiling
from titan_neuro.files import find_with_leftovers, read_json, remove_files
from titan_neuro.manifests import ResultOf, State
from titan_neuro.tables import read_written_tsv
from titan_neuro.training.closed_form import fitted_linear_skip

if TYPE_CHECKING:
    from titan_neuro.baselines import OracleReference
    from titan_neuro.evaluation import Benchmark
    from titan_neuro.linear.autoregression import Autoregression
    from titan_neuro.metrics import Ceiling
    from titan_neuro.study.config import StudyConfig
    from titan_neuro.study.models import StudyPlan, TrainedStudy
    from titan_neuro.training import FoldData
    from titan_neuro.typing import ForecastModel, RunData

logger = logging.getLogger(__name__)

# Raised when the same models and settings come to other scores.
_METHOD_VERSION = 10
# Files of the group level that are made here, after the stem.
_WRITTEN = ("desc-forecast*", "desc-rollout_*", "desc-residuals_*", "desc-ceilings_*", "*stat-skillar_*", "*stat-r2_*")


@dataclass(frozen=True)
class Evaluation:
    """The scores of a study.

    Attributes
    ----------
    scores : pandas.DataFrame
        A row for each model and lead time; `titan_neuro.evaluation.metrics_and_rows` defines the columns.
    differences : pandas.DataFrame
        A row for each pair of rows that are compared, and lead time.
    ablations : pandas.DataFrame
        A row for each part of the model that was zeroed, replaced or restricted: what it adds over all lead times.
    parts : str
        One sentence: what memory, backbone and Swin encoder add.
    summary : str
        One sentence on the study's model.
    comparisons : list of str
        One sentence for each comparison of the model with another row.
    caveats : list of str
        What must be said beside these scores.
    path : Path
        The table on the disk; other tables and maps lie beside it.
    """

    scores: pd.DataFrame
    differences: pd.DataFrame
    ablations: pd.DataFrame
    parts: str
    summary: str
    comparisons: list[str]
    caveats: list[str]
    path: Path

    def __str__(self) -> str:
        """The tables and the sentences, for the terminal."""
        return format_scores(self.scores, self.differences, self.ablations, self.caveats)


def evaluation_result(plan: StudyPlan) -> ResultOf:
    """Return what the scores of a study follow from: their manifest. Those of a part of it are stale for the whole."""
    config = plan.config
    return ResultOf(
        root=plan.output.path,
        name="evaluate",
        method=_METHOD_VERSION,
        settings={
            "evaluation": asdict(config.evaluation),
            "seeds": plan.seeds,
            "tested": plan.tested,
            "rows": [row.name for part in _rows(config.model.horizons) for row in part],
            "caveats": plan.folds[0].caveats,
        },
        inputs=plan.inputs(plan.models),
    )


def scores_path(plan: StudyPlan) -> Path:
    """Return the path of the table of scores."""
    return plan.stem.with_name(f"{plan.stem.name}_desc-forecast_scores.tsv")


def evaluate_study(trained: TrainedStudy, notes: Sequence[str] = ()) -> Evaluation:
    """Score the folds unless that was done before, and write the tables and maps.

    Parameters
    ----------
    trained : TrainedStudy
    notes : sequence of str
        Caveats beside those of the plan and of the data.
    """
    config, plan = trained.config, trained.plan
    caveats = [*notes, *plan.notes, *trained.folds[0].caveats]
    path, result = scores_path(plan), evaluation_result(plan)
    found = result.check()
    if found.is_done:
        logger.info("The forecasts were scored before: %s", path)
    else:
        if found.state is not State.MISSING:
            logger.info("The forecasts are scored again: %s", found)
        with plan.output.stage("evaluate", seed=config.seeds[0], device=trained.device):
            benchmark = _score_folds(trained)
            with result.writing() as written:
                # A table that is no longer made would pass for one of these.
                remove_files(_files_of(plan.stem))
                _write_tables(benchmark, trained.folds[0], config, path, caveats)
                _write_maps(benchmark, trained.folds[0], plan.stem, caveats)
                written.files += _files_of(plan.stem)
    sidecar = read_json(path.with_suffix(".json"))
    scores, differences, ablations = (
        read_written_tsv(path.with_name(path.name.replace("-forecast_", f"-forecast{what}_")))
        for what in ("", "comparisons", "ablations")
    )
    return Evaluation(
        scores=scores,
        differences=differences,
        ablations=ablations,
        parts=sidecar["Ablations"],
        summary=sidecar["Summary"],
        comparisons=sidecar["Comparisons"],
        caveats=caveats,
        path=path,
    )


def _files_of(stem: Path) -> list[Path]:
    """Tables and maps of an evaluation, also those that an interrupted one has left."""
    return [path for kind in _WRITTEN for path in find_with_leftovers(stem.parent, f"{stem.name}_{kind}")]


def _score_folds(trained: TrainedStudy) -> Benchmark:
    parts = []
    for position, data in enumerate(trained.folds):
        models: dict[int, list[ForecastModel]] = {}
        train, test = data.fit_runs, data.select(data.fold.test)
        for seed, folds in trained.models.items():
            main, *comparison_models = folds[position]
            is_trained = trained.config.training.max_epochs > 0
            models[seed] = [main, *controls_of(main, train, is_trained=is_trained), *comparison_models]
        # The models of the fold begin with the same autoregression: it is fitted once.
        linear = functools.partial(_linear_skip, trained, data)
        baselines, references = _rows(trained.config.model.horizons, linear)
        parts.append(
            score_fold(
                models,
                baselines,
                references,
                train,
                test,
                trained.config.evaluation,
                protocol=data.protocol,
                name=f"Fold {data.fold.number} of {trained.plan.n_folds}",
            )
        )
    return combine(parts)


def _linear_skip(trained: TrainedStudy, data: FoldData, runs: Sequence[RunData]) -> Autoregression:
    """The autoregression of the fold's models, which is fitted to the same `runs` as the baselines."""
    return fitted_linear_skip(data, trained.config.model.horizons, work_dir=trained.plan.output.work_dir)


def _rows(
    horizons: tuple[int, ...], fit_linear: Callable[[Sequence[RunData]], Autoregression] | None = None
) -> tuple[list[ForecastModel], list[OracleReference]]:
    """Baselines and oracle references, not fitted yet, in the order of the table."""
    shared_fits = SharedFits(horizons, fit_linear)
    return make_baselines(horizons, shared_fits), make_oracle_references(horizons, shared_fits)


def _write_tables(
    benchmark: Benchmark, data: FoldData, config: StudyConfig, path: Path, caveats: Sequence[str]
) -> None:
    run = data.runs[data.fold.test[0]]
    context = ScoreContext(
        task=path.name.split("_")[0].removeprefix("task-"),
        repetition_time_s=run.repetition_time,
        space=data.space.name,
        normalization=run.store.record["normalizer"]["method"],
        caveats=caveats,
    )
    write_scores(path.parent, benchmark, context, config.evaluation, config.seeds[0], _ceilings(data))


def _ceilings(data: FoldData) -> dict[str, Ceiling]:
    """From all runs, whatever part they have in this fold: a ceiling is a property of the recordings."""
    runs = list(data.runs.values())
    return {STIMULUS_LOCKED: stimulus_locked_ceiling(runs), TEST_RETEST: retest_ceiling(find_repeats(runs))}


def _write_maps(benchmark: Benchmark, data: FoldData, stem: Path, caveats: Sequence[str]) -> None:
    main, scores = benchmark.main_model, benchmark.scores
    for model, metric in ((main, "skill_ar"), (main, "r2"), (AR, "r2")):
        for horizon in scores.first.horizons:
            label = f"stat-{metric.replace('_', '')}_desc-{model.replace('-', '')}H{horizon}"
            metadata = {
                "Description": f"{metric} of {model}, lead time {horizon} time points, mean over subjects; errors "
                "summed over seeds",
                "Units": "1 is a perfect forecast",
                "NumberOfSubjects": len(scores.first.subjects),
                "Seeds": list(scores.by_seed),
                "Protocol": benchmark.protocol,
                "Caveats": list(caveats),
            }
            write_map(stem, label, data.space, scores.feature_map(metric, model, horizon), metadata)
