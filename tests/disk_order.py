"""Whether a process has its files on the disk in time: what a power cut would leave, by the order of its calls."""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

from titan_neuro.files import write_text

# Locks have no content; unfinished work is made again; what Lightning logs is no result.
_NOT_KEPT = re.compile(r"\.lock$|\.locked-by$|(^|/)\.work/(?!workflow)|/logs/|^\.work")
_TEMPORARY = re.compile(r"(^|/)\.[^/]+\.[0-9a-f]{8}\.tmp(/|$)")


def watch(folder: Path, log: Path) -> None:
    """Make this process log, by line, what it syncs, makes, renames and writes below `folder`.

    ``synced PATH``, ``made PATH`` (a folder), ``renamed PATH`` (to its final name), and what should not be:
    ``unsynced PATH`` (renamed before its content was synced) and ``overwritten PATH`` (written under its final name).
    """
    file, fsync, states = log.open("a", buffering=1), os.fsync, set()

    def is_result(path: Any) -> bool:
        return str(path).startswith(f"{folder}/") and is_kept(str(path).removeprefix(f"{folder}/"))

    def state(path: str) -> tuple[int, ...]:
        found = Path(path).stat()
        return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    def synced(descriptor: Any) -> None:
        fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor if isinstance(descriptor, int) else descriptor.fileno()}").readlink()
        states.add(state(str(path)))
        file.write(f"synced {path}\n")

    def tell(event: str, details: tuple[Any, ...]) -> None:
        if event == "os.mkdir" and is_result(details[0]) and not Path(details[0]).exists():
            file.write(f"made {details[0]}\n")
        elif event == "open" and details[2] & (os.O_WRONLY | os.O_RDWR) and is_result(details[0]):
            file.write(f"overwritten {details[0]}\n")
        elif event == "os.rename" and is_result(details[1]):
            for path in [details[0], *map(str, Path(details[0]).rglob("*"))]:
                # A folder that was there before is moved as it is.
                if stat.S_ISREG(os.lstat(path).st_mode) and state(path) not in states:
                    file.write(f"unsynced {path}\n")
            file.write(f"renamed {details[1]}\n")

    os.fsync = synced
    sys.addaudithook(tell)


def faults(log: Path) -> list[str]:
    """Return what a power cut could have lost or left half written."""
    lines = [line.split(" ", 1) for line in log.read_text().splitlines()]
    found = [f"{what} {path}" for what, path in lines if what in {"unsynced", "overwritten"}]
    synced_at = {path: number for number, (what, path) in enumerate(lines) if what == "synced"}
    for number, (what, path) in enumerate(lines):
        if what in {"made", "renamed"} and synced_at.get(str(Path(path).parent), -1) < number:
            found.append(f"{what} {path}, and the folder was not synced")
    return found


def renamed(log: Path) -> list[str]:
    """Return the final names of what was written, in order."""
    return [line.split(" ", 1)[1] for line in log.read_text().splitlines() if line.startswith("renamed ")]


def is_kept(name: str) -> bool:
    """Whether a path, relative to the folder of the study, is that of a result under its final name."""
    return not (_NOT_KEPT.search(name) or _TEMPORARY.search(name))


def write_one(folder: Path, log: Path, how: str) -> None:
    """Write a file while it is watched: ``atomic``, ``in place``, ``no sync``, or ``no folder`` (not synced)."""
    watch(folder, log)
    target, temporary = folder / "x", folder / ".x.0123abcd.tmp"
    if how == "atomic":
        write_text(target, "x")
    elif how == "in place":
        target.write_text("x")
    else:
        temporary.write_text("x")
        if how == "no folder":
            with temporary.open() as file:
                os.fsync(file.fileno())
        temporary.rename(target)
