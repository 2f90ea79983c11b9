"""``prepare`` killed at any time, then run again: nothing is lost or left over, and the result is the same."""

from __future__ import annotations

import functools
import signal
import time
from collections import Counter

import forked
import numpy as np
import pytest
from preparations import finished_runs

from titan_neuro.data.store import RunStore

SEED = 20240229


def stages_on_disk(output, preparation):
    """The stage of the work at which it was killed, from what lies on disk."""
    n_done = len(finished_runs(output))
    is_there = {
        "before any output": not (output / "dataset_description.json").exists(),
        "before the first run was done": (output / "dataset_description.json").exists() and not n_done,
        "some runs done": 0 < n_done < preparation.n_runs,
        "all runs done": n_done == preparation.n_runs,
        "a store half written": any(output.rglob(".*.zarr.*.tmp")),
        "between the passes": any(path.stat().st_size for path in output.glob(".work/scratch/*/series")),
    }
    return [name for name, true in is_there.items() if true]


def kill_after(preparation, output, delay_s):
    """Kill a preparation after some seconds; return whether it was still running."""
    process = preparation.start(output)
    process.join(delay_s)
    process.kill()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL), preparation.messages.read_text()
    return process.exitcode != 0


def duration_s(preparation):
    """Of a whole preparation, measured now: other processes may load this machine."""
    start = time.monotonic()
    preparation.finish(preparation.new_output())
    return time.monotonic() - start


def kill_at_random_times(preparation, n_kills):
    """Kill in each of `n_kills` equal stretches of the work, three kills for each output; count the stages hit."""
    rng = np.random.default_rng(SEED)
    positions = (np.arange(n_kills) + rng.random(n_kills)) / n_kills
    whole_s, n_killed, stages = duration_s(preparation), 0, Counter()
    for positions_of_output in rng.permutation(positions.reshape(3, -1).T):
        output, done = preparation.new_output(), {}
        for position in positions_of_output:
            while not kill_after(preparation, output, position * whole_s):
                preparation.check(output)
                if not done:
                    # A whole preparation ended before that time: the machine has become faster.
                    whole_s = duration_s(preparation)
                output, done = preparation.new_output(), {}
            n_killed += 1
            found = stages_on_disk(output, preparation)
            print(f"seed {SEED}: killed after {position * whole_s:.3f} of {whole_s:.3f} s, {', '.join(found)}")
            stages.update(found)
            # Finished runs are not prepared again.
            assert done.items() <= finished_runs(output).items()
            done = finished_runs(output)
            for path in done:
                [store] = output.glob(f"sub-*/func/{path.stem}_desc-prepared_*.zarr")
                RunStore(store).verify()
        preparation.finish(output)
        assert done.items() <= finished_runs(output).items()
        preparation.check(output)
    assert n_killed == n_kills
    return stages


def test_killed_at_three_random_times(native):
    kill_at_random_times(native, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["native", "raw"])
def test_killed_at_fifteen_random_times(name, request):
    stages = kill_at_random_times(request.getfixturevalue(name), 15)
    print(stages)
    assert {"before any output", "before the first run was done", "some runs done"} <= stages.keys()
    # The volumes of a run with transforms stay between the passes until its store is written.
    assert ("between the passes" if name == "raw" else "a store half written") in stages


@pytest.fixture(scope="module")
def changes(one_raw):
    """Every change on disk that a preparation makes, in order."""
    output, log = one_raw.new_output(), one_raw.folder / "changes"
    one_raw.finish(output, functools.partial(forked.list_changes, output, log))
    changes = log.read_text().splitlines()
    assert len(changes) > 20
    assert "dataset_description.json" in changes[0]
    assert "provenance.json" in [change for change in changes if ".work/locks/" not in change][-1]
    return changes


def check_kill_before_change(preparation, changes, number):
    """Also where the time between two changes is too short to be hit by chance."""
    print(f"killed before {changes[number]}")
    output = preparation.new_output()
    kill = functools.partial(forked.kill_before_change, output, number)
    assert preparation.exit_code(output, kill) == -signal.SIGKILL, preparation.messages.read_text()
    done = finished_runs(output)
    preparation.finish(output)
    assert done.items() <= finished_runs(output).items()
    preparation.check(output)


def test_killed_before_some_changes_on_disk(one_raw, changes):
    for number in sorted({0, len(changes) - 1, *range(3, len(changes), 6)}):
        check_kill_before_change(one_raw, changes, number)


@pytest.mark.slow
def test_killed_before_every_change_on_disk(one_raw, changes):
    for number in range(len(changes)):
        check_kill_before_change(one_raw, changes, number)
