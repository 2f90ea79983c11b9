"""Datasets of parcel series with continuous tables, and the tables themselves, as BIDS has them."""

import gzip
import json

import numpy as np


def write_continuous(path, columns, *, frequency=10.0, start=0.0, text=None, **sidecar):
    """Write columns (arrays by name; NaN is ``n/a``) and their sidecar; or this text instead of the rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = zip(*columns.values(), strict=True)
    cells = ("\t".join("n/a" if np.isnan(cell) else repr(float(cell)) for cell in row) + "\n" for row in rows)
    path.write_bytes(gzip.compress((text or "".join(cells)).encode()))
    content = {"Columns": list(columns), "SamplingFrequency": frequency, "StartTime": start, **sidecar}
    path.with_name(path.name.replace(".tsv.gz", ".json")).write_text(json.dumps(content))
    return path


def write_parcels(root, subjects, *, task="movie", n_time_points=60, repetition_time=1.5, drive=None):
    """Write parcel series of several subjects: noise, plus a signal that all share in the first of five parcels."""
    root.mkdir(parents=True, exist_ok=True)
    description = {"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "x"}]}
    (root / "dataset_description.json").write_text(json.dumps(description))
    for subject in subjects:
        series = np.random.default_rng(int(subject)).normal(size=(n_time_points, 5))
        if drive is not None:
            series[:, 0] += drive
        path = root / f"sub-{subject}/func/sub-{subject}_task-{task}_seg-x_stat-mean_timeseries.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = ["\t".join("abcde"), *("\t".join(f"{value:.4f}" for value in row) for row in series)]
        path.write_text("\n".join(rows) + "\n")
        path.with_suffix(".json").write_text(json.dumps({"RepetitionTime": repetition_time}))
    return root
