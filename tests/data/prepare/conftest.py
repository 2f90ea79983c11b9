"""What is made once a session; tests read it and never change it."""

from __future__ import annotations

import numpy as np
import pytest
from phantom import Phantom
from preparations import native_in, raw_with_transforms


@pytest.fixture(scope="session")
def recorded_phantom():
    """The default phantom and its volumes, ``(x, y, z, time)``."""
    phantom = Phantom()
    return phantom, np.stack([phantom.record(t) for t in range(phantom.n_volumes)], axis=-1)


@pytest.fixture(scope="session")
def native(tmp_path_factory):
    """Three runs in their own space, read and written in one pass."""
    return native_in(tmp_path_factory.mktemp("native"), n_runs=3)


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    """Two raw runs with transforms: their volumes lie on disk between two passes."""
    return raw_with_transforms(tmp_path_factory.mktemp("raw"), n_runs=2, n_volumes=60)


@pytest.fixture(scope="session")
def one_raw(tmp_path_factory):
    """One raw run with transforms."""
    return raw_with_transforms(tmp_path_factory.mktemp("one-raw"), n_runs=1, n_volumes=30)
