"""Prepare recordings: spatial mapping, temporal cleaning and causal normalization, into one store a run.

Which file does what: ``routes`` opens a run by its route; ``spatial_mapping`` composes head motion, distortion
correction, coregistration and template warp, which ``resampling`` applies in one interpolation; ``cleaning`` runs
``high_pass``, ``confound_regression`` and ``normalization`` over the time series; ``run`` does all of it for one run.
"""

from titan_neuro.data.prepare.config import PrepareConfig
from titan_neuro.data.prepare.inputs import content_id
from titan_neuro.data.prepare.preview import preview_run
from titan_neuro.data.prepare.run import check_prepared, missing_inputs, prepare_run, store_path

__all__ = [
    "PrepareConfig",
    "check_prepared",
    "content_id",
    "missing_inputs",
    "prepare_run",
    "preview_run",
    "store_path",
]
