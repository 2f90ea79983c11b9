import pickle
import threading
from pathlib import Path

import pytest

from titan_neuro.errors import NoMatchError, OutputError, TitanNeuroError
from titan_neuro.files import atomic, file_lock, remove_leftovers, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_reader_sees_the_old_file_until_the_new_is_whole(tmp_path):
    target = tmp_path / "deep/down/x.txt"
    write_text(target, "old")
    with atomic(target) as path:
        path.write_text("ne")
        assert target.read_text() == "old"
        path.write_text("new")
    assert target.read_text() == "new"
    assert names(target.parent) == ["x.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "x.txt"
    write_text(target, "old")
    with pytest.raises(ZeroDivisionError), atomic(target) as path:
        path.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_folders_are_replaced_whole(tmp_path):
    target = tmp_path / "store"
    for content in ("one", "two"):
        with atomic(target) as path:
            path.mkdir()
            (path / content).touch()
    assert names(target) == ["two"]
    with pytest.raises(KeyError), atomic(target) as path:
        path.mkdir()
        (path / "locked").mkdir(mode=0o500)
        raise KeyError
    assert names(tmp_path) == ["store"]


def test_a_full_disk_is_an_output_error(tmp_path):
    # /dev/full takes no byte: it has no room for any.
    with (
        pytest.raises(OutputError, match="No space left on device") as caught,
        atomic(tmp_path / "x"),
        Path("/dev/full").open("wb", buffering=0) as file,
    ):
        file.write(b"x")
    assert "the disk has room" in caught.value.hint


def test_errors_that_are_not_about_writing_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "x"):
        (tmp_path / "input that is missing").read_text()


def test_leftovers_are_found_by_name(tmp_path):
    for name in (".x.zarr.0123abcd.tmp", ".y.zarr.0123abcd.tmp", "x.zarr.tmp"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "x.zarr")
    assert names(tmp_path) == [".y.zarr.0123abcd.tmp", "x.zarr.tmp"]


def test_alone_with_a_file_what_killed_processes_left_is_removed(tmp_path):
    for name in (".x.json.0123abcd.tmp", ".y.json.0123abcd.tmp", ".z.json.0123abcd.tmp"):
        (tmp_path / name).touch()
    with file_lock(tmp_path / "x.json", tmp_path / "y.json", work_dir=tmp_path / "work"):
        assert names(tmp_path) == [".z.json.0123abcd.tmp", "work"]


def test_nobody_removes_what_another_process_is_writing(tmp_path):
    target, outcome = tmp_path / "x.json", []

    def other():
        with file_lock(target, work_dir=tmp_path):
            outcome.append(target.read_text())

    with file_lock(target, work_dir=tmp_path), atomic(target) as path:
        path.write_text("whole")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    thread.join(10)
    assert outcome == ["whole"]


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"r2": float("nan")})
    assert not names(tmp_path)


def test_errors_come_back_from_worker_processes_with_their_hint():
    error = pickle.loads(pickle.dumps(NoMatchError("nothing matches", "there is: x")))  # noqa: S301 - our own bytes
    assert isinstance(error, TitanNeuroError)
    assert (error.message, error.hint) == ("nothing matches", "there is: x")
    assert str(error) == "nothing matches\nthere is: x"
