"""Titan-Neuro: forecast whole fMRI recordings with a memory that learns at test time."""

from importlib.metadata import version

__version__ = version("titan-neuro")
