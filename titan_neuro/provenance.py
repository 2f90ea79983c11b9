"""Provenance of results: arguments, versions, commit, wall time and peak memory of each stage."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from titan_neuro.errors import OutputError
from titan_neuro.files import file_lock, read_json, write_json

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
    """Return the record of a stage in ``provenance.json``; empty where there is none.

    Raises
    ------
    OutputError
        ``provenance.json`` is damaged.
    """
    return _read_stages(output_dir / "provenance.json").get(stage, {})


def _read_stages(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    hint = "Remove it; the next stage writes a new one."
    stages = read_json(path, keys=["stages"], hint=hint, error=OutputError)["stages"]
    if not isinstance(stages, dict) or not all(isinstance(record, dict) for record in stages.values()):
        raise OutputError(f"{path}: expected one record for each stage, found something else.", hint)
    return stages


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
        ``provenance.json`` is damaged (raised before the stage begins), or can't be written.
    """
    path = output_dir / "provenance.json"
    with file_lock(path, work_dir=work_dir):
        _read_stages(path)
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
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    # Linux counts kilobytes, macOS bytes.
    record["peak_memory_bytes"] = peak * (1 if sys.platform == "darwin" else 1024)
    record.update(versions=versions(), commit=commit(), machine=platform.machine(), system=platform.system())
    with file_lock(path, work_dir=work_dir):
        write_json(path, {"stages": {**_read_stages(path), stage: record}})
