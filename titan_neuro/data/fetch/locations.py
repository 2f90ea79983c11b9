"""Where content is: git-annex's branch, which ``git clone --depth 1`` leaves out."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

from titan_neuro.data.fetch.session import datalad_session
from titan_neuro.errors import FetchError

_log = logging.getLogger(__name__)
_BRANCH = "git-annex"
_MAX_REASON = 300


def fetch_locations(clone: Path) -> None:
    """Fetch git-annex's branch from the remotes of a clone of a single branch (``--depth 1``, ``--single-branch``).

    Without it nothing is known about where content is. A clone of all branches, and one that has it, stay as they are.

    Raises
    ------
    FetchError
        git-annex is not installed, or a remote can't be reached or has no such branch.
    """
    remotes = [name for name in _git(clone, "remote").stdout.split() if _lacks_branch(clone, name)]
    if not remotes:
        return
    with datalad_session():
        for name in remotes:
            _log.info("%s: was cloned without the branch %s of %s: fetching it.", clone, _BRANCH, name)
            done = _git(clone, "fetch", "--quiet", name, f"+refs/heads/{_BRANCH}:refs/remotes/{name}/{_BRANCH}")
            if done.returncode:
                reason = " ".join(done.stderr.split())[:_MAX_REASON]
                raise FetchError(
                    f"{clone}: is a clone of a single branch (git clone --depth 1), without the branch {_BRANCH}, "
                    f"which says where content is; it can't be fetched from {name}: {reason}",
                    "Is the address reachable, and is it a dataset of git-annex with all of its branches? Else clone "
                    "the dataset anew from where it is published: `titan-neuro fetch URL DIR`.",
                )
            _git(clone, "remote", "set-branches", "--add", name, _BRANCH)
        # Also of a clone that git-annex knows: special remotes that the branch names are enabled by this.
        _git(clone, "annex", "init", "--quiet")


def _lacks_branch(clone: Path, remote: str) -> bool:
    """Whether a remote is a repository of which single branches are fetched, and git-annex's is not among them."""
    refspecs = _git(clone, "config", "--get-all", f"remote.{remote}.fetch").stdout.split()
    if not refspecs or any("refs/heads/*" in refspec for refspec in refspecs):
        return False
    return _git(clone, "rev-parse", "--quiet", "--verify", f"refs/remotes/{remote}/{_BRANCH}").returncode != 0


def _git(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=clone, capture_output=True, encoding="utf-8")
