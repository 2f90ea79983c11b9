"""Names and constants that the files of a synthetic dataset share with ds003017."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from titan_neuro import __version__

TASK = "movie"
RETELLING = "recall"
SPACE = "MNI152NLin2009aSym"
LABELS = [
    f"sid{number:06d}"
    for number in (
        *(5, 7, 9, 10, 13, 20, 21, 24, 25, 29, 30, 34, 50, 52, 55),
        *(114, 120, 134, 142, 278, 416, 499, 522, 535, 560),
    )
]
MINIMAL = "ds003017-fmriprep"
# The name that the published transforms bear.
TARGET = "MNI152NLin2009cAsym"


def subject_name(subject: int) -> str:
    """``sub-sid000005`` for the subject of index 0."""
    return f"sub-{LABELS[subject]}"


def run_stem(root: Path, subject: int, run: int) -> Path:
    """What the names of a run's files begin with, under the dataset at `root`."""
    name = subject_name(subject)
    return root / name / "func" / f"{name}_task-{TASK}_run-{run:02d}"


def description(name: str, dataset_type: str) -> dict[str, Any]:
    """A ``dataset_description.json``; `dataset_type` is "raw" or "derivative"."""
    generated_by = [{"Name": "Titan-Neuro", "Version": __version__, "Description": "titan-neuro simulate"}]
    return {"Name": name, "BIDSVersion": "1.8.0", "DatasetType": dataset_type, "GeneratedBy": generated_by}


def table(rows: Iterable[Iterable[str]]) -> str:
    """Rows as tab-separated lines."""
    return "".join("\t".join(row) + "\n" for row in rows)
