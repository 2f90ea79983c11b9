"""Prepare: from a recording to a store of causally scaled frames."""

from titan_neuro.data.prepare.run import PrepareConfig, missing_inputs, prepare_run, store_path

__all__ = ["PrepareConfig", "missing_inputs", "prepare_run", "store_path"]
