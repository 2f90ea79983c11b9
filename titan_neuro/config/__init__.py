"""Presets, and the strict loader of YAML files and ``--set`` overrides."""

from titan_neuro.config.load import load_study, write_resolved
from titan_neuro.config.study import StudyConfig

__all__ = ["StudyConfig", "load_study", "write_resolved"]
