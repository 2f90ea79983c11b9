"""Recordings, none of which is broken."""

from __future__ import annotations

from typing import Any

from titan_neuro.data.bids.recordings import Recording, find_recordings


def find_whole(*arguments: Any, **options: Any) -> list[Recording]:
    """`find_recordings`, but with an error for a run of several, as there would be for it alone."""
    recordings = find_recordings(*arguments, **options)
    for recording in recordings:
        if recording.failure is not None:
            raise recording.failure
    return recordings
