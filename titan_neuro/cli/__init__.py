"""The command ``titan-neuro``. What ends it in order is loaded first, and the rest by :func:`main`."""

from __future__ import annotations

from collections.abc import Sequence

from titan_neuro.cli.interruption import end_at_once


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or the code of the error's class (see :mod:`titan_neuro.errors`)."""
    with end_at_once():
        from titan_neuro.cli.command import execute, parse

        return execute(parse(argv))
