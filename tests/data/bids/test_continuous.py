"""Continuous tables: which apply to a run, what is read, and their values at the time points."""

import gzip
import json

import numpy as np
import pytest
from continuous_tables import write_continuous, write_parcels

from titan_neuro.data.bids.continuous import ContinuousTable, continuous_file, read_continuous, resample
from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.errors import InputNotFoundError, MetadataError

ROW = {"loudness": np.zeros(3)}


def tables_by_subject(root):
    """Paths of the tables of each subject, by name."""
    return {
        recording.subject: {table.name: str(table.path.relative_to(root)) for table in recording.continuous}
        for recording in find_recordings(root)
    }


# ---- which tables apply ------------------------------------------------------------------------------


def test_tables_apply_by_inheritance(tmp_path):
    root = write_parcels(tmp_path / "data", ["01", "02"])
    for name in (
        "task-movie_stim.tsv.gz",
        "task-rest_stim.tsv.gz",
        "task-movie_recording-engagement_stim.tsv.gz",
        "sub-02/sub-02_task-movie_stim.tsv.gz",
        "sub-01/func/sub-01_task-movie_recording-cardiac_physio.tsv.gz",
        # Of another kind of recording.
        "sub-01/eeg/sub-01_task-movie_physio.tsv.gz",
    ):
        write_continuous(root / name, ROW)
    engagement = {"recording-engagement_stim": "task-movie_recording-engagement_stim.tsv.gz"}
    assert tables_by_subject(root) == {
        "01": {
            "recording-cardiac_physio": "sub-01/func/sub-01_task-movie_recording-cardiac_physio.tsv.gz",
            **engagement,
            "stim": "task-movie_stim.tsv.gz",
        },
        "02": {**engagement, "stim": "sub-02/sub-02_task-movie_stim.tsv.gz"},
    }


def test_nearer_tables_win_over_more_specific_ones(tmp_path):
    root = write_parcels(tmp_path / "data", ["01"])
    for name in ("task-movie_stim.tsv.gz", "sub-01_task-movie_stim.tsv.gz", "sub-01/func/sub-01_stim.tsv.gz"):
        write_continuous(root / name, ROW)
        assert tables_by_subject(root) == {"01": {"stim": name}}


def test_equally_specific_tables_are_refused(tmp_path):
    root = write_parcels(tmp_path / "data", ["01"])
    for name in ("sub-01_stim.tsv.gz", "task-movie_stim.tsv.gz"):
        write_continuous(root / name, ROW)
    with pytest.raises(MetadataError, match=r"two tables apply equally well: .*sub-01_stim.*task-movie_stim"):
        find_recordings(root)


def test_sidecars_are_inherited(tmp_path):
    root = write_parcels(tmp_path / "data", ["01"])
    path = write_continuous(root / "sub-01/func/sub-01_task-movie_recording-a_stim.tsv.gz", {"x": np.arange(4.0)})
    own = path.with_name(path.name.replace(".tsv.gz", ".json"))
    own.write_text(json.dumps({"StartTime": -2.5}))
    (root / "task-movie_stim.json").write_text(
        json.dumps({"Columns": ["y"], "SamplingFrequency": 4.0, "StartTime": 9.0})
    )
    (root / "task-movie_recording-a_stim.json").write_text(json.dumps({"Columns": ["x"]}))
    (root / "task-movie_recording-b_stim.json").write_text(json.dumps({"SamplingFrequency": 7.0}))
    [recording] = find_recordings(root)
    table = read_continuous(recording.continuous[0])
    assert (table.columns, table.sampling_frequency_hz, table.start_s) == (("x",), 4.0, -2.5)
    assert own in recording.files.values() and path in recording.files.values()


def test_real_tables_are_found(films):
    recordings = {recording.key: recording for recording in find_recordings(films, subjects=["001"])}
    names = {key: [table.name for table in recording.continuous] for key, recording in recordings.items()}
    assert names == {
        "sub-001_task-documentary": ["stim"],
        "sub-001_task-rest_run-1": [],
        "sub-001_task-rest_run-2": [],
        "sub-001_task-sitcomep1": ["recording-engagement_stim", "stim"],
        "sub-001_task-sitcomep2": ["recording-engagement_stim", "stim"],
    }
    engagement, components = (read_continuous(file) for file in recordings["sub-001_task-sitcomep1"].continuous)
    assert engagement.columns == ("engagement",)
    assert components.values.shape == (1486, 100)
    # One row a volume: row t is that of volume t.
    at_volumes = resample(components, np.arange(1486.0), 1.0)
    np.testing.assert_allclose(at_volumes, components.values, atol=1e-9)
    np.testing.assert_array_equal(np.isnan(resample(engagement, np.arange(1486.0), 1.0)), np.isnan(engagement.values))


