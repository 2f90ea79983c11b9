"""Tables are read column by column, for the runs of their name; unreadable ones are refused."""

import numpy as np
import pytest
import torch

from titan_neuro.errors import InputNotFoundError, MetadataError
from titan_neuro.probing.tools.annotations import label_time_points, read_annotations
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
    assert label_time_points(kinds, np.arange(-1.0, 5)).tolist() == ["", "face", "", "house", "", ""]
    np.testing.assert_array_equal(label_time_points(sizes, np.arange(5.0)), [1.5, np.nan, 2, np.nan, np.nan])


def test_quotation_marks_swallow_no_row(tmp_path):
    words = ['"', "world", "there", '"', "bye", '"open', 'closed"']
    rows = "".join(f"{at} 1 {word}\n" for at, word in enumerate(words))
    (annotation,) = read_annotations(
        [write_table(tmp_path / "desc-words_events.tsv", f"onset duration trial_type\n{rows}")]
    )
    assert annotation.values.tolist() == words
    assert label_time_points(annotation, np.arange(7.0)).tolist() == words


def test_an_index_column_is_no_annotation(tmp_path):
    path = write_table(tmp_path / "desc-faces_events.tsv", " onset duration size\n0 0 2 1.5\n1 3 1 2\n")
    assert [annotation.name for annotation in read_annotations([path])] == ["faces size"]


def test_table_without_entities_applies_to_all(tmp_path):
    (annotation,) = read_annotations(
        [write_table(tmp_path / "desc-all_events.tsv", "onset duration size\n0 n/a 1\nn/a 2 3\n")]
    )
    assert annotation.applies_to(named_run("sub-09_task-x_run-07"))
    assert np.isnan(label_time_points(annotation, np.arange(3.0))).all()


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
