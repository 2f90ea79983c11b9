"""Write a synthetic dataset of OpenNeuro ds003017: its layout and names, as a real DataLad dataset, with a signal that
is known.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from titan_neuro.data.fetch.session import datalad_session, dataset_lock, failure_reason
from titan_neuro.data.simulate.config import SimulateConfig
from titan_neuro.data.simulate.files import write_dataset
from titan_neuro.errors import OutputError
from titan_neuro.files import atomic, remove_leftovers, write_text

_log = logging.getLogger(__name__)
# Raised when the same settings begin to mean other bytes: a synthetic dataset of before is then another synthetic
# dataset.
_SIGNAL_VERSION = 1
# As in ds003017: images in the annex, everything that is read as text in git.
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
    """Write the synthetic dataset to `directory`; a synthetic dataset of the same settings that is already there is
    left as it is.

    The dataset appears under its name only when it is complete. Memory does not grow with its length.

    Parameters
    ----------
    directory : Path
        Root of the dataset to be: does not exist, is empty, or holds a synthetic dataset.
    config : SimulateConfig
        What is planted, and how much of it.

    Raises
    ------
    OutputError
        The folder holds something else, or a synthetic dataset of other settings; it can't be written; DataLad can't
        save.
    FetchError
        git or git-annex is not installed.
    """
    directory = directory.resolve()
    if _is_there(directory, config):
        return
    with dataset_lock(directory):
        # Another process may have made it while this one waited for the lock.
        if _is_there(directory, config):
            return
        remove_leftovers(directory)
        with atomic(directory) as temporary:
            _make(temporary, config)
    _log.info("%s: %d subjects, %d runs each.", directory, config.n_subjects, config.n_runs)


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


def _is_there(directory: Path, config: SimulateConfig) -> bool:
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    truth = directory / "truth.json"
    try:
        found = dict(json.loads(truth.read_text(encoding="utf-8"))["simulated"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{directory}: exists, and is no simulated dataset.", "Choose another folder.") from error
    wanted = _identity(config)
    if found != wanted:
        differing = sorted(key for key in wanted.keys() | found.keys() if found.get(key) != wanted.get(key))
        raise OutputError(
            f"{directory}: holds a synthetic dataset of other settings (they differ in {', '.join(differing)}).",
            "Choose another folder, or remove this one.",
        )
    _log.info("%s: the synthetic dataset is already there.", directory)
    return True


def _identity(config: SimulateConfig) -> dict[str, Any]:
    # By way of JSON, so that it compares equal with what is read back.
    settings = json.loads(json.dumps(asdict(config)))
    return {**settings, "signal_version": _SIGNAL_VERSION}
