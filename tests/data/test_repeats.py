"""Repeated segments, found in the events of stored runs."""

import math

import numpy as np
import pytest

from titan_neuro.data.repeats import find_repeats
from titan_neuro.data.space import Space
from titan_neuro.data.store import RunHeader, RunStore, write_run
from titan_neuro.evaluation.noise_ceilings import retest_ceiling

SPACE = Space(kind="parcels", name="native", mask=None, affine=None, parcels=("a", "b", "c"))
# The first two runs of ds003017: the last 10 s of the stimulus of the first are shown again.
FIRST = ((10.0, 577.0, "movie"),)
SECOND = ((10.0, 10.0, "overlap_with_previous_run"), (20.0, 467.0, "movie"))


def stored(folder, number, n_time_points, events, *, subject="1", series=None, repetition_time=1.0):
    series = (
        np.random.default_rng([int(number), n_time_points]).normal(size=(n_time_points, 3))
        if series is None
        else series
    )
    header = RunHeader(
        key=f"sub-{subject}_task-movie_run-{number}",
        entities={"subject": subject, "task": "movie", "run": number},
        repetition_time=repetition_time,
        space=SPACE,
        scored=np.ones(n_time_points, dtype=bool),
        events=events,
    )
    path = folder / f"{header.key}_bold.zarr"
    write_run(path, header, [series.astype(np.float32)])
    return RunStore(path).within(SPACE)


def spans(pairs):
    return [(one.run.key, one.start, one.stop, other.run.key, other.start, other.stop) for one, other in pairs]


def test_overlaps_repeat_the_end_of_the_previous_run(tmp_path):
    runs = [stored(tmp_path, "02", 498, SECOND), stored(tmp_path, "01", 598, FIRST)]
    # Shown from 577 s in the first run and from 10 s in the second; both are shifted by 5 s.
    assert spans(find_repeats(runs)) == [("sub-1_task-movie_run-01", 582, 592, "sub-1_task-movie_run-02", 15, 25)]


def test_retest_ceiling_is_one_for_identical_segments_only(tmp_path):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(598, 3)), rng.normal(size=(498, 3))
    second[15:25] = first[582:592]
    runs = [stored(tmp_path, "01", 598, FIRST, series=first), stored(tmp_path, "02", 498, SECOND, series=second)]
    np.testing.assert_allclose(retest_ceiling(find_repeats(runs)).values["1"], 1.0, atol=1e-3)
    # Segments shifted by one time point do not agree.
    moved = [(one._replace(start=one.start - 1, stop=one.stop - 1), other) for one, other in find_repeats(runs)]
    assert (retest_ceiling(moved).values["1"] < 0.9).all()


def test_segments_end_with_the_run(tmp_path):
    runs = [
        stored(tmp_path, "1", 48, ((0.0, 90.0, "movie"),), repetition_time=2.0),
        stored(tmp_path, "2", 60, ((4.0, 21.0, "overlap_with_previous_run"),), repetition_time=2.0),
    ]
    # 69 to 90 s and 4 to 25 s, both shifted by 5 s: 10 whole time points of 2 s.
    assert spans(find_repeats(runs)) == [("sub-1_task-movie_run-1", 37, 47, "sub-1_task-movie_run-2", 4, 14)]


@pytest.mark.parametrize(
    ("first", "second", "subject"),
    [
        (FIRST, ((20.0, 400.0, "movie"),), "1"),
        (FIRST, SECOND, "2"),
        ((), SECOND, "1"),
        (FIRST, ((10.0, math.nan, "overlap_with_previous_run"),), "1"),
        (((0.0, math.nan, "movie"),), SECOND, "1"),
        (((0.0, 4.0, "movie"),), SECOND, "1"),
    ],
    ids=[
        "no overlap",
        "another subject",
        "no stimulus before",
        "unknown length",
        "unknown end",
        "longer than the stimulus",
    ],
)
def test_without_matching_events_nothing_is_paired(tmp_path, first, second, subject):
    runs = [stored(tmp_path, "01", 598, first), stored(tmp_path, "02", 498, second, subject=subject)]
    assert find_repeats(runs) == []


def test_without_the_previous_run_nothing_is_paired(tmp_path):
    assert find_repeats([stored(tmp_path, "03", 498, SECOND), stored(tmp_path, "01", 598, FIRST)]) == []
