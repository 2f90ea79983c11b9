"""The forecast benchmark: every model beside its controls, comparison models and baselines, on the same time points,
with intervals.
"""

from titan_neuro.evaluation.ablations import ablations, ablations_table, format_ablations
from titan_neuro.evaluation.benchmark import Benchmark, ScoresBySeed, combine
from titan_neuro.evaluation.causality import check_causal, first_leak
from titan_neuro.evaluation.ceilings import ceilings_table
from titan_neuro.evaluation.comparisons import comparisons_table
from titan_neuro.evaluation.controls import FrozenMemory, ResetMemory, controls_of
from titan_neuro.evaluation.fold import EvaluationConfig, draw_offset, score_fold
from titan_neuro.evaluation.formatting import format_interval, format_table, markdown_table
from titan_neuro.evaluation.metrics_and_rows import METRICS
from titan_neuro.evaluation.scores import FoldRuns, Scores
from titan_neuro.evaluation.summary import comparisons, summary
from titan_neuro.evaluation.tables import residuals_table, rollouts_table, scores_table, subjects_table
from titan_neuro.evaluation.writing import ScoreContext, format_scores, write_scores

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
    "ablations",
    "ablations_table",
    "ceilings_table",
    "check_causal",
    "combine",
    "comparisons",
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
    "summary",
    "write_scores",
]
