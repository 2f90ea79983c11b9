"""Clones of DataLad datasets: made, recognized, and put at the commit that is meant."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from titan_neuro.data.bids.annex import dataset_id, parse_dataset_id
from titan_neuro.data.fetch.registry import Published, is_url
from titan_neuro.data.fetch.session import datalad_session, dataset_lock, failure_reason
from titan_neuro.data.fetch.tree import is_clone
from titan_neuro.errors import FetchError, OutputError
from titan_neuro.files import atomic, remove_leftovers

_log = logging.getLogger(__name__)
# The clone's own branch: it follows no other, so that no pull moves it off the commit.
_PINNED_BRANCH = "pinned"
_ADJUSTED = "adjusted/"
_MAX_REASON = 300


@contextlib.contextmanager
def working_tree(published: Published, directory: Path, *, dry_run: bool) -> Iterator[Path]:
    """Give the working tree of a dataset for the length of a ``with`` block: the clone, made where there is none yet.

    A dry run makes a clone elsewhere where there is none, and removes it in the end.

    Parameters
    ----------
    published : Published
        Where the dataset comes from, and the commit that is meant.
    directory : Path
        Where the clone is, or is to be; absolute.
    dry_run : bool
        Leave nothing behind.

    Raises
    ------
    OutputError
        `directory` holds something else, or the dataset at another commit.
    FetchError
        git-annex is not installed; the dataset can't be cloned; it has no such commit.
    """
    if _holds(published, directory):
        yield directory
    elif dry_run:
        with tempfile.TemporaryDirectory() as scratch:
            clone = Path(scratch, "dataset")
            _clone(published, clone)
            yield clone
    else:
        with dataset_lock(directory):
            # Another process may have cloned it while this one waited for the lock.
            if not _holds(published, directory):
                remove_leftovers(directory)
                with atomic(directory) as temporary:
                    _clone(published, temporary)
        yield directory


def commit_of(clone: Path) -> str:
    """Full hash of the commit that a clone has checked out; empty where it has none.

    On a file system without links git-annex works on a branch of its own over the real one: that one's commit is meant.
    """
    branch = _git("-C", str(clone), "symbolic-ref", "--short", "--quiet", "HEAD")
    if branch.startswith(_ADJUSTED):
        branch = branch.removeprefix(_ADJUSTED).rsplit("(", 1)[0]
        return _git("-C", str(clone), "rev-parse", "--quiet", "--verify", f"refs/heads/{branch}")
    return _git("-C", str(clone), "rev-parse", "--quiet", "--verify", "HEAD")


def check_out(clone: Path, commit: str) -> None:
    """Put a fresh clone at a commit, on a branch that follows no other.

    Raises
    ------
    FetchError
        The clone has no such commit, or git can't check it out.
    """
    if not _git("-C", str(clone), "rev-parse", "--quiet", "--verify", f"{commit}^{{commit}}"):
        origin = _git("-C", str(clone), "config", "remote.origin.url")
        raise FetchError(
            f"{origin}: has no commit {commit}, which is the published state that is meant.",
            "Has the place been replaced or its history rewritten? Its present state is fetched by its address: "
            "`titan-neuro fetch URL DIR`.",
        )
    is_adjusted = _git("-C", str(clone), "symbolic-ref", "--short", "--quiet", "HEAD").startswith(_ADJUSTED)
    commands = [["checkout", "--quiet", "--no-track", "-B", _PINNED_BRANCH, commit]]
    if is_adjusted:
        commands.append(["annex", "adjust", "--unlock", "--quiet"])
    # Where files are unlocked, git calls git-annex, which the session has on PATH.
    with datalad_session():
        for command in commands:
            done = subprocess.run(["git", *command], cwd=clone, capture_output=True, encoding="utf-8")
            if done.returncode:
                reason = " ".join(done.stderr.split())[:_MAX_REASON]
                raise FetchError(f"{clone}: git {command[0]} of commit {commit} failed: {reason}")


def hide(clone: Path, folder: Path) -> None:
    """Let git pass over a clone within a clone: it is no part of the outer dataset, and is never saved with it."""
    path = Path(_git("-C", str(clone), "rev-parse", "--path-format=absolute", "--git-path", "info/exclude"))
    name = folder.relative_to(clone)
    lines = [f"/{name.as_posix()}/", f"/{name.with_name(f'.{name.name}.').as_posix()}*"]
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    missing = [line for line in lines if line not in text.splitlines()]
    if missing:
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([*text.splitlines(), *missing, ""]), encoding="utf-8")


def _holds(published: Published, directory: Path) -> bool:
    """Whether `directory` holds a clone of the dataset already; False where it is free."""
    found = commit_of(directory) if is_clone(directory) else ""
    if published.commit and found == published.commit:
        # No two datasets share a commit, wherever they were cloned from.
        return True
    if not _is_clone_of(published.url, directory):
        return False
    if published.commit:
        raise OutputError(
            f"{directory}: is at commit {found or '(none)'}; expected {published.commit}, the published state that "
            "results refer to. Nothing was changed.",
            f"To go on with the clone as it is: `titan-neuro fetch {directory}`. To put it at the published state: "
            f"`git -C {directory} fetch origin` and `git -C {directory} checkout --no-track -b {_PINNED_BRANCH} "
            f"{published.commit}`. Or choose another folder.",
        )
    return True


def _is_clone_of(url: str, directory: Path) -> bool:
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    if not is_clone(directory):
        raise OutputError(f"{directory}: exists, and is no clone of {url}.", "Choose another folder.")
    if str(directory) == url:
        return True
    origin = _git("-C", str(directory), "config", "remote.origin.url")
    same_origin = _bare_url(origin) == _bare_url(url)
    if same_origin and is_url(url):
        return True
    here, there = dataset_id(directory), _source_id(url)
    if here != there or (here is None and not same_origin):
        raise OutputError(
            f"{directory}: holds another dataset: expected {there or url}, found {here or origin or 'no origin'}.",
            "Choose another folder.",
        )
    return True


def _bare_url(url: str) -> str:
    # DataLad clones from URL/.git where URL alone is no repository, and records that.
    return url.rstrip("/").removesuffix("/.git").removesuffix(".git")


def _source_id(url: str) -> str | None:
    if not is_url(url):
        # A source may be a bare repository, which has no working tree to read.
        return parse_dataset_id(_git("-C", url, "show", "HEAD:.datalad/config", above=Path(url).parent))
    with tempfile.TemporaryDirectory() as scratch:
        _clone(Published(url=url), Path(scratch, "dataset"))
        return dataset_id(Path(scratch, "dataset"))


def _git(*arguments: str, above: Path | None = None) -> str:
    """Output of a git query; empty where git has no answer. A repository that `above` lies in is not asked."""
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
        # DataLad takes a clone for made when git could not write all its files: on a full disk, for example.
        changed = _git("-C", str(path), "status", "--porcelain", "--untracked-files=no", "--ignore-submodules")
        if changed:
            raise FetchError(
                f"{published.url}: was cloned, but {len(changed.splitlines())} of its files could not be checked out.",
                "Is the disk full, or the repository damaged? `git clone` of the same address says more.",
            )
    if published.commit:
        check_out(path, published.commit)
