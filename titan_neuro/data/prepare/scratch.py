"""A run on disk between two passes: written volume by volume, read by volumes or by columns, never whole in memory."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np

from titan_neuro.errors import OutputError

_BYTES = np.dtype(np.float32).itemsize


class Scratch:
    """A float32 matrix ``(volumes, columns)`` in a file that is removed at the end of the ``with`` block.

    Plain reads and writes are used, not a memory map: mapped pages count as memory of the process.

    Parameters
    ----------
    path : Path
        Of the file; its folder exists. What lies there is overwritten.

    Attributes
    ----------
    n_time_points, n_columns : int
        Of what was appended.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.n_columns, self.n_time_points = path, 0, 0
        self._file = path.open("w+b", buffering=0)

    def __enter__(self) -> Scratch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def append(self, block: np.ndarray) -> None:
        """Add volumes ``(time, columns)`` at the end."""
        self.n_columns = block.shape[1]
        self._seek(self.n_time_points, 0)
        self._write(np.ascontiguousarray(block, dtype=np.float32))
        self.n_time_points += len(block)

    def volumes(self, start: int, stop: int) -> np.ndarray:
        """Volumes ``start <= t < stop``: ``(time, columns)``."""
        self._seek(start, 0)
        block = np.empty((stop - start, self.n_columns), dtype=np.float32)
        self._read(block)
        return block

    def columns(self, start: int, stop: int) -> np.ndarray:
        """Columns ``start <= v < stop`` of all volumes: ``(volumes, stop - start)``."""
        block = np.empty((self.n_time_points, stop - start), dtype=np.float32)
        for volume in range(self.n_time_points):
            self._seek(volume, start)
            self._read(block[volume])
        return block

    def replace_columns(self, start: int, block: np.ndarray) -> None:
        """Put ``(volumes, columns)`` in place of the columns from `start` on."""
        block = np.ascontiguousarray(block, dtype=np.float32)
        for volume in range(self.n_time_points):
            self._seek(volume, start)
            self._write(block[volume])

    def _seek(self, volume: int, column: int) -> None:
        self._file.seek((volume * self.n_columns + column) * _BYTES)

    def _write(self, values: np.ndarray) -> None:
        view = memoryview(values).cast("B")
        try:
            while len(view):
                view = view[self._file.write(view) :]
        except OSError as error:
            raise OutputError(
                f"{self._path}: can't be written: {error.strerror or error}.",
                "A run lies there between two passes: name a folder with room (--work-dir).",
            ) from error

    def _read(self, values: np.ndarray) -> None:
        view = memoryview(values).cast("B")
        while len(view):
            count = self._file.readinto(view)
            if not count:
                raise EOFError(f"{self._path}: ended early.")
            view = view[count:]
