"""The forecast benchmark: every model beside the baselines, on the same frames, with an interval over subjects."""

from titan_neuro.evaluation.causality import check_causal, first_leak
from titan_neuro.evaluation.fold import EvaluationConfig, score_fold
from titan_neuro.evaluation.scores import BASELINES, METRICS, Fold, Scores, combine
from titan_neuro.evaluation.tables import format_table, scores_table, subjects_table, verdict
from titan_neuro.evaluation.writing import ScoreContext, write_scores

__all__ = [
    "BASELINES",
    "METRICS",
    "EvaluationConfig",
    "Fold",
    "ScoreContext",
    "Scores",
    "check_causal",
    "combine",
    "first_leak",
    "format_table",
    "score_fold",
    "scores_table",
    "subjects_table",
    "verdict",
    "write_scores",
]
