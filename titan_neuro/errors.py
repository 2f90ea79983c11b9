"""Every error that Titan-Neuro raises on purpose, one class and one exit code for each kind of trouble.

A message says what was checked, what was expected and what was found, and in which file; the hint says what to do. The
command line prints the two and exits with the class's code; the traceback is shown with ``--debug`` only.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar


class TitanNeuroError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    message : str
        What was checked, what was expected, what was found, and where.
    hint : str, optional
        What the reader can do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[type[TitanNeuroError], tuple[str, str]]:
        # Worker processes hand errors back by pickle, which would lose the hint.
        return type(self), (self.message, self.hint)


class UsageError(TitanNeuroError):
    """The command line was used in a way that has no meaning."""

    exit_code = 2


class InputNotFoundError(TitanNeuroError):
    """A file or folder that was named does not exist, or can't be read."""

    exit_code = 3


class NotBIDSError(TitanNeuroError):
    """The folder is not a BIDS dataset."""

    exit_code = 4


class NoMatchError(TitanNeuroError):
    """The filter leaves no run (or no subject, or no fold) to work on."""

    exit_code = 5


class NotFetchedError(TitanNeuroError):
    """The file is known to the dataset, but its content is not on this machine."""

    exit_code = 6


class ImageError(TitanNeuroError):
    """A recording can't be used: wrong number of dimensions, corrupt, another grid, too short."""

    exit_code = 7


class MetadataError(TitanNeuroError):
    """A sidecar, events table or dataset description lacks what is needed or contradicts the data."""

    exit_code = 8


class OutputError(TitanNeuroError):
    """The output folder can't be written, or belongs to somebody else."""

    exit_code = 9


class ConfigError(TitanNeuroError):
    """A configuration has an unknown key, or a value out of its range."""

    exit_code = 10


class MismatchError(TitanNeuroError):
    """A checkpoint, store or state does not fit the data or the model it is used with."""

    exit_code = 11


class FetchError(TitanNeuroError):
    """DataLad or git-annex could not get the data."""

    exit_code = 12


class TrainingError(TitanNeuroError):
    """Training can't go on: a loss that is not finite, nothing to learn from."""

    exit_code = 13


class LeakageError(TitanNeuroError):
    """Something was forecast in noise, where nothing can be; or a model was fitted on those who are tested."""

    exit_code = 14


OF_ONE_RUN = (ImageError, MetadataError, NotFetchedError, InputNotFoundError)
"""Errors about the files of one run, which say nothing about other runs."""


def near_miss(name: str, names: Iterable[str]) -> str:
    """Ask whether the nearest of the valid names was meant, to end a message about an unknown one.

    Parameters
    ----------
    name : str
        The unknown name.
    names : iterable of str
        The valid names.

    Returns
    -------
    str
        `` Did you mean 'dim'?``, with a space in front; empty where no valid name is near.
    """
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def list_names(names: Sequence[str], at_most: int = 10, *, of: str = "in all") -> str:
    """List names for a message, with their number where there are more than `at_most`.

    Of seven names, at most two: ``a, b, ... (7 in all)``.
    """
    more = f", ... ({len(names)} {of})" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
