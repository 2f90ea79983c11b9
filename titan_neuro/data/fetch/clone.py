"""Clones of DataLad datasets: make them, recognize them, check out the published commit."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from titan_neuro.data.bids.annex import dataset_id, install_command, parse_dataset_id
from titan_neuro.data.fetch.address import is_url, parse_ria, same_place
from titan_neuro.data.fetch.registry import Published
from titan_neuro.data.fetch.session import datalad_session, failure_reason, make_dataset_once
from titan_neuro.data.fetch.tree import is_clone
from titan_neuro.errors import FetchError, OutputError
from titan_neuro.files import write_text

_log = logging.getLogger(__name__)
# The clone's own branch: it follows no other, so that no pull moves it off the commit.
_PINNED_BRANCH = "pinned"
_ADJUSTED = "adjusted/"
_MAX_REASON = 300


@contextlib.contextmanager
def working_tree(published: Published, directory: Path, *, dry_run: bool) -> Iterator[Path]:
    """Provide the working tree of a dataset in a ``with`` block: its clone, which is made if there is none yet.

    A dry run without a clone makes a temporary one, and removes it at the end of the block. It lies on the disk of
    `directory` where that can be written: git-annex unlocks all files on a file system without links.

    Parameters
    ----------
    published : Published
        Address and commit of the dataset.
    directory : Path
        Folder of the clone, existing or new; absolute.
    dry_run : bool
        Leave nothing behind.

    Yields
    ------
    Path
        Root of the working tree.

    Raises
    ------
    OutputError
        `directory` holds something else, or the dataset at another commit.
    FetchError
        git-annex is not installed; the dataset can't be cloned; it has no such commit.
    """
    if dry_run and not _is_cloned(published, directory):
        existing = next(folder for folder in directory.parents if folder.is_dir())
        beside = existing if os.access(existing, os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix=".titan-neuro-dry-run-", dir=beside) as scratch:
            clone = Path(scratch, "dataset")
            _clone(published, clone)
            yield clone
        return
    make_dataset_once(
        directory, exists=lambda: _is_cloned(published, directory), make=lambda root: _clone(published, root)
    )
    yield directory


def commit_of(clone: Path) -> str:
    """Return the full hash of the commit that a clone has checked out; empty if it has none.

    On a file system without links git-annex checks out an adjusted branch; the commit of the original branch counts.
    """
    branch = _git("-C", str(clone), "symbolic-ref", "--short", "--quiet", "HEAD")
    if branch.startswith(_ADJUSTED):
        branch = branch.removeprefix(_ADJUSTED).rsplit("(", 1)[0]
        return _git("-C", str(clone), "rev-parse", "--quiet", "--verify", f"refs/heads/{branch}")
    return _git("-C", str(clone), "rev-parse", "--quiet", "--verify", "HEAD")


def check_out(clone: Path, commit: str) -> None:
    """Check out a commit in a new clone, on a branch that tracks no other.

    Raises
    ------
    FetchError
        The clone has no such commit, or git can't check it out.
    """
    if not _git("-C", str(clone), "rev-parse", "--quiet", "--verify", f"{commit}^{{commit}}"):
        origin = _git("-C", str(clone), "config", "remote.origin.url")
        raise FetchError(
            f"{origin}: has no commit {commit}, which is the published state of the dataset.",
            "Was the repository replaced, or its history rewritten? To fetch its present state, give its address: "
            "`titan-neuro fetch URL DIR`.",
        )
    is_adjusted = _git("-C", str(clone), "symbolic-ref", "--short", "--quiet", "HEAD").startswith(_ADJUSTED)
    commands = [["checkout", "--quiet", "--no-track", "-B", _PINNED_BRANCH, commit]]
    if is_adjusted:
        commands.append(["annex", "adjust", "--unlock", "--quiet"])
    # Git calls git-annex for unlocked files; the session has it on PATH.
    with datalad_session():
        for command in commands:
            done = subprocess.run(["git", *command], cwd=clone, capture_output=True, encoding="utf-8")
            if done.returncode:
                reason = " ".join(done.stderr.split())[:_MAX_REASON]
                raise FetchError(f"{clone}: git {command[0]} of commit {commit} failed: {reason}")


def install_subdataset(folder: Path) -> None:
    """Install a subdataset that git knows and whose folder is empty: its names and sidecars, no content yet.

    Raises
    ------
    FetchError
        git-annex is not installed; the subdataset can't be cloned.
    """
    folder = folder.resolve()
    dataset = next(parent for parent in folder.parents if is_clone(parent))
    _log.info("Installing the subdataset %s (names and sidecars; no images yet).", folder)
    with datalad_session() as datalad:
        from datalad.support.exceptions import CommandError, IncompleteResultsError

        try:
            datalad.get(path=str(folder), dataset=str(dataset), get_data=False, result_renderer="disabled")
        except (CommandError, IncompleteResultsError) as error:
            raise FetchError(
                f"{folder}: is a subdataset that can't be installed: {failure_reason(error)}",
                "Is its source (in .gitmodules) reachable? Otherwise name the folder of its derivatives with "
                "--derivatives.",
            ) from error
    if not is_clone(folder):
        raise FetchError(
            f"{folder}: is a subdataset that could not be installed.", f"`{install_command(folder)}` says more."
        )


def hide(clone: Path, folder: Path) -> None:
    """Add a nested clone to git's exclude file of the outer clone, so that it is never saved with the outer dataset."""
    path = Path(_git("-C", str(clone), "rev-parse", "--path-format=absolute", "--git-path", "info/exclude"))
    name = folder.relative_to(clone)
    lines = [f"/{name.as_posix()}/", f"/{name.with_name(f'.{name.name}.').as_posix()}*"]
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    missing = [line for line in lines if line not in text.splitlines()]
    if missing:
        write_text(path, "\n".join([*text.splitlines(), *missing, ""]))


