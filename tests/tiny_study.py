"""The smallest study that goes the whole way, from parcels to the report, in a few seconds of a processor's time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

SUBJECTS, N_TIME_POINTS, N_PARCELS = ("01", "02", "03", "04"), 80, 4
SETTINGS = """\
preset: parcels
seeds: [0]
comparison_models: false
split: {n_folds: 2}
prepare: {calibration_s: 20, warmup_s: 5}
training: {max_epochs: 1, steps_per_epoch: 1, window_time_points: 32, n_streams: 2}
model:
  horizons: [1]
  backbone: {dim: 8, n_layers: 1, n_heads: 1, segment_time_points: 32, memory: {n_heads: 1, chunk_time_points: 16}}
  recall: {width: 16, n_components: 4, autoregressive_lags: 1, longest_lag: 16}
  lookahead: {n_lags: 2, n_components: 2, key_width: 8}
evaluation: {n_resamples: 1000, rollout_every_time_points: 0}
probe: {n_permutations: 1, surprise: {n_components: 2},
  context_length: {contexts_time_points: [4, 8], origins_per_run: 4}}
"""
STAGES = ("prepare", "train", "predict", "evaluate", "probe", "report")
"""In the order of a study; of the probes the cheapest."""


def write_dataset(root: Path) -> Path:
    """Write parcel series of four subjects: a stimulus that all share, and noise. One file has events."""
    root.mkdir(parents=True)
    description = {"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "x"}]}
    (root / "dataset_description.json").write_text(json.dumps(description))
    for subject in SUBJECTS:
        write_recording(root, subject)
    return root


def recording(root: Path, subject: str) -> Path:
    """Return the path of a recording's table."""
    return root / f"sub-{subject}/func/sub-{subject}_task-movie_seg-x_stat-mean_timeseries.tsv"


def write_recording(root: Path, subject: str, *, version: int = 0) -> None:
    """Write the table of a recording and its sidecar; another version has other values."""
    stimulus = np.random.default_rng(0).normal(size=(N_TIME_POINTS, N_PARCELS)).cumsum(axis=0)
    stimulus -= np.linspace(0, 1, N_TIME_POINTS)[:, None] * stimulus[-1]
    series = stimulus + 2 * np.random.default_rng([version, int(subject)]).normal(size=stimulus.shape)
    path = recording(root, subject)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ["\t".join(f"p{number}" for number in range(N_PARCELS))]
    rows += ["\t".join(f"{value:.4f}" for value in row) for row in series]
    path.write_text("\n".join(rows) + "\n")
    path.with_suffix(".json").write_text(json.dumps({"RepetitionTime": 1.0}))


def copy(root: Path, folder: Path) -> None:
    """Copy the study in `root` (``bids``, ``out``, ``settings.yaml``), as one that was made from the copied dataset."""
    for name in ("bids", "out"):
        shutil.copytree(root / name, folder / name)
    shutil.copy(root / "settings.yaml", folder)
    path = folder / "out/dataset_description.json"
    path.write_text(path.read_text().replace((root / "bids").as_uri(), (folder / "bids").as_uri()))


def command(stage: str, bids: Path, output: Path, settings: Path) -> list[object]:
    """Return the arguments of ``titan-neuro`` for one of the `STAGES`, for a level of ``run``, or a dry run."""
    given = ["--config-file", settings]
    if stage in ("participant", "group"):
        return ["run", bids, output, stage, *given]
    if stage == "dry-run":
        return ["run", bids, output, "group", "--dry-run", *given]
    if stage == "prepare":
        return ["prepare", bids, output, *given]
    if stage == "probe":
        return ["probe", "context-length", output, *given]
    return [stage, output] if stage == "report" else [stage, output, *given]
