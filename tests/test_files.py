import pickle
import threading
from pathlib import Path

import pytest

from titan_neuro.errors import (
    InputNotFoundError,
    MetadataError,
    MismatchError,
    NoMatchError,
    OutputError,
    TitanNeuroError,
)
from titan_neuro.files import (
    atomic,
    file_lock,
    inside,
    load_or_make,
    read_json,
    remove_leftovers,
    write_json,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_readers_see_old_files_until_replaced(tmp_path):
    target = tmp_path / "deep/down/x.txt"
    write_text(target, "old")
    with atomic(target) as path:
        path.write_text("ne")
        assert target.read_text() == "old"
        path.write_text("new")
    assert target.read_text() == "new"
    assert names(target.parent) == ["x.txt"]


def test_failures_leave_the_old_file_alone(tmp_path):
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


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "x"):
        (tmp_path / "input that is missing").read_text()


def test_leftovers_are_found_by_name(tmp_path):
    for name in (".x.zarr.0123abcd.tmp", ".y.zarr.0123abcd.tmp", "x.zarr.tmp"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "x.zarr")
    assert names(tmp_path) == [".y.zarr.0123abcd.tmp", "x.zarr.tmp"]


def test_locking_removes_leftovers_of_killed_processes(tmp_path):
    for name in (".x.json.0123abcd.tmp", ".y.json.0123abcd.tmp", ".z.json.0123abcd.tmp"):
        (tmp_path / name).touch()
    with file_lock(tmp_path / "x.json", tmp_path / "y.json", work_dir=tmp_path / "work"):
        assert names(tmp_path) == [".z.json.0123abcd.tmp", "work"]


def test_a_lock_protects_a_file_being_written(tmp_path):
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


def _load(target, fingerprint):
    content = target.read_text()
    if not content.endswith(fingerprint):
        raise MismatchError(f"{target}: expected {fingerprint}, found {content}.")
    return content


def test_content_is_made_once_and_loaded_afterwards(tmp_path):
    target, made = tmp_path / "x", []

    def load_or_make_it():
        def make():
            made.append(None)
            write_text(target, f"content {len(made)} of a")

        return load_or_make(target, work_dir=tmp_path / "work", load=lambda: _load(target, "of a"), make=make)

    outcomes = []
    threads = [threading.Thread(target=lambda: outcomes.append(load_or_make_it())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert outcomes == ["content 1 of a"] * 4


def test_damaged_or_outdated_content_is_made_again(tmp_path, caplog):
    target = tmp_path / "x"
    write_text(target, "content of b")
    for _ in range(2):
        content = load_or_make(
            target,
            work_dir=tmp_path,
            load=lambda: _load(target, "of a"),
            make=lambda: write_text(target, "content of a"),
        )
        assert content == "content of a"
    assert caplog.messages == [f"{target}: expected of a, found content of b. It is made again."]


def test_json_objects_are_read_or_refused(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"é": [1]})
    assert read_json(path, keys=["é"]) == {"é": [1]}
    with pytest.raises(MetadataError, match=r"x\.json: the keys a, b are missing"):
        read_json(path, keys=["a", "b"])
    path.write_bytes(b"[1]")
    with pytest.raises(MetadataError, match="found list") as caught:
        read_json(path)
    assert caught.value.hint == "Correct the file, or fetch it again."
    for content in (b"{", b"\xff", b""):
        path.write_bytes(content)
        with pytest.raises(OutputError, match=r"x\.json: is not valid JSON") as caught:
            read_json(path, hint="Remove it.", error=OutputError)
        assert caught.value.hint == "Remove it."


def test_a_missing_json_file_is_named(tmp_path):
    with pytest.raises(InputNotFoundError, match=r"x\.json: can't be read: No such file"):
        read_json(tmp_path / "x.json")


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"r2": float("nan")})
    assert not names(tmp_path)


def test_worker_errors_keep_their_hint():
    error = pickle.loads(pickle.dumps(NoMatchError("nothing matches", "there is: x")))  # noqa: S301 - our own bytes
    assert isinstance(error, TitanNeuroError)
    assert (error.message, error.hint) == ("nothing matches", "there is: x")
    assert str(error) == "nothing matches\nthere is: x"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a\\b", "x\0"])
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    with pytest.raises(MismatchError, match="leads out of it"):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a//b", "a/", "/x", "a\\..\\b", "x\0", "link/x", "link"])
def test_a_path_that_leads_out_is_refused(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="leads out of it") as caught:
        inside(folder, name, hint="Do that.", error=OutputError)
    assert caught.value.hint == "Do that."


def test_links_may_lead_out_of_what_is_read(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link").symlink_to(tmp_path)
    assert inside(tmp_path / "folder", "link/x", may_be_link=True) == tmp_path / "folder/link/x"


def test_a_name_that_is_too_long_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="File name too long"):
        write_text(tmp_path / ("x" * 300), "x")


@pytest.mark.parametrize("name", ["task-x_scores.tsv", "...", ".hidden", "ü", "a/b/c.json"])
def test_a_plain_name_lies_in_its_folder(tmp_path, name):
    assert inside(tmp_path, name) == tmp_path / name
