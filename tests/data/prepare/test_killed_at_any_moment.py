"""``prepare`` killed at any moment, then run again: nothing is lost or left over, and the result is the same."""

from __future__ import annotations

import functools
import json
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import forked
import native_runs
import numpy as np
import pytest
import yaml
from phantom import STEM, Phantom

from titan_neuro.data.store import RunStore, open_runs

SEED = 20240229
N_KILLS = 15  # of each route


@dataclass
class Route:
    """A dataset, how it is prepared, and what comes out where nothing disturbs."""

    root: Path
    options: tuple[str, ...]
    folder: Path
    n_runs: int

    def __post_init__(self):
        self.inputs = contents(self.root)
        self.messages = self.folder / "messages"
        self._n_outputs = 0
        output = self.new_output()
        self.finish(output)
        self.expected = outcome(output)
        self.stages = sorted(stages(output))

    def new_output(self):
        self._n_outputs += 1
        return self.folder / f"out-{self._n_outputs}"

    def start(self, output, before=None):
        return forked.start(["prepare", self.root, output, *self.options], self.messages, before)

    def finish(self, output, before=None):
        process = self.start(output, before)
        process.join(60)
        assert process.exitcode == 0, self.messages.read_text()

    def check(self, output):
        found = outcome(output)
        assert found.keys() == self.expected.keys()
        assert [name for name in found if found[name] != self.expected[name]] == []
        stores = open_runs(output)
        assert len(stores) == self.n_runs
        for store in stores:
            store.verify()
        assert sorted(stages(output)) == self.stages
        assert stages(output)[self.stages[0]]["n_runs"] == self.n_runs
        assert yaml.safe_load((output / "config.resolved.yaml").read_text())["prepare"]["estimation"] == "causal"
        assert contents(self.root) == self.inputs


def contents(folder):
    """Of all files, by name; folders have none, and are listed too."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def outcome(output):
    """All that lies there, but what tells the time, and locks."""
    names = contents(output)
    return {name: names[name] for name in names if name != "provenance.json" and not name.startswith(".work/locks/")}


def stages(output):
    return json.loads((output / "provenance.json").read_text())["stages"]


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """Three runs in their own space: read and written in one pass."""
    folder = tmp_path_factory.mktemp("native")
    root = native_runs.write(folder / "bids", n_runs=3, shape=(24, 26, 22), n_time_points=40)
    return Route(root, (), folder, 3)


def raw_with_transforms(folder, n_runs, n_volumes):
    """Runs whose volumes lie on disk between two passes, with a table of confounds each."""
    phantom = Phantom(shape=(16, 18, 14), voxel_mm=10.0, warp_spacing_mm=10.0, n_volumes=n_volumes)
    noise = np.random.default_rng(0).normal(0, 10, (*phantom.shape, phantom.n_volumes))
    root = phantom.write(folder / "bids", phantom.record(0)[..., None] + noise)
    for path in [*root.rglob(f"{STEM}_*")]:
        for run in range(2, n_runs + 1):
            shutil.copy(path, path.with_name(path.name.replace("run-01", f"run-{run:02d}")))
    return Route(root, ("--resolution", "10", "--confounds", "motion24"), folder, n_runs)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return raw_with_transforms(tmp_path_factory.mktemp("raw"), n_runs=2, n_volumes=100)


@pytest.fixture(scope="module")
def one_raw(tmp_path_factory):
    return raw_with_transforms(tmp_path_factory.mktemp("one-raw"), n_runs=1, n_volumes=30)


def sidecars(output):
    """The last file of each run: with it the run is done."""
    return {path: path.stat().st_mtime_ns for path in output.rglob("*_desc-prepared_bold.json")}


def seen(output, route):
    """Where the work was when it was killed, from what lies on disk."""
    n_done = len(sidecars(output))
    there = {
        "before any output": not (output / "dataset_description.json").exists(),
        "before the first run was done": (output / "dataset_description.json").exists() and not n_done,
        "some runs done": 0 < n_done < route.n_runs,
        "all runs done": n_done == route.n_runs,
        "a store half written": any(output.rglob(".*.zarr.*.tmp")),
        "between the passes": any(path.stat().st_size for path in output.glob(".work/scratch/*/series")),
    }
    return [name for name, true in there.items() if true]


def kill_at(route, output, delay_s):
    """Whether the process was alive then."""
    process = route.start(output)
    process.join(delay_s)
    process.kill()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL), route.messages.read_text()
    return process.exitcode != 0


def duration_s(route):
    """Of a whole preparation, now: others may work on this machine."""
    start = time.monotonic()
    route.finish(route.new_output())
    return time.monotonic() - start


@pytest.mark.parametrize("name", ["native", "raw"])
def test_killed_at_random_moments(name, request):
    route = request.getfixturevalue(name)
    rng = np.random.default_rng(SEED)
    # One in each of as many stretches of the work; three of them, far apart, for each output.
    positions = (np.arange(N_KILLS) + rng.random(N_KILLS)) / N_KILLS
    whole_s, n_killed, found = duration_s(route), 0, Counter()
    for of_output in rng.permutation(positions.reshape(3, -1).T):
        output, done = route.new_output(), {}
        for position in of_output:
            while not kill_at(route, output, position * whole_s):
                route.check(output)
                if not done:
                    # A whole preparation was over before that moment: this machine has become faster.
                    whole_s = duration_s(route)
                output, done = route.new_output(), {}
            n_killed += 1
            stages_hit = seen(output, route)
            print(f"seed {SEED}: killed after {position * whole_s:.3f} of {whole_s:.3f} s, {', '.join(stages_hit)}")
            found.update(stages_hit)
            # What was done is not done again.
            assert done.items() <= sidecars(output).items()
            done = sidecars(output)
            for path in done:
                RunStore(path.with_suffix(".zarr")).verify()
        route.finish(output)
        assert done.items() <= sidecars(output).items()
        route.check(output)
    print(found)
    assert n_killed == N_KILLS
    # The volumes of a run with transforms stay between the passes until its store is written.
    in_a_run = "between the passes" if name == "raw" else "a store half written"
    assert {"before any output", "before the first run was done", in_a_run, "some runs done"} <= found.keys()


def test_killed_before_each_change_on_disk(one_raw):
    """Also where the time between two changes is too short to be hit."""
    route, log = one_raw, one_raw.folder / "changes"
    output = route.new_output()
    route.finish(output, functools.partial(forked.list_changes, output, log))
    changes = log.read_text().splitlines()
    assert len(changes) > 20
    assert "dataset_description.json" in changes[0]
    assert "provenance.json" in changes[-1]
    for number, change in enumerate(changes):
        print(f"killed before {change}")
        output = route.new_output()
        process = route.start(output, functools.partial(forked.kill_before_change, output, number))
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, route.messages.read_text()
        done = sidecars(output)
        route.finish(output)
        assert done.items() <= sidecars(output).items()
        route.check(output)
