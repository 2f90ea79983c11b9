from pathlib import Path

import pytest

from titan_neuro.data.bids.names import (
    applies_to,
    has_label,
    join_entities,
    list_labels,
    long_entities,
    parse_entities,
    parse_name,
    run_entities,
    same_run,
    short_entities,
    sidecar_path,
)


def test_names_are_parsed_into_entities_suffix_and_extension():
    file = parse_name(Path("/x/sub-01_task-a_run-2_space-MNI_res-2_desc-preproc_bold.nii.gz"))
    assert (file.suffix, file.extension) == ("bold", ".nii.gz")
    assert file.entities == {"sub": "01", "task": "a", "run": "2", "space": "MNI", "res": "2", "desc": "preproc"}
    assert long_entities(file.entities)["resolution"] == "2"
    assert short_entities(long_entities(file.entities)) == file.entities


@pytest.mark.parametrize("name", ["dataset_description.json", "T1w.nii.gz", "participants.tsv", ""])
def test_names_without_entities_are_parsed(name):
    assert parse_name(Path("/x", name)).entities == {}


def test_run_keys_are_parsed_to_their_last_entity():
    assert parse_entities("sub-01_task-movie_run-02") == {"sub": "01", "task": "movie", "run": "02"}


def test_entities_are_joined_in_the_order_of_bids():
    joined = join_entities({"space": "T1w", "run": "02", "task": "x", "subject": "1", "session": "a"})
    assert joined == "sub-1_ses-a_task-x_run-02_space-T1w"
    assert join_entities(parse_entities(joined)) == joined


def test_run_entities_are_those_that_distinguish_runs():
    entities = {"run": "1", "space": "T1w", "subject": "1", "echo": "2", "desc": "preproc"}
    assert list(run_entities(entities).items()) == [("subject", "1"), ("run", "1"), ("echo", "2")]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sub-1_run-1", "sub-1_run-01", True),
        ("sub-1_run-1_space-T1w", "sub-1_run-1_desc-x", True),
        ("sub-1_run-1", "sub-01_run-1", False),
        ("sub-1_run-1", "sub-1", False),
        ("sub-1_echo-1", "sub-1_echo-2", False),
    ],
)
def test_runs_are_compared_by_their_entities(one, other, same):
    first, second = parse_entities(one), parse_entities(other)
    assert same_run(first, second) == same_run(long_entities(second), first) == same


@pytest.mark.parametrize(
    ("file", "applies"), [("", True), ("task-a", True), ("task-a_run-1", True), ("task-b", False), ("ses-1", False)]
)
def test_files_apply_to_runs_that_have_their_entities(file, applies):
    run = {"subject": "1", "task": "a", "run": "01"}
    assert applies_to(parse_entities(file), run) == applies


@pytest.mark.parametrize(
    ("name", "labels", "found"),
    [
        ("run", ["1"], True),
        ("run", ["run-01"], True),
        ("subject", ["sub-s1"], True),
        ("sub", ["s1", "s2"], True),
        ("session", ["1"], False),
        ("run", ["2"], False),
        ("session", None, True),
    ],
)
def test_labels_are_matched_with_and_without_prefix(name, labels, found):
    assert has_label({"sub": "s1", "run": "01"}, name, labels) == found


def test_long_lists_of_labels_are_cut():
    names = [{"sub": f"{number:03d}"} for number in range(50)]
    assert list_labels(names[:2], "subject") == "000 001"
    assert list_labels(names, "subject").endswith("029 ... (50 in all)")
    assert list_labels(names, "run") == "(none)"


def test_sidecars_lie_beside_their_file():
    assert sidecar_path(Path("/x/sub-1_bold.nii.gz")) == Path("/x/sub-1_bold.json")
