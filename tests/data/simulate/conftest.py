"""Synthetic datasets, and the published metadata that they are compared with."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from titan_neuro.data.simulate import SimulateConfig, simulate

PUBLISHED = Path(__file__).parents[3].parent / "shared" / "ds003017"


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory) -> Path:
    """A synthetic dataset of the default settings."""
    root = tmp_path_factory.mktemp("simulate") / "synthetic"
    simulate(root, SimulateConfig())
    return root


@pytest.fixture(scope="session")
def published():
    """Names in an archive of the published metadata, and the text of its small files that start with `prefix`."""

    def read(archive: str, prefix: str) -> tuple[set[str], dict[str, str]]:
        if not (PUBLISHED / archive).exists():
            pytest.skip("the published metadata of ds003017 are not beside the project")
        with tarfile.open(PUBLISHED / archive) as tar:
            members = {member.name.removeprefix("./"): member for member in tar}
            content = {
                name: tar.extractfile(member).read().decode()
                for name, member in members.items()
                if name.startswith(prefix) and member.isfile()
            }
        return set(members), content

    return read


@pytest.fixture(scope="session")
def real_files(published):
    """Names in ds003017, and the content of the small ones of its first subject."""
    return published("ds003017-metadata.tar.gz", "sub-sid000005/func/")
