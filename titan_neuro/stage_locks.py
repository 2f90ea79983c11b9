"""Locks by stage: which processes read and which write the results of an output folder, and since when.

A process takes everything that a stage needs at once (:func:`hold`), so that two can't wait for each other. It says so
in a holder file, and keeps a lock of the operating system (flock) on this file: that lock ends with the process, on
whatever machine and however it ends. A holder file whose lock is free is of a process that was killed, and is removed.

A process that waits keeps nobody else from beginning: jobs that prepare other runs of the same study begin although
somebody waits to read them.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import functools
import getpass
import json
import logging
import math
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from titan_neuro.files import writing_to

logger = logging.getLogger(__name__)


_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
# Held for moments only, while holder files are compared. The name is that of a lock: it has no content.
_GATE = "stages.lock"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
_SAY_AGAIN_S = 600
_IN_WORDS = {"runs": "prepared runs", "probe": "results of the probe"}

# Descriptors of locked files, which a forked process must not keep open, and who holds what in this process.
_descriptors: set[int] = set()
_holding: set[tuple[str, int]] = set()
_forking = threading.RLock()


@dataclass(frozen=True)
class Holder:
    """A process that is at work on an output folder.

    Attributes
    ----------
    stage : str
        ``prepare``, ``probe surprise``, ...
    user, host : str
    process : int
        Its number on its host.
    job : str or None
        Slurm's number of its job.
    since : str
        ISO 8601, with the zone of its host.
    command : str
        As a shell would take it.
    resources : mapping of str to str
        ``read``: it reads this; ``share`` or ``share WHAT``: it writes this together with others that say the same;
        ``write``: it alone may touch this.
    """

    stage: str
    user: str
    host: str
    process: int
    job: str | None
    since: str
    command: str
    resources: Mapping[str, str]

    @classmethod
    def this_process(cls, stage: str, resources: Mapping[str, str]) -> Holder:
        """Describe this process at this moment."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container whose user has no name
            user = f"user {os.getuid()}"
        return cls(
            stage=stage,
            user=user,
            host=socket.gethostname(),
            process=os.getpid(),
            job=os.environ.get("SLURM_JOB_ID"),
            since=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            resources=resources,
        )

    @classmethod
    def from_json(cls, text: str) -> Holder | None:
        """Read what :meth:`to_json` has written; None for anything else."""
        try:
            holder = cls(**json.loads(text))
            datetime.datetime.fromisoformat(holder.since)
        except (ValueError, TypeError):
            return None
        return holder

    def to_json(self) -> str:
        """Return the content of a holder file."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @property
    def who(self) -> str:
        """``ann on node7, process 123, Slurm job 45, since 12:03``, in the time of this machine."""
        since = datetime.datetime.fromisoformat(self.since).astimezone()
        is_today = since.date() == datetime.datetime.now().astimezone().date()
        job = f", Slurm job {self.job}" if self.job else ""
        when = f"{since:%H:%M}" if is_today else f"{since:%Y-%m-%d %H:%M}"
        return f"{self.user} on {self.host}, process {self.process}{job}, since {when}"

    def conflicts_with(self, other: Holder) -> list[str]:
        """List what the two can't have at the same time: all that they do not both read, or share alike."""
        mine, theirs = self.resources, other.resources
        return [name for name in mine if name in theirs and (mine[name] != theirs[name] or mine[name] == "write")]


@contextlib.contextmanager
def hold(
    folder: Path,
    stage: str,
    *,
    reads: Collection[str] = (),
    shares: Collection[str] = (),
    writes: Collection[str] = (),
    alike: str = "",
) -> Iterator[None]:
    """Keep what a stage reads and writes from others until the block ends; wait first until they have ended.

    What was read of the output folder before may have changed meanwhile: look again inside the block.

    Parameters
    ----------
    folder : Path
        For the holder files; the same one for all who work on an output folder.
    stage : str
        Name for messages: ``evaluate``.
    reads, shares, writes : collection of str
        ``runs``, ``models``, ``scores``, ``probe NAME``, ``forecasts``, ``report``. Many may read the same at once, or
        share it (each writes another part of it); who writes it is alone.
    alike : str
        Only those who say the same here share: a digest of the settings, say.

    Raises
    ------
    OutputError
        `folder` can't be written.
    RuntimeError
        This thread holds something in `folder` already: it would wait for itself.
    """
    modes = {"read": reads, f"share {alike}".strip(): shares, "write": writes}
    resources = {name: mode for mode, names in modes.items() for name in names}
    key = (os.path.realpath(folder), threading.get_ident())
    if key in _holding:
        raise RuntimeError(f"{stage}: this thread holds locks in {folder} already; all are to be taken at once.")
    _holding.add(key)
    file = _HolderFile(folder)
    try:
        _wait(file, Holder.this_process(stage, resources))
        yield
    finally:
        file.remove()
        _holding.discard(key)


