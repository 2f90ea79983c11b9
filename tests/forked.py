"""The command in a process of its own, without the seconds of its imports: forked from a server that has done them."""

from __future__ import annotations

import fnmatch
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
# A test session has one server. It imports what the subcommands would import; a module that is missing here costs each
# process the time of its import, and changes nothing else.
CONTEXT.set_forkserver_preload(
    [
        "bids",
        "boto3",
        "h5py",
        "interrupted_training",
        "jinja2",
        "lightning.pytorch.loggers",
        "nilearn.datasets",
        "nilearn.interfaces.fmriprep",
        "nilearn.masking",
        "nilearn.signal",
        "pytest",
        "sqlalchemy.dialects.sqlite",
        "tensorboard",
        "titan_neuro.cli.command",
        "titan_neuro.report",
        "titan_neuro.study.config",
        "titan_neuro.study.evaluate",
        "titan_neuro.study.load",
        "titan_neuro.study.models",
        "titan_neuro.study.null_control",
        "titan_neuro.study.predict",
        "titan_neuro.study.prepare",
        "titan_neuro.study.probe",
        "titan_neuro.study.study",
        "titan_neuro.study.train",
        "titan_neuro.data.bids.output",
        "titan_neuro.data.fetch",
        "titan_neuro.data.prepare",
        "titan_neuro.data.store",
    ]
)
COMMAND = Path(sys.executable).with_name("titan-neuro")
_CHANGES = {"open", "os.remove", "os.rename", "os.rmdir"}


def start(
    arguments: Sequence[object],
    messages: Path,
    before: Callable[[], None] | None = None,
    *,
    stdout: Path | None = None,
) -> ForkServerProcess:
    """Start ``titan-neuro``, as a user would from this folder and with these environment variables.

    Parameters
    ----------
    arguments : sequence
    messages : Path
        Standard error is appended to this file.
    before : callable, optional
        Called in the new process before the command; can be pickled.
    stdout : Path, optional
        Standard output is appended to this file, by default to `messages`.
    """
    where = (str(Path.cwd()), dict(os.environ))
    process = CONTEXT.Process(
        target=_command, args=([*map(str, arguments)], stdout or messages, messages, where, before)
    )
    process.start()
    return process


def limit_file_size(n_bytes: int) -> None:
    """Have this process fail where it writes more than `n_bytes` into a file, as it would on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def run_command(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run ``titan-neuro`` to its end; with `check`, its exit code must be 0."""
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder) / "stdout", Path(folder) / "stderr"
        process = start(arguments, stderr, stdout=stdout)
        process.join()
        done = subprocess.CompletedProcess(
            [str(COMMAND), *map(str, arguments)], process.exitcode, stdout.read_text(), stderr.read_text()
        )
    if check:
        assert done.returncode == 0, f"{' '.join(done.args)}\n{done.stdout}\n{done.stderr}"
    return done


def _command(
    arguments: list[str],
    stdout: Path,
    stderr: Path,
    where: tuple[str, dict[str, str]],
    before: Callable[[], None] | None,
) -> None:
    from titan_neuro.cli import main

    for path, descriptor in ((stdout, 1), (stderr, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    folder, environment = where
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # Lightning starts further processes by these two.
    sys.argv[:] = [str(COMMAND), *arguments]
    sys.modules["__main__"].__spec__ = None
    if before is not None:
        before()
    raise SystemExit(main(arguments))


def list_changes(folder: Path, log: Path) -> None:
    """Make this process log each change of a file in `folder`, except of locks and inside temporary folders."""
    file = log.open("w", buffering=1)
    _before_each_change(folder, lambda number, event, path: file.write(f"{event} {path}\n"))


def kill_before_change(folder: Path, number: int) -> None:
    """Make this process kill itself before the change of that number, counted from 0 as in `list_changes`."""

    def kill(current: int, event: str, path: str) -> None:
        if current == number:
            os.kill(os.getpid(), signal.SIGKILL)

    _before_each_change(folder, kill)


def kill_before_writing(folder: Path, pattern: str) -> None:
    """Make this process kill itself before it first changes a file whose path below `folder` matches `pattern`."""

    def kill(event: str, path: str) -> None:
        if fnmatch.fnmatch(path, pattern):
            os.kill(os.getpid(), signal.SIGKILL)

    _on_change(folder, kill)


def _before_each_change(folder: Path, act: Callable[[int, str, str], Any]) -> None:
    number = 0

    def count(event: str, path: str) -> None:
        nonlocal number
        # Several threads write inside a temporary folder, in any order; locks have no content.
        if ".tmp/" not in path and not path.endswith(".lock"):
            act(number, event, path)
            number += 1

    _on_change(folder, count)


def _on_change(folder: Path, act: Callable[[str, str], Any]) -> None:
    def hook(event: str, details: tuple[Any, ...]) -> None:
        if event not in _CHANGES or (event == "open" and not details[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        path = str(details[0])
        if path.startswith(f"{folder}/"):
            act(event, path.removeprefix(f"{folder}/"))

    sys.addaudithook(hook)
