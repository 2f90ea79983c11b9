"""The store: one Zarr group a run, written once under a temporary name, read by everybody (``docs/store.md``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from titan_neuro.lazy import lazy_names

if TYPE_CHECKING:
    from titan_neuro.data.store.features import FeatureStore, feature_name, write_features
    from titan_neuro.data.store.find import open_runs, store_name
    from titan_neuro.data.store.read import RunStore
    from titan_neuro.data.store.schema import SCHEMA, SCHEMA_VERSION, RunHeader
    from titan_neuro.data.store.view import RunView
    from titan_neuro.data.store.write import write_run

_HOMES = {
    "FeatureStore": "features",
    "RunHeader": "schema",
    "RunStore": "read",
    "RunView": "view",
    "SCHEMA": "schema",
    "SCHEMA_VERSION": "schema",
    "feature_name": "features",
    "open_runs": "find",
    "store_name": "find",
    "write_features": "features",
    "write_run": "write",
}

__all__ = [
    "SCHEMA",
    "SCHEMA_VERSION",
    "FeatureStore",
    "RunHeader",
    "RunStore",
    "RunView",
    "feature_name",
    "open_runs",
    "store_name",
    "write_features",
    "write_run",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