def holders(folder: Path) -> list[Holder]:
    """List the processes that hold something in `folder` now, those that began first in front.

    Needs no permission to write, and waits for nobody.
    """
    return sorted(_holders(folder), key=lambda holder: datetime.datetime.fromisoformat(holder.since))


def _wait(file: _HolderFile, holder: Holder) -> None:
    said_at, pause_s = -math.inf, _FIRST_PAUSE_S
    while others := file.claim(holder):
        if time.monotonic() - said_at >= _SAY_AGAIN_S:
            said_at = time.monotonic()
            logger.info("%s", _waiting_in_words(holder, others))
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)


def _waiting_in_words(holder: Holder, others: Collection[Holder]) -> str:
    first = next(iter(others))
    verbs = {name: "reads" if first.resources[name] == "read" else "writes" for name in holder.conflicts_with(first)}
    what = " and ".join(f"{verb} the {_in_words(name)}" for name, verb in verbs.items())
    more = f", and for {len(others) - 1} more" if len(others) > 1 else ""
    return f"`{holder.stage}` waits for `{first.stage}` ({first.who}), which {what}{more}."


def _in_words(resource: str) -> str:
    kind, _, name = resource.partition(" ")
    return " ".join(filter(None, [_IN_WORDS.get(kind, kind), name]))


class _HolderFile:
    """What one :func:`hold` keeps on the disk; the file has its name only where nobody conflicts."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{uuid.uuid4().hex}.json"
        self._temporary = self._path.with_suffix(".tmp")
        self._process = os.getpid()
        self._stack = contextlib.ExitStack()

    def claim(self, holder: Holder) -> list[Holder]:
        """Become a holder, unless there are others that conflict; return these."""
        folder = self._path.parent
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with _open(folder / _GATE, os.O_RDWR | os.O_CREAT) as gate:
                    fcntl.flock(gate, fcntl.LOCK_EX)
                    # Before the others are listed: a change of its own makes a client of NFS list the folder anew.
                    self._create(holder)
                    others = [other for other in _holders(folder, clean_up=True) if holder.conflicts_with(other)]
                    if others:
                        self.remove()
                    else:
                        self._temporary.rename(self._path)
                    return others
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                _warn_of_no_locks(folder)
                return []

    def _create(self, holder: Holder) -> None:
        descriptor = self._stack.enter_context(_open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Whoever shares the folder may see who is at work, also where new files are for their owner alone.
        os.fchmod(descriptor, 0o644)
        content = holder.to_json().encode()
        while content:
            content = content[os.write(descriptor, content) :]
        # Other machines see it only then: the file stays open.
        os.fsync(descriptor)

    def remove(self) -> None:
        """Give up what is held; not in a forked process, which holds nothing."""
        if os.getpid() != self._process:
            return
        for path in (self._temporary, self._path):
            # Where it can't be removed now, whoever comes next does it: its lock is free.
            with contextlib.suppress(OSError):
                path.unlink()
        self._stack.close()


def _holders(folder: Path, *, clean_up: bool = False) -> Iterator[Holder]:
    """Yield the holders that live; with `clean_up` (behind the gate only) remove the files of the others."""
    for path in [*folder.glob("*.json"), *folder.glob("*.tmp")]:
        with contextlib.suppress(FileNotFoundError), _open(path, os.O_RDONLY) as descriptor:
            if not _is_locked(descriptor):
                if clean_up:
                    with contextlib.suppress(OSError):
                        path.unlink()
            elif path.suffix == ".json" and (holder := Holder.from_json(path.read_text(encoding="utf-8"))):
                yield holder


def _is_locked(descriptor: int) -> bool:
    try:
        # As a reader, so that those who look at the same time do not take one another for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def _open(path: Path, flags: int) -> Iterator[int]:
    """Open a file for its lock, which ends with the block, and which no forked process keeps."""
    with _forking:
        descriptor = os.open(path, flags, 0o666)
        _descriptors.add(descriptor)
    try:
        yield descriptor
    finally:
        with _forking:
            if descriptor in _descriptors:
                _descriptors.remove(descriptor)
                os.close(descriptor)


def _begin_forked() -> None:
    """A forked process holds nothing: a lock lasts until the last process that has its file open closes it."""
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()
    _holding.clear()
    _forking.release()


os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_begin_forked)


@functools.cache
def _warn_of_no_locks(folder: Path) -> None:
    logger.warning(
        "%s: the file system has no locks. Nothing keeps two commands from working on the same results at once: start "
        "one after the other.",
        folder,
    )
