"""The time series of a run on disk between two passes, so that it never lies in memory as a whole."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np

from titan_neuro.errors import OutputError

_BYTES_PER_VALUE = np.dtype(np.float32).itemsize


class ScratchSeries:
    """A float32 matrix ``(time, columns)`` in a file, which is removed at the end of the ``with`` block.

    It is written time point by time point, and read by time points or by columns. The file is not memory-mapped: mapped
    pages count as memory of the process.

    Parameters
    ----------
    path : Path
        The file; its folder exists. An existing file is overwritten.

    Attributes
    ----------
    n_time_points, n_columns : int
        Of what was appended so far.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.n_columns, self.n_time_points = path, 0, 0
        self._file = path.open("w+b", buffering=0)

    def __enter__(self) -> ScratchSeries:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def append(self, block: np.ndarray) -> None:
        """Write the next time points, ``(time, columns)``.

        Raises
        ------
        OutputError
            The file can't be written, or the disk is full.
        """
        self.n_columns = block.shape[1]
        self._seek(self.n_time_points, 0)
        self._write(np.ascontiguousarray(block, dtype=np.float32))
        self.n_time_points += len(block)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read time points ``start <= t < stop``: float32 ``(time, columns)``."""
        self._seek(start, 0)
        block = np.empty((stop - start, self.n_columns), dtype=np.float32)
        self._fill(block)
        return block

    def read_columns(self, start: int, stop: int) -> np.ndarray:
        """Read columns ``start <= v < stop`` at all time points: float32 ``(time, stop - start)``."""
        block = np.empty((self.n_time_points, stop - start), dtype=np.float32)
        for time_point in range(self.n_time_points):
            self._seek(time_point, start)
            self._fill(block[time_point])
        return block

    def replace_columns(self, start: int, block: np.ndarray) -> None:
        """Overwrite the columns from `start` on with `block`, ``(time, columns)``."""
        block = np.ascontiguousarray(block, dtype=np.float32)
        for time_point in range(self.n_time_points):
            self._seek(time_point, start)
            self._write(block[time_point])

    def _seek(self, time_point: int, column: int) -> None:
        self._file.seek((time_point * self.n_columns + column) * _BYTES_PER_VALUE)

    def _write(self, values: np.ndarray) -> None:
        view = values.data.cast("B")
        try:
            while len(view):
                view = view[self._file.write(view) :]
        except OSError as error:
            raise OutputError(
                f"{self._path}: can't be written: {error.strerror or error}.",
                "The file holds a run between two passes: choose a folder with enough room (--work-dir).",
            ) from error

    def _fill(self, values: np.ndarray) -> None:
        view = values.data.cast("B")
        while len(view):
            n_bytes = self._file.readinto(view)
            if not n_bytes:
                raise EOFError(f"{self._path}: expected {len(view)} more bytes, found the end of the file.")
            view = view[n_bytes:]
