"""The store: one Zarr group a run, written once under a temporary name, read by everybody (``docs/store.md``)."""

from titan_neuro.data.store.features import FeatureStore, feature_name, write_features
from titan_neuro.data.store.find import open_runs, store_name
from titan_neuro.data.store.read import RunStore
from titan_neuro.data.store.schema import SCHEMA, SCHEMA_VERSION, RunHeader
from titan_neuro.data.store.view import RunView
from titan_neuro.data.store.write import write_run

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
