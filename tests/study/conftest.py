"""A study of parcels, small enough for seconds, that has gone the whole way."""

import functools
import os
import shutil

import disk_order
import forked
import pytest
import tiny_study
from filelock import FileLock


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder of a study: ``bids``, ``settings.yaml``, ``out``, and ``calls``, what `disk_order.watch` logged meanwhile.

    Made once, also where several workers run the tests. Read it; copy it before changing it.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    root = base / "tiny"
    with FileLock(base / "tiny.lock"):
        if not (root / "done").exists():
            shutil.rmtree(root, ignore_errors=True)
            tiny_study.write_dataset(root / "bids")
            (root / "settings.yaml").write_text(tiny_study.SETTINGS)
            for level in ("participant", "group"):
                arguments = ["run", root / "bids", root / "out", level, "--config-file", root / "settings.yaml"]
                _run(root, *arguments)
            _run(root, "predict", root / "out", "--config-file", root / "settings.yaml")
            (root / "done").touch()
    return root


def _run(root, *arguments):
    before = functools.partial(disk_order.watch, root / "out", root / "calls")
    process = forked.start(arguments, root / "messages", before)
    process.join()
    assert process.exitcode == 0, (root / "messages").read_text()
