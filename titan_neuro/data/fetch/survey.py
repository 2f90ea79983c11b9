"""Size of a whole dataset: subjects, runs, volumes, annexed files and bytes."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from titan_neuro.data.bids.names import applies_to
from titan_neuro.data.fetch.plan import WantedFile
from titan_neuro.data.fetch.tree import TreeFile, total_bytes
from titan_neuro.errors import MetadataError
from titan_neuro.files import read_json

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Size of a whole dataset, from names, annex keys and sidecars, without any image.

    Attributes
    ----------
    n_subjects, n_runs : int
        Subjects and recordings.
    n_volumes : tuple of int or None
        Distinct numbers of volumes per subject, sorted; None unless every recording's sidecar contains it.
    repetition_times : tuple of float or None
        Distinct repetition times in seconds, sorted; None unless every recording's sidecar contains it.
    n_files, n_bytes : int
        All annexed files, and their size.
    """

    n_subjects: int
    n_runs: int
    n_volumes: tuple[int, ...] | None
    repetition_times: tuple[float, ...] | None
    n_files: int
    n_bytes: int

    def describe(self) -> str:
        """Return the numbers in one line."""
        parts = [f"{self.n_subjects:,} subjects", f"{self.n_runs:,} runs"]
        if self.n_volumes:
            least, most = self.n_volumes[0], self.n_volumes[-1]
            volumes = f"{least:,}" if least == most else f"{least:,} to {most:,}"
            parts.append(f"{volumes} volumes per subject")
        if self.repetition_times:
            parts.append(f"TR {' and '.join(f'{seconds:g}' for seconds in self.repetition_times)} s")
        return ", ".join([*parts, f"{self.n_files:,} annexed files", f"{self.n_bytes:,} bytes"])


def survey(tree: Sequence[TreeFile], wanted: Sequence[WantedFile]) -> Survey:
    """Return the size of a dataset.

    Parameters
    ----------
    tree : sequence of TreeFile
        All files.
    wanted : sequence of WantedFile
        Those that `find_wanted` selects without labels.
    """
    recordings = [file for file in wanted if file.recording]
    annexed = [file for file in tree if file.key]
    metadata = _metadata(recordings, wanted)
    return Survey(
        n_subjects=len({file.entities["sub"] for file in recordings}),
        n_runs=len(recordings),
        n_volumes=_volumes_per_subject(recordings, metadata),
        repetition_times=_repetition_times(metadata),
        n_files=len(annexed),
        n_bytes=total_bytes(annexed),
    )


def _volumes_per_subject(
    recordings: Sequence[WantedFile], metadata: Sequence[dict[str, Any]]
) -> tuple[int, ...] | None:
    """Sum the volumes of each subject, from the image shapes that dcmstack writes to sidecars."""
    volumes: dict[str, int] = {}
    for recording, sidecar in zip(recordings, metadata, strict=True):
        shape = sidecar.get("dcmmeta_shape")
        if not isinstance(shape, list) or len(shape) != 4 or not isinstance(shape[3], int):
            return None
        subject = recording.entities["sub"]
        volumes[subject] = volumes.get(subject, 0) + shape[3]
    return tuple(sorted(set(volumes.values())))


def _repetition_times(metadata: Sequence[dict[str, Any]]) -> tuple[float, ...] | None:
    seconds = [sidecar.get("RepetitionTime") for sidecar in metadata]
    if not all(isinstance(each, int | float) for each in seconds):
        return None
    return tuple(sorted({float(each) for each in seconds if each is not None}))


def _read_or_warn(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except MetadataError as error:
        # It may belong to a run that is not selected; later stages refuse it if they need it.
        _log.warning("%s", error.message)
        return {}


def _metadata(recordings: Sequence[WantedFile], wanted: Sequence[WantedFile]) -> list[dict[str, Any]]:
    """Merge the sidecars of each recording by BIDS's inheritance: nearer and more specific ones take precedence."""
    by_folder: dict[tuple[Path, str], list[WantedFile]] = {}
    for file in wanted:
        if file.extension == ".json" and not file.missing:
            by_folder.setdefault((file.path.parent, file.suffix), []).append(file)
    # A sidecar that applies to several runs is read once.
    read = functools.cache(_read_or_warn)
    metadata = []
    # Large sidecars (dcmstack writes half a megabyte each) take a minute for 2,000 runs.
    for recording in tqdm(recordings, desc="Reading sidecars", unit="run", delay=2, leave=False, disable=None):
        merged: dict[str, Any] = {}
        for folder in reversed(recording.path.parents):
            sidecars = by_folder.get((folder, recording.suffix), ())
            applicable = [sidecar for sidecar in sidecars if applies_to(sidecar.entities, recording.entities)]
            for sidecar in sorted(applicable, key=lambda sidecar: len(sidecar.entities)):
                merged.update(read(sidecar.path))
        metadata.append(merged)
    return metadata
