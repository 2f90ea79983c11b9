"""The command in a process of its own, without the seconds of its imports: forked from one that has done them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
# A process has one server: it imports all that `prepare` and training import while they work. What is missing here
# costs time, and changes nothing.
CONTEXT.set_forkserver_preload(
    [
        "bids",
        "h5py",
        "interrupted_training",
        "lightning.pytorch.loggers",
        "nilearn.datasets",
        "nilearn.interfaces.fmriprep",
        "nilearn.masking",
        "nilearn.signal",
        "nitransforms.manip",
        "pytest",
        "sqlalchemy.dialects.sqlite",
        "tensorboard",
        "titan_neuro.cli",
        "titan_neuro.study",
        "titan_neuro.data.bids.output",
        "titan_neuro.data.fetch",
        "titan_neuro.data.prepare",
        "titan_neuro.data.store",
    ]
)
_CHANGES = {"open", "os.remove", "os.rename", "os.rmdir"}


def start(arguments: Sequence[object], messages: Path, before: Callable[[], None] | None = None) -> ForkServerProcess:
    """Start ``titan-neuro``; what it says is added to a file; `before` is called in the process first."""
    process = CONTEXT.Process(target=_command, args=([*map(str, arguments)], messages, before))
    process.start()
    return process


def _command(arguments: list[str], messages: Path, before: Callable[[], None] | None) -> None:
    from titan_neuro.cli import main

    descriptor = os.open(messages, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if before is not None:
        before()
    raise SystemExit(main(arguments))


def list_changes(folder: Path, log: Path) -> None:
    """Have this process add a line to `log` before each change in `folder`, locks and temporary folders aside."""
    file = log.open("w", buffering=1)
    _before_each_change(folder, lambda number, event, path: file.write(f"{event} {path}\n"))


def kill_before_change(folder: Path, number: int) -> None:
    """Have this process killed before the change of that number, counted from 0."""

    def kill(found: int, event: str, path: str) -> None:
        if found == number:
            os.kill(os.getpid(), signal.SIGKILL)

    _before_each_change(folder, kill)


def _before_each_change(folder: Path, act: Callable[[int, str, str], Any]) -> None:
    number = 0

    def hook(event: str, details: tuple[Any, ...]) -> None:
        nonlocal number
        if event not in _CHANGES or (event == "open" and not details[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        path = str(details[0])
        # Inside a temporary folder several threads write, in any order; and locks hold nothing.
        if path.startswith(f"{folder}/") and ".tmp/" not in path and not path.endswith(".lock"):
            act(number, event, path.removeprefix(f"{folder}/"))
            number += 1

    sys.addaudithook(hook)
