"""Real git-annex datasets, made here and served from 127.0.0.1."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sysconfig
import tarfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from titan_neuro.data.simulate import SimulateConfig, simulate

PUBLISHED = Path(__file__).parents[3].parent / "shared" / "ds003017"
# The three annexed files of ds003017 that are no scans: not among the published metadata, and here with their keys.
NO_SCANS = {
    "code/README.md": "MD5E-s420--2e8e1e4c52af53a98ea67cb2753cead9.md",
    "code/add_intendedfor.py": "MD5E-s989--86e8d9c3ddb93232845ca97aa8fbfa15.py",
    "code/add_intendedfor_all.sh": "MD5E-s206--57659470a83721bab888c8538e82325b.sh",
}


def _run(root: Path, *command: str) -> str:
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def _commit(root: Path, *annexed: str) -> str:
    """Commit what is there, the content of the files `annexed` in the annex, and give the commit's hash."""
    if not (root / ".git").exists():
        _run(root, "git", "init", "--quiet", "--initial-branch=main")
        _run(root, "git", "config", "user.name", "Tester")
        _run(root, "git", "config", "user.email", "tester@localhost")
        _run(root, "git", "annex", "init", "--quiet")
    if annexed:
        _run(root, "git", "annex", "add", "--quiet", *annexed)
    _run(root, "git", "add", ".")
    _run(root, "git", "commit", "--quiet", "--message=tree")
    _run(root, "git", "update-server-info")
    return _run(root, "git", "rev-parse", "HEAD")


def _commit_links(root: Path, links: Mapping[str, str]) -> str:
    """Commit annexed files by name and key, without their content."""
    for name, key in links.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        up = "../" * name.count("/")
        (root / name).symlink_to(f"{up}.git/annex/objects/aa/bb/{key}/{key}")
    return _commit(root)


def _make_synthetic(root: Path, **settings: int) -> Path:
    simulate(root, SimulateConfig(volume_scale=0.05, voxel_size_mm=20, **settings))
    return root


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Run a program in a folder, git-annex at hand, and give its output."""
    return _run


@pytest.fixture(scope="session")
def commit() -> Callable[..., str]:
    return _commit


@pytest.fixture(scope="session")
def commit_links() -> Callable[[Path, Mapping[str, str]], str]:
    return _commit_links


@pytest.fixture(scope="session")
def make_synthetic() -> Callable[..., Path]:
    """Simulate a small dataset with content."""
    return _make_synthetic


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """Two subjects, two runs."""
    return _make_synthetic(tmp_path_factory.mktemp("fetch") / "synthetic", n_subjects=2, n_runs=2)


@pytest.fixture
def serve(monkeypatch):
    """Serve a folder over HTTP from 127.0.0.1; git-annex is told to trust that address."""
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
        # The links point into .git/annex, which the safe filters take for an escape.
        tar.extractall(root, filter="fully_trusted")  # noqa: S202
    return root


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """The published ds003017 as a git-annex dataset: the real names and keys, no content."""
    root = _unpack("ds003017-metadata.tar.gz", tmp_path_factory.mktemp("raw") / "raw")
    _commit_links(root, NO_SCANS)
    return root


@pytest.fixture(scope="session")
def published_transforms(tmp_path_factory):
    """The published fMRIPrep derivatives of ds003017 as a git-annex dataset: the real names and keys, no content."""
    root = _unpack("ds003017-fmriprep-metadata.tar.gz", tmp_path_factory.mktemp("transforms") / "transforms")
    _commit(root)
    return root
