"""Fetch: clone a DataLad dataset, get what the later stages need of it, free it again."""

from titan_neuro.data.fetch.get import FetchSummary, drop, fetch, get_content

__all__ = ["FetchSummary", "drop", "fetch", "get_content"]
