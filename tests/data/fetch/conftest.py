"""Real git-annex datasets, made here and served from 127.0.0.1."""

from __future__ import annotations

import functools
import http.server
import os
import tarfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

PUBLISHED = Path(__file__).parents[3].parent / "shared" / "ds003017"
# The three annexed files of ds003017 that are no scans, by their keys; the published metadata lack them.
NO_SCANS = {
    "code/README.md": "MD5E-s420--2e8e1e4c52af53a98ea67cb2753cead9.md",
    "code/add_intendedfor.py": "MD5E-s989--86e8d9c3ddb93232845ca97aa8fbfa15.py",
    "code/add_intendedfor_all.sh": "MD5E-s206--57659470a83721bab888c8538e82325b.sh",
}


Run = Callable[..., str]


def _commit(run: Run, root: Path, *annexed: str) -> str:
    """Commit all files of a folder, those named `annexed` in the annex, and return the commit's hash."""
    if not (root / ".git").exists():
        run(root, "git", "init", "--quiet", "--initial-branch=main")
        run(root, "git", "config", "user.name", "Tester")
        run(root, "git", "config", "user.email", "tester@localhost")
        run(root, "git", "annex", "init", "--quiet")
    if annexed:
        run(root, "git", "annex", "add", "--quiet", *annexed)
    run(root, "git", "add", ".")
    run(root, "git", "commit", "--quiet", "--message=tree")
    run(root, "git", "update-server-info")
    return run(root, "git", "rev-parse", "HEAD")


def _commit_links(run: Run, root: Path, links: Mapping[str, str]) -> str:
    """Commit annexed files by name and key, without their content."""
    for name, key in links.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        up = "../" * name.count("/")
        (root / name).symlink_to(f"{up}.git/annex/objects/aa/bb/{key}/{key}")
    return _commit(run, root)


@pytest.fixture(scope="session")
def commit(run) -> Callable[..., str]:
    """Commit the files of a folder, some of them annexed, and return the commit's hash."""
    return functools.partial(_commit, run)


@pytest.fixture(scope="session")
def commit_links(run) -> Callable[[Path, Mapping[str, str]], str]:
    """Commit annexed files by name and key, without content, and return the commit's hash."""
    return functools.partial(_commit_links, run)


@pytest.fixture(scope="session")
def synthetic(small_synthetic):
    """Two subjects, two runs, in a folder named ``synthetic``; don't change it."""
    return small_synthetic


@pytest.fixture
def serve(monkeypatch):
    """Serve a folder over HTTP from 127.0.0.1; git-annex is configured to trust that address."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "annex.security.allowed-ip-addresses")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "127.0.0.1")
    servers = []

    def start(folder: Path, handler: type = http.server.SimpleHTTPRequestHandler) -> str:
        quiet = type("Quiet", (handler,), {"log_message": lambda *_: None})
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(quiet, directory=os.fspath(folder))
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _unpack(name: str, root: Path) -> Path:
    archive = PUBLISHED / name
    if not archive.exists():
        pytest.skip("the published metadata of ds003017 are not beside the project")
    root.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        # The links point into .git/annex, which the safe filters refuse.
        tar.extractall(root, filter="fully_trusted")  # noqa: S202
    return root


@pytest.fixture(scope="session")
def published(tmp_path_factory, commit_links):
    """The published ds003017 as a git-annex dataset: the real names and keys, no content."""
    root = _unpack("ds003017-metadata.tar.gz", tmp_path_factory.mktemp("raw") / "raw")
    commit_links(root, NO_SCANS)
    return root


@pytest.fixture(scope="session")
def published_transforms(tmp_path_factory, commit):
    """The published fMRIPrep derivatives of ds003017 as a git-annex dataset: the real names and keys, no content."""
    root = _unpack("ds003017-fmriprep-metadata.tar.gz", tmp_path_factory.mktemp("transforms") / "transforms")
    commit(root)
    return root
