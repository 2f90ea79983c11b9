"""The forecast benchmark: every model beside its controls, comparison models and baselines, on the same time points,
with intervals.

What is imported from here is loaded when it is first used. The functions `ablations`, `comparisons` and `summary` have
the names of modules: they are imported from `titan_neuro.evaluation.ablations` and `titan_neuro.evaluation.summary`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from titan_neuro.lazy import lazy_names

if TYPE_CHECKING:
    from titan_neuro.evaluation.ablations import ablations_table, format_ablations
    from titan_neuro.evaluation.benchmark import Benchmark, ScoresBySeed, combine
    from titan_neuro.evaluation.causality import check_causal, first_leak
    from titan_neuro.evaluation.ceilings import ceilings_table
    from titan_neuro.evaluation.comparisons import comparisons_table
    from titan_neuro.evaluation.config import EvaluationConfig
    from titan_neuro.evaluation.controls import FrozenMemory, ResetMemory, controls_of
    from titan_neuro.evaluation.fold import draw_offset, score_fold
    from titan_neuro.evaluation.formatting import format_interval, format_table, markdown_table
    from titan_neuro.evaluation.metrics_and_rows import METRICS
    from titan_neuro.evaluation.scores import FoldRuns, Scores
    from titan_neuro.evaluation.tables import residuals_table, rollouts_table, scores_table, subjects_table
    from titan_neuro.evaluation.writing import ScoreContext, format_scores, write_scores

_HOMES = {
    "Benchmark": "benchmark",
    "EvaluationConfig": "config",
    "FoldRuns": "scores",
    "FrozenMemory": "controls",
    "METRICS": "metrics_and_rows",
    "ResetMemory": "controls",
    "ScoreContext": "writing",
    "Scores": "scores",
    "ScoresBySeed": "benchmark",
    "ablations_table": "ablations",
    "ceilings_table": "ceilings",
    "check_causal": "causality",
    "combine": "benchmark",
    "comparisons_table": "comparisons",
    "controls_of": "controls",
    "draw_offset": "fold",
    "first_leak": "causality",
    "format_ablations": "ablations",
    "format_interval": "formatting",
    "format_scores": "writing",
    "format_table": "formatting",
    "markdown_table": "formatting",
    "residuals_table": "tables",
    "rollouts_table": "tables",
    "score_fold": "fold",
    "scores_table": "tables",
    "subjects_table": "tables",
    "write_scores": "writing",
}

__all__ = [
    "METRICS",
    "Benchmark",
    "EvaluationConfig",
    "FoldRuns",
    "FrozenMemory",
    "ResetMemory",
    "ScoreContext",
    "Scores",
    "ScoresBySeed",
    "ablations_table",
    "ceilings_table",
    "check_causal",
    "combine",
    "comparisons_table",
    "controls_of",
    "draw_offset",
    "first_leak",
    "format_ablations",
    "format_interval",
    "format_scores",
    "format_table",
    "markdown_table",
    "residuals_table",
    "rollouts_table",
    "score_fold",
    "scores_table",
    "subjects_table",
    "write_scores",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
