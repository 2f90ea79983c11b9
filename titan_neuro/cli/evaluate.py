"""``titan-neuro evaluate``: score every held-out run beside controls, comparison models, baselines and references."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_neuro.cli import common

if TYPE_CHECKING:
    import pandas as pd

    from titan_neuro.baselines import Reference
    from titan_neuro.cli.common import TrainedStudy
    from titan_neuro.evaluation import Benchmark
    from titan_neuro.metrics import Ceiling
    from titan_neuro.study import StudyConfig
    from titan_neuro.training import FoldData
    from titan_neuro.typing import ForecastModel

logger = logging.getLogger(__name__)

# Raised when the same models and settings come to other scores.
_METHOD_VERSION = 3
# Files of the group level that are made here, after the stem.
_WRITTEN = ("desc-forecast*", "desc-rollout_*", "desc-residuals_*", "desc-ceilings_*", "*stat-skillar_*", "*stat-r2_*")
# Of twenty rows, these have maps: what the study is about, and its bar.
_MAPPED_BASELINE = "ar"


def add_parser(subcommands: Any) -> None:
    """Add the subcommand."""
    parser = common.new_subcommand(
        subcommands, "evaluate", "Score the forecasts of held-out runs beside the baselines."
    )
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="where `train` has written")
    common.add_study(parser)
    common.add_device(parser)
    group = parser.add_argument_group("null control")
    group.add_argument(
        "--null-control",
        choices=["white", "phase"],
        help="go the whole way, preparation and training included, on noise of the data's shape (white) or on the data "
        "with shuffled phases, into OUTPUT_DIR/null-...; fails where a row scores more than 0.02",
    )
    common.add_sources(group)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> None:
    """Score all folds, write the tables and maps, and print the table; or do it all on noise."""
    if getattr(arguments, "null_control", None):
        from titan_neuro.cli import null_control

        null_control.execute(arguments)
    else:
        score(arguments)


def score(arguments: argparse.Namespace, notes: Sequence[str] = ()) -> pd.DataFrame:
    """Score all folds unless that was done before, write the tables and maps, and print the table.

    Parameters
    ----------
    arguments : argparse.Namespace
    notes : sequence of str
        Caveats beside those of the data.

    Returns
    -------
    pandas.DataFrame
        The table of scores.
    """
    import pandas as pd

    from titan_neuro.evaluation import format_table
    from titan_neuro.provenance import digest

    trained = common.open_trained(arguments)
    study = trained.study
    caveats = [*notes, *trained.folds[0].caveats]
    table_path = Path(f"{trained.stem}_desc-forecast_scores.tsv")
    rows = [row.name for part in _rows(study.model.horizons) for row in part]
    fingerprint = digest([asdict(study.evaluation), trained.fingerprints, caveats, rows, _METHOD_VERSION])
    if common.is_done(arguments.output_dir, "evaluate", fingerprint, [table_path]):
        logger.info("The forecasts were scored before: %s", table_path)
    else:
        with common.stage(arguments, "evaluate", fingerprint=fingerprint, seed=study.seeds[0], device=trained.device):
            benchmark = _score_folds(trained)
            _discard_earlier(Path(trained.stem))
            _write_tables(benchmark, trained.folds[0], study, table_path, caveats)
            _write_maps(benchmark, trained.folds[0], trained.stem, caveats)
    table = pd.read_csv(table_path, sep="\t")
    told = json.loads(table_path.with_suffix(".json").read_text(encoding="utf-8"))
    print("\n".join([format_table(table), told["Verdict"], *told["Comparisons"], *caveats]))  # noqa: T201
    return table


def _discard_earlier(stem: Path) -> None:
    """Remove what an earlier evaluation wrote: a table that is no longer made would pass for one of these."""
    for kind in _WRITTEN:
        for path in stem.parent.glob(f"{stem.name}_{kind}"):
            path.unlink()


def _score_folds(trained: TrainedStudy) -> Benchmark:
    from titan_neuro.evaluation import combine, controls_of, score_fold

    parts = []
    for at, data in enumerate(trained.folds):
        models: dict[int, list[ForecastModel]] = {}
        for seed, folds in trained.models.items():
            own, *comparison_models = folds[at]
            models[seed] = [own, *controls_of(own), *comparison_models]
        train = data.part((*data.fold.train, *data.fold.validation))
        baselines, references = _rows(trained.study.model.horizons)
        test, config = data.part(data.fold.test), trained.study.evaluation
        parts.append(score_fold(models, baselines, references, train, test, config, protocol=data.protocol))
    return combine(parts)


def _rows(horizons: tuple[int, ...]) -> tuple[list[ForecastModel], list[Reference]]:
    """Baselines and reference lines, not fitted yet, in the order of the table."""
    from titan_neuro.baselines import SharedFits, make_baselines, make_references

    shared_fits = SharedFits(horizons)
    return make_baselines(horizons, shared_fits), make_references(horizons, shared_fits)


def _write_tables(benchmark: Benchmark, data: FoldData, study: StudyConfig, path: Path, caveats: Sequence[str]) -> None:
    from titan_neuro.evaluation import ScoreContext, write_scores

    run = data.runs[data.fold.test[0]]
    context = ScoreContext(
        task=path.name.split("_")[0].removeprefix("task-"),
        repetition_time_s=run.repetition_time,
        space=data.space.name,
        normalization=run.store.record["normalizer"]["method"],
        caveats=caveats,
    )
    write_scores(path.parent, benchmark, context, study.evaluation, study.seeds[0], _ceilings(data))


def _ceilings(data: FoldData) -> dict[str, Ceiling]:
    """From all runs, whatever part they have in this fold: a ceiling is a property of the recordings."""
    from titan_neuro.data.repeats import find_repeats
    from titan_neuro.evaluation.vocabulary import STIMULUS_LOCKED, TEST_RETEST
    from titan_neuro.metrics import retest_ceiling, stimulus_locked_ceiling

    runs = list(data.runs.values())
    return {STIMULUS_LOCKED: stimulus_locked_ceiling(runs), TEST_RETEST: retest_ceiling(find_repeats(runs))}


def _write_maps(benchmark: Benchmark, data: FoldData, stem: str, caveats: Sequence[str]) -> None:
    from titan_neuro.data.bids.output import write_map

    main, scores = benchmark.main_model, benchmark.scores
    for model, metric in ((main, "skill_ar"), (main, "r2"), (_MAPPED_BASELINE, "r2")):
        for horizon in scores.first.horizons:
            label = f"stat-{metric.replace('_', '')}_desc-{model.replace('-', '')}H{horizon}"
            metadata = {
                "Description": f"{metric} of {model}, {horizon} time points ahead, mean over subjects; errors summed over "
                "seeds",
                "Units": "1 is a perfect forecast",
                "NumberOfSubjects": len(scores.first.subjects),
                "Seeds": list(scores.by_seed),
                "Protocol": benchmark.protocol,
                "Caveats": list(caveats),
            }
            write_map(Path(stem), label, data.space, scores.feature_map(metric, model, horizon), metadata)
