"""Recordings that several rooms test on, and one small study that has gone the whole way."""

from __future__ import annotations

import functools
import logging
import os
import shutil
from pathlib import Path

import disk_order
import forked
import jaxtyping
import pytest
import tiny_study
import torch
from filelock import FileLock
from forked import run_command

# Triton looks at this when it is first imported, by whomever: without a GPU its kernels are interpreted.
if torch.cuda.is_available():
    # cuBLAS is deterministic, which some tests ask for, with this only.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
else:
    os.environ["TRITON_INTERPRET"] = "1"

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
# Small enough for seconds, with every part of a study: three folds over three subjects, a model, a probe, a report.
DEBUG_SETTINGS = ["--set", "training.max_epochs=2", "--set", "training.steps_per_epoch=2"]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """What the command sets up when it is called inside a test, or a fixture of any scope, must not outlive it."""
    logger = logging.getLogger("titan_neuro")
    logger.handlers[:], logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def without_shape_checks():
    """Let a wrong argument reach our own message, ahead of that of the checks that the tests add (beartype's)."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def titan_neuro():
    """The command, run in a process of its own: `forked.run_command`."""
    return run_command


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"real recordings {name} are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def haxby() -> Path:
    """One subject, 12 runs of 121 volumes at 25 mm, TR 2.5 s: raw BIDS."""
    return _shared("haxby25mm")


@pytest.fixture(scope="session")
def sitcom() -> Path:
    """Twelve subjects who watched one sitcom episode, 1,486 time points of 200 parcels, TR 1 s."""
    return _shared("sitcom-parcels")


@pytest.fixture(scope="session")
def films() -> Path:
    """The same twelve subjects: two episodes, a documentary, rest; stimulus components and an engagement rating."""
    return _shared("films-parcels")


@pytest.fixture(scope="session")
def sherlock() -> Path:
    """Eight people who watch a detective series and retell it: fMRIPrep-like images of 481 voxels at ``res-3``."""
    return _shared("sherlock-pmc")


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of the synthetic dataset with the debug preset: ``synthetic`` (source), ``bids`` (clone), ``output``.

    Made once, also where several workers run the tests. Read it; copy it before changing it.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    root = base / "study"
    with FileLock(base / "study.lock"):
        if not (root / "done").exists():
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            (root / "debug.yaml").write_text("preset: debug\n")
            run_command(
                "simulate",
                root / "synthetic",
                "--subjects",
                3,
                "--runs",
                2,
                "--volume-scale",
                0.12,
                "--voxel-size-mm",
                20,
            )
            run_command("fetch", root / "synthetic", root / "bids")
            for level in ("participant", "group"):
                run_command(
                    *("run", root / "bids", root / "output", level, "--config-file", root / "debug.yaml"),
                    *DEBUG_SETTINGS,
                )
            (root / "done").touch()
    return root


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
                _run_watched(root, *arguments)
            _run_watched(root, "predict", root / "out", "--config-file", root / "settings.yaml")
            (root / "done").touch()
    return root


def _run_watched(root: Path, *arguments: object) -> None:
    before = functools.partial(disk_order.watch, root / "out", root / "calls")
    process = forked.start(arguments, root / "messages", before)
    process.join()
    assert process.exitcode == 0, (root / "messages").read_text()
