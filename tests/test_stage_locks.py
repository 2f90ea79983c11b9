import contextlib
import errno
import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from titan_neuro.errors import OutputError
from titan_neuro.stage_locks import Holder, hold, holders

CONTEXT = multiprocessing.get_context("fork")


@contextlib.contextmanager
def at_work(folder, stage, **resources):
    """A process that holds these until the block ends, and then ends well."""
    ours, theirs = CONTEXT.Pipe()

    def work():
        with hold(folder, stage, **resources):
            theirs.send("began")
            theirs.poll(60)

    process = CONTEXT.Process(target=work)
    process.start()
    assert ours.poll(60)
    try:
        yield process
    finally:
        ours.send("end")
        process.join(60)


def on_waiting(act):
    """Call `act` when this process first says that it waits."""
    handler = logging.Handler()
    handler.emit = lambda record: act()
    logger = logging.getLogger("titan_neuro.stage_locks")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    return handler


def starts_at_once(folder, stage, **resources):
    """Whether a stage need not wait."""

    def work():
        on_waiting(lambda: os._exit(3))
        with hold(folder, stage, **resources):
            pass

    process = CONTEXT.Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode in (0, 3)
    return process.exitcode == 0


@contextlib.contextmanager
def waiting_calls(act):
    handler = on_waiting(act)
    yield
    logging.getLogger("titan_neuro.stage_locks").removeHandler(handler)


def holder_files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "stages.lock")


def test_readers_and_sharers_work_together(tmp_path):
    with at_work(tmp_path, "train", reads=["runs"], shares=["models"]):
        assert starts_at_once(tmp_path, "train", reads=["runs"], shares=["models"])
        assert starts_at_once(tmp_path, "probe surprise", writes=["probe surprise"], reads=["runs"])
    with at_work(tmp_path, "prepare", shares=["runs"]):
        assert starts_at_once(tmp_path, "prepare", shares=["runs"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"shares": ["runs"]}, {"reads": ["runs", "models"], "writes": ["scores"]}),
        ({"reads": ["runs", "models"]}, {"shares": ["runs"]}),
        ({"writes": ["scores"]}, {"writes": ["scores"]}),
        ({"writes": ["scores"]}, {"reads": ["scores"], "writes": ["report"]}),
        ({"shares": ["models"]}, {"writes": ["models"]}),
    ],
)
def test_all_others_wait(tmp_path, first, second):
    with at_work(tmp_path, "first", **first):
        assert not starts_at_once(tmp_path, "second", **second)
    assert starts_at_once(tmp_path, "second", **second)
    assert holder_files(tmp_path) == []


