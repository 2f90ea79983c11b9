"""Datasets of empty files: only names and sidecars are read here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def write_dataset() -> Callable[..., Path]:
    """Write a dataset of empty images, each with a repetition time of 1 s in a sidecar beside it."""

    def write(root: Path, names: Iterable[str], *, derivative: bool = False, sidecar: dict | None = None) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        description = {"Name": "x", "BIDSVersion": "1.10.0"} | ({"DatasetType": "derivative"} if derivative else {})
        (root / "dataset_description.json").write_text(json.dumps(description))
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            if name.endswith("_bold.nii.gz"):
                metadata = {"RepetitionTime": 1.0, **(sidecar or {})}
                path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(metadata))
        return root

    return write
