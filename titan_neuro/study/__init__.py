"""A whole study from Python: `Study` prepares, trains, evaluates, probes and reports; `StudyConfig` holds settings.

What is imported from here is loaded when it is first used: `load_pipeline` and the help of the command need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from titan_neuro.lazy import lazy_names

if TYPE_CHECKING:
    from titan_neuro.study.config import StudyConfig
    from titan_neuro.study.load import load_study, parse_setting, write_resolved
    from titan_neuro.study.pipelines import Pipeline, load_pipeline
    from titan_neuro.study.selection import Selection
    from titan_neuro.study.study import Study

_HOMES = {
    "Pipeline": "pipelines",
    "Selection": "selection",
    "Study": "study",
    "StudyConfig": "config",
    "load_pipeline": "pipelines",
    "load_study": "load",
    "parse_setting": "load",
    "write_resolved": "load",
}

__all__ = [
    "Pipeline",
    "Selection",
    "Study",
    "StudyConfig",
    "load_pipeline",
    "load_study",
    "parse_setting",
    "write_resolved",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
