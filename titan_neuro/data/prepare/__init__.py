"""Prepare recordings: spatial mapping, temporal cleaning and causal normalization, into one store a run.

Which file does what: ``routes`` opens a run by its route; ``spatial_mapping`` composes head motion, distortion
correction, coregistration and template warp, which ``resampling`` applies in one interpolation; ``cleaning`` runs
``high_pass``, ``confound_regression`` and ``normalization`` over the time series; ``run`` does all of it for one run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from titan_neuro.lazy import lazy_names

if TYPE_CHECKING:
    from titan_neuro.data.prepare.config import PrepareConfig
    from titan_neuro.data.prepare.inputs import content_id
    from titan_neuro.data.prepare.preview import preview_run
    from titan_neuro.data.prepare.run import check_prepared, missing_inputs, prepare_run, store_path

_HOMES = {
    "PrepareConfig": "config",
    "check_prepared": "run",
    "content_id": "inputs",
    "missing_inputs": "run",
    "prepare_run": "run",
    "preview_run": "preview",
    "store_path": "run",
}

__all__ = [
    "PrepareConfig",
    "check_prepared",
    "content_id",
    "missing_inputs",
    "prepare_run",
    "preview_run",
    "store_path",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
