"""A small dataset of parcels, as the benchmarks' recordings are: three people and a stimulus."""

import json
from pathlib import Path

import numpy as np
import pandas as pd


def write_parcels(folder: Path, tasks: tuple[str, ...] = ("film",)) -> Path:
    """Three subjects, 200 time points of 12 parcels a task: half a stimulus, half noise."""
    rng = np.random.default_rng(0)
    for task in tasks:
        stimulus = rng.normal(size=(200, 12)).cumsum(axis=0)
        stimulus -= stimulus.mean(axis=0)
        for subject in ("001", "002", "003"):
            func = folder / f"sub-{subject}/func"
            func.mkdir(parents=True, exist_ok=True)
            stem = func / f"sub-{subject}_task-{task}_seg-Twelve_stat-mean_timeseries"
            series = stimulus / stimulus.std(axis=0) + rng.normal(size=stimulus.shape)
            columns = [f"parcel-{number}" for number in range(12)]
            pd.DataFrame(series, columns=columns).to_csv(f"{stem}.tsv", sep="\t", index=False)
            Path(f"{stem}.json").write_text(json.dumps({"RepetitionTime": 1.0, "SamplingFrequency": 1.0}))
    (folder / "dataset_description.json").write_text(
        json.dumps({"Name": "parcels", "BIDSVersion": "1.9.0", "DatasetType": "derivative"})
    )
    return folder
