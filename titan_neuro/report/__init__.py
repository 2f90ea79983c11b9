"""Figures, brain maps, and HTML pages with the results of a study."""

from titan_neuro.report.brain import plot_map
from titan_neuro.report.compared import ComparedStudy, Comparison, write_comparison
from titan_neuro.report.headlines import forecast_lines, terminal_lines
from titan_neuro.report.page import write_report
from titan_neuro.report.person import write_person
from titan_neuro.report.results import read_results

__all__ = [
    "ComparedStudy",
    "Comparison",
    "forecast_lines",
    "plot_map",
    "read_results",
    "terminal_lines",
    "write_comparison",
    "write_person",
    "write_report",
]
