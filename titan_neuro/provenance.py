"""What made a result: arguments, versions, commit, wall time, peak memory."""

from __future__ import annotations

import contextlib
import datetime
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
from titan_neuro.files import file_lock, write_json

PACKAGES = (
    "titan-neuro",
    "torch",
    "monai",
    "lightning",
    "nibabel",
    "nilearn",
    "nitransforms",
    "antspyx",
    "scipy",
    "datalad",
    "pybids",
    "zarr",
    "numpy",
)


def digest(content: Any) -> str:
    """SHA-256 of JSON content; keys in any order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit() -> str | None:
    """Commit of the source that runs, with ``-dirty`` after it where it was changed; None for an installed package."""
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
    """Return what ``provenance.json`` says of a stage; empty where it says nothing."""
    found: dict[str, Any] = _read_stages(output_dir / "provenance.json").get(stage, {})
    return found


def _read_stages(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
        return {str(name): dict(record) for name, record in stages.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(f"{path}: is damaged ({error}).", "Remove it; it is written anew.") from error


@contextlib.contextmanager
def recorded(output_dir: Path, work_dir: Path, stage: str, **metadata: Any) -> Iterator[dict[str, Any]]:
    """Time a stage and write its record into ``provenance.json`` when it succeeds.

    Parameters
    ----------
    output_dir, work_dir : Path
        The record goes into the first; the lock, for jobs that run side by side, into the second.
    stage : str
        Key of the record: ``prepare sub-01``, ``train fold-1``, ``evaluate``.
    **facts
        What else belongs to the record (JSON).

    Yields
    ------
    dict
        The record; what is put into it is written too. Emptied, where there was nothing to do, it is not written, and
        what made the outputs stays on record.

    Raises
    ------
    OutputError
        ``provenance.json`` is damaged: said before the stage begins; or it can't be written.
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
