"""What each person's recordings consist of, from the JSON beside each prepared run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import pandas as pd

from titan_neuro.report.numbers import count_range

QUALITY_COLUMNS = (
    "Runs",
    "Time points",
    "Scored",
    "Voxels or parcels",
    "of these constant",
    "Volumes before steady state",
)
"""Headings of the columns after the subject."""

_COUNTS = (
    *("NumberOfTimePoints", "NumberOfScoredTimePoints", "NumberOfFeatures", "NumberOfConstantFeatures"),
    "VolumesBeforeSteadyState",
)


class QualityRow(TypedDict):
    """A person: a cell for each of `QUALITY_COLUMNS`; of counts over several runs the smallest and the largest."""

    subject: str
    cells: list[str]


def quality_rows(prepared: Mapping[str, Mapping[str, Any]]) -> list[QualityRow]:
    """Make a row for each person.

    Parameters
    ----------
    prepared : mapping
        The JSON beside each prepared run, by the run's key.

    Returns
    -------
    list of QualityRow
        In the order of the names.
    """
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for key, sidecar in prepared.items():
        runs.setdefault(key.split("_")[0].removeprefix("sub-"), []).append(sidecar)
    return [
        QualityRow(
            subject=subject,
            cells=[str(len(of)), *(count_range(pd.Series([int(run[name]) for run in of])) for name in _COUNTS)],
        )
        for subject, of in sorted(runs.items())
    ]
