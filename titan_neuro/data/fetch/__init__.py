"""Fetch: clone a DataLad dataset, get what the later stages need of it, free it again."""

from titan_neuro.data.fetch.get import drop, fetch, get_content
from titan_neuro.data.fetch.job import FetchSummary
from titan_neuro.data.fetch.registry import REGISTRY, Published, RegistryEntry

__all__ = ["REGISTRY", "FetchSummary", "Published", "RegistryEntry", "drop", "fetch", "get_content"]