# ---- what is read ------------------------------------------------------------------------------------


def test_gaps_and_clocks_are_no_values(tmp_path):
    columns = {"timestamp": [0, 1, 2], "pupil": [1.5, np.nan, 2], "trigger": [0, 1, 0]}
    table = read_continuous(
        continuous_file(write_continuous(tmp_path / "task-x_recording-eye1_physio.tsv.gz", columns))
    )
    assert table.columns == ("pupil",)
    np.testing.assert_array_equal(table.values, [[1.5], [np.nan], [2]])


def test_empty_rows_are_rows(tmp_path):
    path = write_continuous(tmp_path / "task-x_stim.tsv.gz", {"x": []}, text="1\n\n3\ninf\n")
    np.testing.assert_array_equal(read_continuous(continuous_file(path)).values[:, 0], [1, np.nan, 3, np.nan])


def test_columns_of_text_are_left_out(tmp_path, caplog):
    columns = {"x": [], "scene": [], "y": []}
    path = write_continuous(tmp_path / "task-x_stim.tsv.gz", columns, text='1\t"Hello\t5\n2\tn/a\t6\n')
    assert read_continuous(continuous_file(path)).columns == ("x", "y")
    assert "holds text in the columns scene" in caplog.text


@pytest.mark.parametrize(
    ("sidecar", "text", "message"),
    [
        ({"Columns": None}, "1\n", "names of its columns as `Columns`"),
        ({"Columns": []}, "1\n", "names of its columns as `Columns`"),
        ({"Columns": ["a", "a"]}, "1\t2\n", "repeats a"),
        ({"Columns": ["a", "b"]}, "1\n", "expected 2 columns, .* found 1"),
        ({"SamplingFrequency": None}, "1\n", "`SamplingFrequency` in its JSON sidecar, found None"),
        ({"SamplingFrequency": 0}, "1\n", "above 0 Hz"),
        ({"SamplingFrequency": True}, "1\n", "found True"),
        ({"StartTime": None}, "1\n", "`StartTime`"),
        ({"StartTime": "n/a"}, "1\n", "`StartTime` in its JSON sidecar, found 'n/a'"),
        ({}, "x\n1\n2\n", "no header row"),
        ({}, "\n", "not a readable table"),
    ],
)
def test_unusable_tables_are_refused(tmp_path, sidecar, text, message):
    path = write_continuous(tmp_path / "task-x_stim.tsv.gz", {"x": []}, text=text, **sidecar)
    with pytest.raises(MetadataError, match=message) as caught:
        read_continuous(continuous_file(path))
    assert str(path) in str(caught.value) and caught.value.hint


@pytest.mark.parametrize(
    "content", [b"1\n2\n", gzip.compress(b"1\n" * 99999)[:50], b""], ids=["not compressed", "cut", "empty"]
)
def test_damaged_tables_are_refused(tmp_path, content):
    path = write_continuous(tmp_path / "task-x_stim.tsv.gz", {"x": []})
    path.write_bytes(content)
    with pytest.raises(MetadataError, match="not a readable table"):
        read_continuous(continuous_file(path))
    path.unlink()
    with pytest.raises(InputNotFoundError):
        read_continuous(continuous_file(path))


# ---- values at the time points -------------------------------------------------------------------------


def table_of(values, frequency, start=0.0):
    values = np.asarray(values, dtype=float)
    values = values if values.ndim == 2 else values[:, None]
    names = tuple(f"x{column}" for column in range(values.shape[1]))
    return ContinuousTable(columns=names, values=values, sampling_frequency_hz=frequency, start_s=start)


def at_volumes(table, n_time_points, repetition_time, delay=0.0):
    return resample(table, np.arange(n_time_points) * repetition_time - delay, repetition_time)[:, 0]


