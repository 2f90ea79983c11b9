"""Provenance of results: arguments, versions, commit, wall time and peak memory of each stage."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import logging
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from titan_neuro.errors import TitanNeuroError
from titan_neuro.files import file_lock, read_json, write_json

logger = logging.getLogger(__name__)

PACKAGES = (
    "titan-neuro",
    "torch",
    "monai",
    "lightning",
    "nibabel",
    "nilearn",
    "antspyx",
    "scipy",
    "datalad",
    "zarr",
    "numpy",
)


def digest(content: Any) -> str:
    """Return the SHA-256 of JSON content; it does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on, by name."""
    return dict(_installed())


@functools.cache
def _installed() -> tuple[tuple[str, str], ...]:
    """Names and versions: they are read once, since each run of a study records them."""
    installed = [("python", platform.python_version())]
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            installed.append((package, version(package)))
    return tuple(installed)


def commit() -> str | None:
    """Return the commit of the running source, with ``-dirty`` appended where files were changed since.

    None for an installed package.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def read_stage(output_dir: Path, stage: str) -> dict[str, Any]:
    """Return the record of a stage in ``provenance.json``; empty where there is none, or the file is damaged."""
    return read_stages(output_dir).get(stage, {})


def read_stages(output_dir: Path) -> dict[str, dict[str, Any]]:
    """Return the records of all stages in ``provenance.json``; none where there is no such file, or it is damaged.

    No result depends on them: a damaged file is a reason for a warning only.
    """
    path = output_dir / "provenance.json"
    if not path.is_file():
        return {}
    try:
        stages = read_json(path, keys=["stages"])["stages"]
        if isinstance(stages, dict) and all(isinstance(record, dict) for record in stages.values()):
            return stages
        problem = f"{path}: expected one record for each stage, found something else."
    except TitanNeuroError as error:
        problem = error.message
    logger.warning("%s The records of earlier stages are lost.", problem)
    return {}


def peak_bytes(who: int = resource.RUSAGE_SELF) -> int:
    """Return the highest resident size so far of this process, or of those that it started and that have ended.

    Parameters
    ----------
    who : int
        ``resource.RUSAGE_SELF`` or ``resource.RUSAGE_CHILDREN``.
    """
    # Linux counts kilobytes, macOS bytes.
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextlib.contextmanager
def recorded(output_dir: Path, work_dir: Path, stage: str, **metadata: Any) -> Iterator[dict[str, Any]]:
    """Time a stage and write its record into ``provenance.json`` when it succeeds.

    Parameters
    ----------
    output_dir, work_dir : Path
        Folders of ``provenance.json`` and of its lock: several jobs may write records at the same time.
    stage : str
        Key of the record: ``prepare sub-01``, ``train seed-0 fold-1``, ``evaluate``.
    **metadata
        Further entries of the record (JSON).

    Yields
    ------
    dict
        The record; entries that the block adds are written, too. A block that had nothing to do clears it: then the
        earlier record stays, which says how the outputs were made.

    Raises
    ------
    OutputError
        ``provenance.json`` can't be written.
    """
    path = output_dir / "provenance.json"
    with file_lock(path, work_dir=work_dir):
        # A folder that can't be written is refused before hours of work, and damage is said.
        read_stages(output_dir)
    record: dict[str, Any] = {
        "arguments": sys.argv[1:],
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **metadata,
    }
    start = time.monotonic()
    yield record
    if not record:
        return
    record["wall_time_s"] = round(time.monotonic() - start, 2)
    record["peak_memory_bytes"] = max(peak_bytes(), peak_bytes(resource.RUSAGE_CHILDREN))
    record.update(versions=versions(), commit=commit(), machine=platform.machine(), system=platform.system())
    with file_lock(path, work_dir=work_dir):
        write_json(path, {"stages": {**read_stages(output_dir), stage: record}})
