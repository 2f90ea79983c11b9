"""Ctrl-C and SIGTERM: one line and an exit code, from the first import on."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Interruption:
    """What has interrupted the command.

    Attributes
    ----------
    number : int or None
        Of the signal; None where there was none.
    """

    number: int | None = None

    def end(self) -> int:
        """Say so in one line, and return the exit code."""
        number = signal.SIGINT if self.number is None else self.number
        line = f"titan-neuro: {_WORDS[signal.Signals(number)]}; run the same command again to go on.\n"
        os.write(2, line.encode())
        return 128 + number


@contextlib.contextmanager
def end_at_once() -> Iterator[None]:
    """End the process at a signal, inside the block: while nothing is open, and imports can't be relied on to end."""

    def end(number: int, frame: FrameType | None) -> None:
        interruption = Interruption()
        interruption.number = number
        os._exit(interruption.end())

    with _handler(end):
        yield


@contextlib.contextmanager
def raise_at_signal() -> Iterator[Interruption]:
    """Raise KeyboardInterrupt at a signal, inside the block, so that unfinished files are removed.

    It is raised again where a callback has lost it.

    Yields
    ------
    Interruption
    """
    interruption, hook = Interruption(), sys.unraisablehook

    def interrupt(number: int, frame: FrameType | None) -> None:
        interruption.number = number
        raise KeyboardInterrupt

    def raise_again(lost: UnraisableHookArgs) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            # Later, outside of the callback: here it would be lost once more.
            number = signal.SIGINT if interruption.number is None else interruption.number
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        else:
            hook(lost)

    with _handler(interrupt):
        sys.unraisablehook = raise_again
        try:
            yield interruption
        finally:
            sys.unraisablehook = hook


@contextlib.contextmanager
def _handler(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle both signals inside the block, where this can: in the main thread, and where they are not ignored."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _WORDS}
        # A command in the background (nohup) must not be interrupted by a Ctrl-C that is meant for another.
        before = {number: found for number, found in before.items() if found not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, found in before.items():
            signal.signal(number, found)
