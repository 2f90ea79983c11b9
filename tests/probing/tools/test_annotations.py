"""Tables are read column by column, for the runs of their name; unreadable ones are refused."""

import numpy as np
import pytest
import torch
from continuous_tables import write_continuous

from titan_neuro.errors import InputNotFoundError, MetadataError
from titan_neuro.probing.tools.annotations import annotation_files, annotations_of, read_annotations
from titan_neuro.runs import InMemoryRun


def write_table(path, text):
    path.write_text(text.replace(" ", "\t"))
    return path


def named_run(key):
    return InMemoryRun(torch.zeros(3, 1), key=key)


def test_columns_apply_to_runs_of_their_name(tmp_path):
    path = write_table(
        tmp_path / "task-x_run-1_desc-faces_events.tsv",
        "onset duration trial_type size\n0 2 face 1.5\n3 1 n/a n/a\n1 2 house 2\n",
    )
    kinds, sizes = read_annotations([str(path)])
    assert (kinds.name, sizes.name) == ("faces trial_type", "faces size")
    assert kinds.applies_to(named_run("sub-01_task-x_run-01"))
    assert not kinds.applies_to(named_run("sub-01_task-x_run-02"))
    # From 1 to 2 s two events overlap; from 3 s on there is no label.
    assert kinds.label_time_points(np.arange(-1.0, 5), 1.0).tolist() == ["", "face", "", "house", "", ""]
    np.testing.assert_array_equal(sizes.label_time_points(np.arange(5.0), 1.0), [1.5, np.nan, 2, np.nan, np.nan])


def test_quotation_marks_swallow_no_row(tmp_path):
    words = ['"', "world", "there", '"', "bye", '"open', 'closed"']
    rows = "".join(f"{at} 1 {word}\n" for at, word in enumerate(words))
    (annotation,) = read_annotations(
        [write_table(tmp_path / "desc-words_events.tsv", f"onset duration trial_type\n{rows}")]
    )
    assert annotation.values.tolist() == words
    assert annotation.label_time_points(np.arange(7.0), 1.0).tolist() == words


def test_an_index_column_is_no_annotation(tmp_path):
    path = write_table(tmp_path / "desc-faces_events.tsv", " onset duration size\n0 0 2 1.5\n1 3 1 2\n")
    assert [annotation.name for annotation in read_annotations([path])] == ["faces size"]


def test_table_without_entities_applies_to_all(tmp_path):
    (annotation,) = read_annotations(
        [write_table(tmp_path / "desc-all_events.tsv", "onset duration size\n0 n/a 1\nn/a 2 3\n")]
    )
    assert annotation.applies_to(named_run("sub-09_task-x_run-07"))
    assert np.isnan(annotation.label_time_points(np.arange(3.0), 1.0)).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("duration trial_type\n1 a\n", "expected the columns onset, duration and at least one more, found duration"),
        ("onset duration\n1 1\n", "at least one more"),
        ("onset duration size\n1 1 2\n2 1 big\n", r"line 3, column 'size': expected a number or n/a, found 'big'"),
        ("onset duration size\nsoon 1 2\n", "line 2, column 'onset'"),
        ("onset duration\n1 1 2 3\n1 1 2 3 4\n", "line 2: expected 2 cells, found 4"),
    ],
)
def test_unreadable_table_is_refused(tmp_path, text, message):
    path = write_table(tmp_path / "bad_events.tsv", text)
    with pytest.raises(MetadataError, match=message) as error:
        read_annotations([str(path)])
    assert str(path) in str(error.value)


def test_missing_table_is_refused():
    with pytest.raises(InputNotFoundError, match=r"nowhere\.tsv"):
        read_annotations(["nowhere.tsv"])


def test_continuous_tables_are_read_beside_their_sidecars(tmp_path):
    path = write_continuous(
        tmp_path / "sub-01_task-x_recording-eye1_physio.tsv.gz", {"pupil": np.arange(40.0), "gaze": np.ones(40)}
    )
    general = write_continuous(tmp_path / "task-x_recording-eye1_physio.tsv.gz", {"pupil": np.zeros(40)})
    columns = read_annotations([path, str(general)])
    # The table for fewer runs stands last, and counts.
    assert [(column.name, bool("sub" in column.entities)) for column in columns] == [
        ("recording-eye1_physio pupil", False),
        ("recording-eye1_physio pupil", True),
        ("recording-eye1_physio gaze", True),
    ]
    run = named_run("sub-01_task-x_run-2")
    run.continuous = {"stim a": np.array([1, 2, np.nan], np.float32), "recording-eye1_physio gaze": np.full(3, 7.0)}
    found = annotations_of(run, columns, 2.0)
    assert list(found) == ["stim a", "recording-eye1_physio gaze", "recording-eye1_physio pupil"]
    times = np.arange(3) * 2.0
    np.testing.assert_allclose(found["stim a"].label_time_points(times, 2.0), [1, 2, np.nan])
    np.testing.assert_allclose(found["stim a"].label_time_points(times - 2.0, 2.0), [np.nan, 1, 2])
    np.testing.assert_allclose(found["recording-eye1_physio gaze"].label_time_points(times, 2.0), [1, 1, np.nan])
    np.testing.assert_allclose(found["recording-eye1_physio pupil"].label_time_points(times, 2.0), [9.5, 29.5, np.nan])
    other = annotations_of(named_run("sub-02_task-x"), columns, 2.0)
    np.testing.assert_allclose(other["recording-eye1_physio pupil"].label_time_points(times, 2.0), [0, 0, np.nan])
    sidecars = [each.with_name(each.name.replace(".tsv.gz", ".json")) for each in (path, general)]
    assert annotation_files([path]) == [path, sidecars[1], sidecars[0]]


def test_incomplete_continuous_tables_are_refused(tmp_path):
    path = write_continuous(tmp_path / "task-x_stim.tsv.gz", {"x": np.ones(3)}, SamplingFrequency=None)
    with pytest.raises(MetadataError, match="SamplingFrequency"):
        read_annotations([path])
