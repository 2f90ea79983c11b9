"""Prepare: from a recording to a store of causally scaled volumes."""

from titan_neuro.data.prepare.config import PrepareConfig
from titan_neuro.data.prepare.run import content_id, missing_inputs, prepare_run, store_path

__all__ = ["PrepareConfig", "content_id", "missing_inputs", "prepare_run", "store_path"]
