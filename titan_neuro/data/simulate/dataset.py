"""Write a synthetic dataset with the layout and names of OpenNeuro ds003017, as a real DataLad dataset."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from titan_neuro.data.fetch.session import datalad_session, failure_reason, make_dataset_once
from titan_neuro.data.simulate.config import SimulateConfig
from titan_neuro.data.simulate.files import write_dataset
from titan_neuro.errors import InputNotFoundError, MetadataError, OutputError
from titan_neuro.files import read_json, write_text

_log = logging.getLogger(__name__)
# Increased when the same settings give other bytes: datasets of earlier versions are then refused.
_SIGNAL_VERSION = 1
# As in ds003017: images are annexed, text files are in git.
_ATTRIBUTES = """\
* annex.backend=MD5E
**/.git* annex.largefiles=nothing
*.json annex.largefiles=nothing
*.tsv annex.largefiles=nothing
.bidsignore annex.largefiles=nothing
CHANGES annex.largefiles=nothing
README annex.largefiles=nothing
"""


def simulate(directory: Path, config: SimulateConfig) -> None:
    """Write a synthetic dataset to `directory`, unless it already holds one with the same settings.

    The dataset appears under its name only when it is complete. Memory does not grow with the length of the runs.

    Parameters
    ----------
    directory : Path
        Root of the new dataset: it does not exist, is empty, or holds a synthetic dataset.
    config : SimulateConfig
        Settings of the dataset.

    Raises
    ------
    OutputError
        The folder holds other files, or a synthetic dataset with other settings; it can't be written.
    FetchError
        git or git-annex is not installed.
    """
    directory = directory.resolve()
    make_dataset_once(directory, exists=lambda: _exists(directory, config), make=lambda root: _make(root, config))
    _log.info("%s: synthetic dataset of %d subjects, %d runs each.", directory, config.n_subjects, config.n_runs)


def _make(root: Path, config: SimulateConfig) -> None:
    with datalad_session() as datalad:
        from datalad.support.exceptions import CommandError, IncompleteResultsError

        try:
            datalad.create(path=str(root), description="Simulated by Titan-Neuro", result_renderer="disabled")
            write_text(root / ".gitattributes", _ATTRIBUTES)
            write_dataset(root, config, _identity(config))
            datalad.save(
                dataset=str(root), message="Simulate a synthetic dataset of ds003017", result_renderer="disabled"
            )
        except (CommandError, IncompleteResultsError) as error:
            raise OutputError(
                f"{root.parent}: DataLad can't write a dataset there: {failure_reason(error)}.",
                "Choose a folder on a file system that git-annex can use, with room left.",
            ) from error


def _exists(directory: Path, config: SimulateConfig) -> bool:
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    try:
        settings = dict(read_json(directory / "truth.json", keys=["simulated"])["simulated"])
    except (InputNotFoundError, MetadataError, TypeError, ValueError) as error:
        raise OutputError(f"{directory}: exists, and is no synthetic dataset.", "Choose another folder.") from error
    expected = _identity(config)
    differing = sorted(key for key in expected.keys() | settings.keys() if settings.get(key) != expected.get(key))
    if differing:
        raise OutputError(
            f"{directory}: holds a synthetic dataset with other settings (they differ in {', '.join(differing)}).",
            "Choose another folder, or remove this one.",
        )
    return True


def _identity(config: SimulateConfig) -> dict[str, Any]:
    """Settings and version that decide every byte of the dataset, as they read back from JSON."""
    settings = json.loads(json.dumps(asdict(config)))
    return {**settings, "signal_version": _SIGNAL_VERSION}
