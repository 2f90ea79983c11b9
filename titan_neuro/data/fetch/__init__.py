"""Fetch: clone a DataLad dataset, get the files that later stages need, free their content again."""

from titan_neuro.data.fetch.get import drop, fetch, get_content
from titan_neuro.data.fetch.job import FetchSummary
from titan_neuro.data.fetch.registry import REGISTRY, Published, RegistryEntry

__all__ = ["REGISTRY", "FetchSummary", "Published", "RegistryEntry", "drop", "fetch", "get_content"]