@pytest.mark.parametrize(("frequency", "repetition_time"), [(10, 2.0), (1000, 0.72), (25, 0.8), (4 / 3, 1.5)])
def test_faster_tables_are_averaged_over_each_volume(frequency, repetition_time):
    rows = round(frequency * repetition_time)
    values = np.random.default_rng(0).normal(1e4, 1, 50 * rows)
    expected = values.reshape(50, rows).mean(axis=1)
    np.testing.assert_allclose(at_volumes(table_of(values, frequency), 50, repetition_time), expected, atol=1e-7)


def test_averages_do_not_alias():
    # A heartbeat of 1.2 Hz is far above what volumes of 2 s can show: sampled at their onsets it would be a slow wave.
    pulse = np.sin(2 * np.pi * 1.24 * np.arange(20_000) / 100)
    assert np.abs(at_volumes(table_of(pulse, 100), 100, 2.0)).max() < 0.2
    assert pulse[::200].std() > 0.6


def test_rows_count_by_what_is_covered_of_them():
    # Volumes of 2.5 rows.
    np.testing.assert_allclose(
        at_volumes(table_of([0, 1, 2, 3, 4], 1.0), 2, 2.5), [(0 + 1 + 1) / 2.5, (1 + 3 + 4) / 2.5]
    )


@pytest.mark.parametrize("repetition_time", [0.5, 1.0, 2.0])
def test_slower_tables_are_interpolated(repetition_time):
    found = at_volumes(table_of([0, 8, 16, 24], 0.125), 60, repetition_time)
    times = np.arange(60) * repetition_time
    np.testing.assert_allclose(found[times <= 24], times[times <= 24], atol=1e-6)
    assert np.isnan(found[times > 24]).all()


@pytest.mark.parametrize("frequency", [1 / 1.5, 0.6667, 0.6666, 0.666])
def test_one_row_a_volume_is_kept_however_it_is_rounded(frequency):
    values = np.random.default_rng(0).normal(size=40)
    np.testing.assert_allclose(at_volumes(table_of(values, frequency), 40, 1.5), values, atol=0.15)


@pytest.mark.parametrize(("start", "first", "last"), [(0.0, 0, 9), (-4.0, 0, 7), (6.0, 3, 12), (35.0, 17.5, 27.5)])
def test_start_time_shifts_the_table(start, first, last):
    # 20 s of the time itself, at 10 Hz.
    table = table_of(start + np.arange(200) / 10, 10, start)
    found = at_volumes(table, 15, 2.0)
    covered = [t for t in range(15) if first <= t <= last]
    np.testing.assert_allclose(found[covered], 2.0 * np.array(covered) + 0.95, atol=1e-9)
    outside = [t for t in range(15) if t < np.floor(first) or t > np.ceil(last)]
    assert np.isnan(found[outside]).all()


@pytest.mark.parametrize("delay", [0.0, 3.0, 4.5, 5.0])
def test_delayed_labels_are_those_shown_earlier(delay):
    times = np.arange(600) / 10
    found = at_volumes(table_of(times, 10), 30, 1.5, delay)
    covered = np.isfinite(found)
    np.testing.assert_allclose(found[covered], (np.arange(30) * 1.5 - delay + 0.7)[covered], atol=0.5)
    assert not covered[: max(0, int(delay / 1.5) - 1)].any() and covered[int(delay / 1.5) + 1 :].all()


def test_gaps_longer_than_half_a_volume_have_no_value():
    values = np.ones(40)
    values[10:14], values[20:26] = np.nan, np.nan
    np.testing.assert_array_equal(np.isnan(at_volumes(table_of(values, 5), 4, 2.0)), [False, False, True, False])
    slow = at_volumes(table_of([1, np.nan, 3, 5], 0.25), 13, 1.0)
    np.testing.assert_allclose(slow, [1, *[np.nan] * 7, 3, 3.5, 4, 4.5, 5])


def test_columns_have_gaps_of_their_own():
    values = np.array([[1, np.nan], [1, np.nan], [np.nan, 2], [np.nan, 2]], dtype=float)
    np.testing.assert_array_equal(
        resample(table_of(values, 1.0), np.array([0.0, 2.0]), 2.0), [[1, np.nan], [np.nan, 2]]
    )
    assert resample(table_of(np.empty((4, 0)), 1.0), np.arange(3.0), 1.0).shape == (3, 0)
