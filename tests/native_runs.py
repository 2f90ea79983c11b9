"""Runs of noise in their own space, with a mask: the least that can be prepared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from phantom import save


def write(root: Path, *, n_runs: int, shape: tuple[int, int, int], n_time_points: int) -> Path:
    """Write a dataset of one subject."""
    func, masks, affine = root / "sub-01/func", root / "derivatives/mask/sub-01/func", np.diag([4.0, 4.0, 4.0, 1.0])
    func.mkdir(parents=True)
    masks.mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "Bruit – 雑音", "BIDSVersion": "1.8.0"}', encoding="utf-8")
    save(masks / "sub-01_desc-brain_mask.nii.gz", np.ones(shape, np.uint8), affine)
    rng = np.random.default_rng(0)
    for run in range(1, n_runs + 1):
        stem = func / f"sub-01_task-movie_run-{run:02d}_bold"
        stem.with_suffix(".json").write_text('{"RepetitionTime": 1.0, "TaskName": "movie"}')
        save(stem.with_suffix(".nii.gz"), rng.integers(900, 1100, (*shape, n_time_points)).astype(np.int16), affine)
    return root