def test_who_waits_says_for_whom_and_goes_on(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    caplog.set_level(logging.INFO)
    with (
        at_work(tmp_path, "prepare", shares=["runs"]) as process,
        at_work(tmp_path, "probe surprise", writes=["x"]),
        waiting_calls(process.terminate),
        hold(tmp_path, "evaluate", reads=["runs"], writes=["scores"]),
    ):
        assert {holder.stage for holder in holders(tmp_path)} == {"probe surprise", "evaluate"}
    (message,) = (record.getMessage() for record in caplog.records)
    assert re.fullmatch(
        rf"`evaluate` waits for `prepare` \(\S+ on {re.escape(os.uname().nodename)}, process {process.pid}, "
        r"Slurm job 77, since \d\d:\d\d\), which writes the prepared runs\.",
        message,
    )


def test_reasons_name_all_that_conflicts(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with (
        at_work(tmp_path, "report", reads=["models", "probe surprise"]) as one,
        at_work(tmp_path, "evaluate", reads=["models"]) as two,
        waiting_calls(lambda: (one.kill(), two.kill())),
        hold(tmp_path, "anew", shares=["models"], writes=["probe surprise"]),
    ):
        pass
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.endswith("and for 1 more.")
    report = "which reads the models and reads the results of the probe surprise"
    assert report in message or "`evaluate`" in message


def test_holders_say_who_works_since_when(tmp_path):
    assert holders(tmp_path / "missing") == []
    with at_work(tmp_path, "train", reads=["runs"], shares=["models"]) as process:
        (holder,) = holders(tmp_path)
        assert holder.stage == "train" and holder.process == process.pid
        assert holder.resources == {"runs": "read", "models": "share"}
        assert holder == Holder.from_json(holder.to_json())
        assert holder.command.split()[0] == Path(sys.argv[0]).name
        earlier = Holder(**{**vars(holder), "since": "2026-01-02T03:04:05+00:00"})
        assert re.search(r"since 2026-01-0\d \d\d:\d\d$", earlier.who)
    assert holders(tmp_path) == []


def test_holders_are_seen_in_a_folder_that_cannot_be_written(tmp_path):
    with at_work(tmp_path, "train", reads=["runs"]):
        tmp_path.chmod(0o500)
        try:
            assert [holder.stage for holder in holders(tmp_path)] == ["train"]
        finally:
            tmp_path.chmod(0o700)


def test_killed_holders_hold_nothing(tmp_path):
    with at_work(tmp_path, "evaluate", writes=["scores"]) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert len(holder_files(tmp_path)) == 1
        assert holders(tmp_path) == []
        # What a process leaves that was killed while it took its locks.
        (tmp_path / "0123.tmp").write_text("{")
        with hold(tmp_path, "evaluate", writes=["scores"]):
            assert len(holder_files(tmp_path)) == 1
            assert [holder.process for holder in holders(tmp_path)] == [os.getpid()]
    assert holder_files(tmp_path) == []


def test_children_hold_nothing_after_their_parent(tmp_path):
    """A forked worker outlives a killed holder."""
    ours, theirs = CONTEXT.Pipe()

    def work():
        with hold(tmp_path, "train", shares=["models"]):
            # The child's end of this block must not end its parent's.
            if os.fork() == 0:
                raise SystemExit
            os.wait()
            CONTEXT.Process(target=theirs.poll, args=(60,)).start()
            assert [holder.process for holder in holders(tmp_path)] == [os.getpid()]
            os.kill(os.getpid(), signal.SIGKILL)

    process = CONTEXT.Process(target=work)
    process.start()
    # With a time limit it would wait for the worker, too.
    process.join()
    try:
        assert process.exitcode == -signal.SIGKILL
        with hold(tmp_path, "evaluate", writes=["models"]):
            pass
    finally:
        ours.send("end")


def test_a_program_that_a_holder_starts_holds_nothing(tmp_path):
    with hold(tmp_path, "train", shares=["models"]):
        process = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with hold(tmp_path, "train", writes=["models"]):
            pass
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_while_waiting_leaves_nothing(tmp_path):
    def wait():
        # As in a terminal: in the background of a script it would be ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        on_waiting(lambda: os.kill(os.getpid(), signal.SIGINT))
        try:
            with hold(tmp_path, "report", reads=["scores"]):
                pass
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    with at_work(tmp_path, "evaluate", writes=["scores"]):
        process = CONTEXT.Process(target=wait)
        process.start()
        process.join(60)
        assert process.exitcode == 130
        assert len(holder_files(tmp_path)) == 1


def test_many_processes_and_threads_write_one_after_the_other(tmp_path):
    """Each adds 1 to a number in a file, without a lock of its own."""
    number, folder = tmp_path / "number", tmp_path / "locks"
    number.write_text("0")

    def add():
        for _ in range(5):
            with hold(folder, "evaluate", reads=["runs"], writes=["scores"]):
                value = int(number.read_text())
                time.sleep(0.001)
                number.write_text(str(value + 1))

    def add_in_threads():
        threads = [threading.Thread(target=add) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    processes = [CONTEXT.Process(target=add_in_threads) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert number.read_text() == "30"
    assert holder_files(folder) == []


def test_taking_locks_one_by_one_is_refused(tmp_path):
    with (
        hold(tmp_path, "group", reads=["runs"]),
        pytest.raises(RuntimeError, match="taken at once"),
        hold(tmp_path / "." / ".." / tmp_path.name, "evaluate", reads=["models"]),
    ):
        pass
    # Null controls lie in another folder; and what has ended can be taken again.
    with hold(tmp_path, "null control", reads=["runs"]), hold(tmp_path / "null-white", "train", shares=["models"]):
        pass


def test_failures_give_locks_back(tmp_path):
    with pytest.raises(ZeroDivisionError), hold(tmp_path, "evaluate", writes=["scores"]):
        raise ZeroDivisionError
    assert holder_files(tmp_path) == []
    with hold(tmp_path, "evaluate", writes=["scores"]):
        pass


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"), hold(tmp_path / "file" / "locks", "evaluate", reads=["runs"]):
        pass


def test_locks_are_refused_by_the_file_system(tmp_path, monkeypatch, caplog):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    for _ in range(2):
        with hold(tmp_path, "evaluate", writes=["scores"]):
            pass
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "has no locks" in record.getMessage()
    assert holder_files(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", json.dumps({"stage": "x"}), '"x"'])
def test_files_that_are_no_holder_files_are_nobody(text):
    assert Holder.from_json(text) is None
