"""Clean runs of the smallest study."""

from __future__ import annotations

import shutil
import time

import pytest
import tiny_study
from histories import History, outcome


class CleanRun:
    """One clean run, stage by stage.

    Attributes
    ----------
    history : History
    before : dict of str to Path
        The output folder before each stage; missing before the first.
    after : dict of str to dict
        The outcome after each stage.
    duration_s : dict of str to float
    """

    def __init__(self, folder, variant="", version=0):
        self.history = History(folder)
        self.history.set(variant)
        self.history.change_recording("02", version)
        self.before, self.after, self.duration_s = {}, {}, {}
        for stage in tiny_study.STAGES:
            self.before[stage] = folder / f"before/{stage}"
            if self.history.output.exists():
                shutil.copytree(self.history.output, self.before[stage])
            start = time.monotonic()
            assert self.history.run(stage) == 0, self.history.describe(f"a clean {stage} failed")
            self.duration_s[stage] = time.monotonic() - start
            self.after[stage] = outcome(self.history.output, self.history.bids)


@pytest.fixture(scope="session")
def clean(tmp_path_factory):
    """Clean runs, made when they are asked for: by variant of the settings and version of a recording."""
    made = {}

    def run(variant="", version=0):
        if (variant, version) not in made:
            made[variant, version] = CleanRun(tmp_path_factory.mktemp("clean"), variant, version)
        return made[variant, version]

    return run
