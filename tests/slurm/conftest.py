"""A Slurm cluster whose one node is this machine; one cluster for all tests of a session."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster of one node, with the environment's programs first on PATH, as after `source .venv/bin/activate`.

    The tests that use it are of one xdist group, so of one worker. Two sessions of tests take turns.
    """
    missing = [program for program in ("slurmctld", "slurmd", "sbatch", "munge") if not shutil.which(program)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (Debian: slurm-wlm, munge)")
    if os.geteuid() != 0:
        pytest.skip("only root can start the daemons of Slurm")
    state = tmp_path_factory.mktemp("slurm")
    with (
        FileLock(Path(tempfile.gettempdir(), "titan-neuro-one-node-slurm.lock")),
        pytest.MonkeyPatch.context() as patch,
    ):
        # On free ports: daemons that a killed session of tests left running are not used.
        ports = map(str, _free_ports(2))
        subprocess.run([str(Path(__file__).with_name("one_node.sh")), str(state), *ports], check=True, timeout=60)
        patch.setenv("SLURM_CONF", str(state / "slurm.conf"))
        patch.setenv("PATH", f"{state / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}")
        try:
            yield
        finally:
            subprocess.run(["scancel", "--user", "root"], check=True, timeout=60)
            for pid_file in state.glob("*.pid"):
                _stop(int(pid_file.read_text()))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _stop(process: int) -> None:
    """End a daemon and wait until it is gone."""
    os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
