"""Room on a disk: what a fetch needs, git-annex's reserve included, and what is free."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from titan_neuro.data.bids.annex import key_bytes
from titan_neuro.data.fetch.session import datalad_session
from titan_neuro.data.fetch.tree import TreeFile, total_bytes
from titan_neuro.errors import FetchError

# git-annex's own, where a clone sets no annex.diskreserve.
_DEFAULT_RESERVE_BYTES = 100_000_000
_RESERVED = re.compile(r"\(\+(\d+) reserved\)")


@dataclass(frozen=True)
class DiskSpace:
    """The room that a fetch needs, and the room that there is.

    Attributes
    ----------
    directory : Path
        Folder of the clone.
    n_bytes : int
        Content to be fetched.
    n_copied_bytes : int
        Content of unlocked files, which git-annex copies into the working tree as well.
    n_reserved_bytes : int
        What git-annex leaves free (``annex.diskreserve``): it fetches nothing that would take from it.
    n_free_bytes : int
        Free on the disk.
    """

    directory: Path
    n_bytes: int
    n_copied_bytes: int
    n_reserved_bytes: int
    n_free_bytes: int

    @property
    def is_enough(self) -> bool:
        """Whether everything fits; nothing to fetch always does."""
        needed = self.n_bytes + self.n_copied_bytes
        return needed == 0 or needed + self.n_reserved_bytes <= self.n_free_bytes

    def describe(self) -> str:
        """Return the numbers in one line."""
        copied = f", and as much as {self.n_copied_bytes:,} for copies of unlocked files" if self.n_copied_bytes else ""
        return (
            f"Disk space: {self.n_free_bytes:,} bytes are free, of which git-annex keeps {self.n_reserved_bytes:,}; "
            f"{self.n_bytes:,} are to be fetched{copied}: {'enough' if self.is_enough else 'not enough'}."
        )

    def require(self) -> None:
        """Check that everything fits.

        Raises
        ------
        FetchError
            It does not.
        """
        if self.is_enough:
            return
        copied = (
            f", {format_bytes(self.n_copied_bytes)} more for copies of unlocked files" if self.n_copied_bytes else ""
        )
        thin = " Lock the files (`git annex lock`), or set annex.thin, to need them once." if copied else ""
        reserved = format_bytes(self.n_reserved_bytes)
        raise FetchError(
            f"{self.directory}: the disk is too full: {format_bytes(self.n_bytes)} are to be fetched{copied}, "
            f"{format_bytes(self.n_free_bytes)} are free, of which git-annex keeps {reserved} (annex.diskreserve).",
            f"Fetch fewer subjects or runs, or choose a folder on another disk.{thin}",
        )


def disk_space(directory: Path, missing: Iterable[tuple[Path, Sequence[TreeFile]]]) -> DiskSpace:
    """Return the room that fetching needs and has.

    Parameters
    ----------
    directory : Path
        Folder on the disk, which need not exist yet.
    missing : iterable of (Path, sequence of TreeFile)
        Clones on that disk, and the files of each whose content is to be fetched.

    Raises
    ------
    FetchError
        git-annex is not installed.
    """
    by_clone = [(clone, files) for clone, files in missing if files]
    existing = next(folder for folder in (directory, *directory.parents) if folder.exists())
    return DiskSpace(
        directory,
        n_bytes=sum(total_bytes(files) for _, files in by_clone),
        n_copied_bytes=sum(_copied_bytes(clone, files) for clone, files in by_clone),
        n_reserved_bytes=max([_reserved_bytes(clone) for clone, _ in by_clone], default=_DEFAULT_RESERVE_BYTES),
        n_free_bytes=shutil.disk_usage(existing).free,
    )


def format_bytes(n_bytes: int) -> str:
    """Format a number of bytes: ``27.6GB``."""
    return str(tqdm.format_sizeof(n_bytes, suffix="B", divisor=1000))


def _copied_bytes(clone: Path, files: Sequence[TreeFile]) -> int:
    """Size of the unlocked files: their content lies in the annex, and again in each file, where it is not linked."""
    # Hard links, which annex.thin asks for, are not made on file systems that lack links.
    is_thin, is_crippled = (_config(clone, "--type=bool", f"annex.{name}") for name in ("thin", "crippledfilesystem"))
    if is_thin == "true" and is_crippled != "true":
        return 0
    return sum(key_bytes(file.key) or 0 for file in files if file.key and not file.path.is_symlink())


def _reserved_bytes(clone: Path) -> int:
    """Bytes that git-annex leaves free; it reads the setting itself, whatever its unit."""
    setting = _config(clone, "annex.diskreserve")
    if not setting:
        return _DEFAULT_RESERVE_BYTES
    with tempfile.TemporaryDirectory() as empty:
        # In the clone itself the question would set up git-annex, where only git has cloned it.
        _run(["git", "init", "--quiet"], empty)
        _run(["git", "annex", "init", "--quiet"], empty)
        question = ["git", "annex", "info", "-c", f"annex.diskreserve={setting}", "--fast", "--bytes", "--json"]
        answer = json.loads(_run(question, empty))
    match = _RESERVED.search(str(answer.get("available local disk space")))
    return int(match[1]) if match else _DEFAULT_RESERVE_BYTES


def _run(command: Sequence[str], folder: str) -> str:
    with datalad_session():
        done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise FetchError(f"{' '.join(command)}: failed in an empty folder: {' '.join(done.stderr.split())}.")
    return done.stdout


def _config(clone: Path, *arguments: str) -> str:
    command = ["git", "-C", str(clone), "config", *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8").stdout.strip()
