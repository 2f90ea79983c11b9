"""How many processes prepare runs side by side within a bound on the memory of all of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from titan_neuro.data.bids.annex import is_missing
from titan_neuro.data.prepare.memory import in_gb, least_bytes, program_bytes
from titan_neuro.errors import OF_ONE_RUN, UsageError

if TYPE_CHECKING:
    from titan_neuro.data.bids.recordings import Recording
    from titan_neuro.data.prepare import PrepareConfig

logger = logging.getLogger(__name__)
# Python's own process that looks after those that were started, and its like.
_BESIDE_WORKERS = 32 * 2**20


def share_memory(
    recordings: Sequence[Recording], config: PrepareConfig, n_processes: int, memory_bytes: int | None
) -> tuple[int, int | None]:
    """Return how many processes fit, and the bound on the resident size of each.

    A process that is started is counted as large as this one, which holds the same program and more.

    Parameters
    ----------
    recordings : sequence of Recording
        Not empty.
    config : PrepareConfig
    n_processes : int
        Asked for.
    memory_bytes : int or None
        Bound on the resident size of all processes together, this one among them; None for none.

    Returns
    -------
    n_processes : int
        At most one for each run; 1: the runs are prepared in this process.
    memory_bytes : int or None
        For each.

    Raises
    ------
    UsageError
        The run that needs most does not fit into a single process.
    """
    asked = min(n_processes, len(recordings))
    if memory_bytes is None:
        return asked, None
    run_bytes, largest = max((_need(recording, config), recording.key) for recording in recordings)
    program = program_bytes()
    if program + run_bytes > memory_bytes:
        raise UsageError(
            f"--mem (memory_bytes): expected at least {in_gb(program + run_bytes)} GB, {in_gb(program)} for the "
            f"program and {in_gb(run_bytes)} for {largest}, found {in_gb(memory_bytes)} GB.",
            "Give more memory, prepare at a coarser --resolution, or leave large runs out.",
        )
    rest = memory_bytes - program - _BESIDE_WORKERS
    fitting = max(1, min(asked, rest // (program + run_bytes)))
    if fitting < asked:
        logger.warning(
            "--mem %s GB: %d of %d processes fit: a run needs up to %s GB, the program %s GB in each process.",
            *(in_gb(memory_bytes), fitting, asked, in_gb(run_bytes), in_gb(program)),
        )
    return (1, memory_bytes) if fitting == 1 else (fitting, rest // fitting)


def _need(recording: Recording, config: PrepareConfig) -> int:
    """What a run needs beside the program; 0 where that is not known, as its files can't be read."""
    paths = recording.hemispheres.values() or [recording.path]
    if recording.failure is not None or any(map(is_missing, paths)):
        return 0
    try:
        return least_bytes(recording, config)
    except (*OF_ONE_RUN, OSError):
        # Why is said when it is prepared.
        return 0
