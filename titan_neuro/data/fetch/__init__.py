"""Fetch: clone a DataLad dataset, get the files that later stages need, free their content again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from titan_neuro.lazy import lazy_names

if TYPE_CHECKING:
    from titan_neuro.data.fetch.get import drop, fetch, get_content
    from titan_neuro.data.fetch.job import FetchSummary
    from titan_neuro.data.fetch.registry import REGISTRY, Published, RegistryEntry

_HOMES = {
    "FetchSummary": "job",
    "Published": "registry",
    "REGISTRY": "registry",
    "RegistryEntry": "registry",
    "drop": "get",
    "fetch": "get",
    "get_content": "get",
}

__all__ = ["REGISTRY", "FetchSummary", "Published", "RegistryEntry", "drop", "fetch", "get_content"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
