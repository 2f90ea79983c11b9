"""Presets, and the strict loader of YAML files and ``--set`` overrides."""

from titan_neuro.study.config import StudyConfig
from titan_neuro.study.load import load_study, write_resolved

__all__ = ["StudyConfig", "load_study", "write_resolved"]