def _is_cloned(published: Published, directory: Path) -> bool:
    """Whether `directory` holds a clone of the dataset; False if it is missing or empty."""
    commit = commit_of(directory) if is_clone(directory) else ""
    if published.commit and commit == published.commit:
        # A commit hash identifies a dataset, wherever it was cloned from.
        return True
    if not _is_clone_of(published.url, directory):
        return False
    if published.commit:
        _refuse_other_commit(
            directory, f"{published.commit}, the published state that results refer to", published.commit
        )
    ria = parse_ria(published.url)
    if ria and ria.version and _commit_of_version(directory, ria.version) != commit_of(directory):
        _refuse_other_commit(directory, f"the version {ria.version} of the address", ria.version)
    return True


def _commit_of_version(clone: Path, version: str) -> str:
    """Return the commit of a branch, tag or commit that a clone knows, also of a branch of origin; else nothing."""
    names = (f"{name}^{{commit}}" for name in (version, f"origin/{version}"))
    return next(filter(None, (_git("-C", str(clone), "rev-parse", "--quiet", "--verify", name) for name in names)), "")


def _refuse_other_commit(directory: Path, expected: str, revision: str) -> NoReturn:
    is_shallow = _git("-C", str(directory), "rev-parse", "--is-shallow-repository") == "true"
    fetch = f"`git -C {directory} fetch {'--unshallow ' if is_shallow else ''}origin`"
    raise OutputError(
        f"{directory}: is at commit {commit_of(directory) or '(none)'}; expected {expected}. Nothing was changed.",
        f"To use the clone as it is: `titan-neuro fetch {directory}`. To check out what is expected: {fetch} and "
        f"`git -C {directory} checkout --no-track -b {_PINNED_BRANCH} {revision}`. Or choose another folder.",
    )


def _is_clone_of(url: str, directory: Path) -> bool:
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    if not is_clone(directory):
        raise OutputError(f"{directory}: exists, and is no clone of {url}.", "Choose another folder.")
    if str(directory) == url:
        return True
    origin = _git("-C", str(directory), "config", "remote.origin.url")
    same_origin = bool(origin) and same_place(origin, url)
    if same_origin and is_url(url):
        return True
    clone_id, source_id = dataset_id(directory), _source_id(url)
    if clone_id != source_id or (clone_id is None and not same_origin):
        raise OutputError(
            f"{directory}: holds another dataset: expected {source_id or url}, "
            f"found {clone_id or origin or 'no origin'}.",
            "Choose another folder.",
        )
    return True


def _source_id(url: str) -> str | None:
    if not is_url(url):
        # A source may be a bare repository, which has no working tree to read.
        return parse_dataset_id(_git("-C", url, "show", "HEAD:.datalad/config", above=Path(url).parent))
    with tempfile.TemporaryDirectory() as scratch:
        _clone(Published(url=url), Path(scratch, "dataset"))
        return dataset_id(Path(scratch, "dataset"))


def _git(*arguments: str, above: Path | None = None) -> str:
    """Return the output of a git query, empty if it fails; git does not search for a repository in or above `above`."""
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(above)} if above else None
    done = subprocess.run(["git", *arguments], capture_output=True, encoding="utf-8", env=environment)
    return done.stdout.strip()


def _clone(published: Published, path: Path) -> None:
    at = f" at commit {published.commit}" if published.commit else ""
    _log.info("Cloning %s%s (names and sidecars; no images yet).", published.url, at)
    with datalad_session() as datalad:
        from datalad.support.exceptions import CommandError, IncompleteResultsError

        try:
            datalad.clone(
                source=published.url, path=str(path), description="Fetched by Titan-Neuro", result_renderer="disabled"
            )
        except (CommandError, IncompleteResultsError) as error:
            raise FetchError(
                f"{published.url}: can't be cloned: {failure_reason(error)}",
                "Check the address and the network; a folder must be a git or DataLad repository.",
            ) from error
        # DataLad reports success even if git could not write all files, for example on a full disk.
        changed = _git("-C", str(path), "status", "--porcelain", "--untracked-files=no", "--ignore-submodules")
        if changed:
            raise FetchError(
                f"{published.url}: was cloned, but {len(changed.splitlines())} of its files could not be checked out.",
                "Is the disk full, or the repository damaged? `git clone` of the same address says more.",
            )
    if published.commit:
        check_out(path, published.commit)
