"""Figures, brain maps, and one HTML page with the results of a study."""

from titan_neuro.report.brain import plot_map
from titan_neuro.report.page import write_report

__all__ = ["plot_map", "write_report"]
