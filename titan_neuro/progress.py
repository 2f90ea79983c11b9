"""Progress of long work: a bar on a terminal; where there is none, as in the log of a job, a line for each step."""

from __future__ import annotations

import datetime
import logging
import time
from types import TracebackType

from tqdm import tqdm

logger = logging.getLogger(__name__)


class Progress:
    """Says how far some work is, as a context manager around it.

    Parameters
    ----------
    total : int
        Number of steps.
    work : str
        What is done, with which the bar and each line begin.
    unit : str
        What a step is.

    Examples
    --------
    >>> with Progress(2, "Fold 1 of 3") as progress:
    ...     progress.step("sub-01_task-movie is scored")
    ...     progress.step("sub-02_task-movie is scored")
    """

    def __init__(self, total: int, work: str, *, unit: str = "run") -> None:
        self._work, self._total, self._done, self._start = work, total, 0, time.monotonic()
        # None: no bar where the output is no terminal.
        self._bar = tqdm(total=total, desc=work, unit=unit, disable=None)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def step(self, done: str) -> None:
        """Count a step, and say what is done where there is no bar."""
        self._done += 1
        self._bar.update()
        if self._bar.disable:
            elapsed = datetime.timedelta(seconds=round(time.monotonic() - self._start))
            logger.info("%s: %s (%d of %d; %s).", self._work, done, self._done, self._total, elapsed)
