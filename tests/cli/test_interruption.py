"""Ctrl-C and SIGTERM in the first moments of a command: one line and an exit code, whatever it is importing."""

import os
import signal
import subprocess
import sys
import time

import forked
import pytest
import tiny_study

# As the script that pip installs, and says when the import of what is heavy begins.
SCRIPT = """
import os, sys
sys.addaudithook(lambda event, a: event == "import" and a[0] == "titan_neuro.cli.command" and os.write(1, b"."))
from titan_neuro.cli import main
sys.exit(main(sys.argv[1:]))
"""
LINES = {
    signal.SIGINT: "titan-neuro: interrupted; run the same command again to go on.\n",
    signal.SIGTERM: "titan-neuro: terminated; run the same command again to go on.\n",
}


def _heed_interrupts():
    """As in a terminal, also where the tests run in the background of a script, which ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupt(arguments, delay_s, number):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_interrupts,
    )
    assert process.stdout.read(1) == "."
    time.sleep(delay_s)
    process.send_signal(number)
    _, messages = process.communicate(timeout=60)
    return process.returncode, messages


@pytest.mark.parametrize("number", LINES, ids=lambda number: number.name)
@pytest.mark.parametrize("delay_s", [0, 0.1, 0.3])
def test_early_signals_end_it_with_one_line(tmp_path, number, delay_s):
    bids = tiny_study.write_dataset(tmp_path / "bids")
    code, messages = interrupt(["prepare", bids, tmp_path / "out"], delay_s, number)
    assert (code, messages) == (128 + number, LINES[number])


def _lose_it_in_a_callback():
    _heed_interrupts()

    class Dying:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)

    from titan_neuro.cli import command

    def execute(arguments):
        Dying()
        time.sleep(60)

    command.status.execute = execute


def _make_an_error_of_it():
    from titan_neuro.cli import command

    def execute(arguments):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except KeyboardInterrupt:
            raise ImportError("numpy could not be loaded") from None

    command.status.execute = execute


@pytest.mark.parametrize(
    ("before", "number"), [(_lose_it_in_a_callback, signal.SIGINT), (_make_an_error_of_it, signal.SIGTERM)]
)
def test_signals_that_libraries_lose_end_it(tmp_path, before, number):
    process = forked.start(["status", tmp_path], tmp_path / "messages", before)
    process.join(60)
    assert (process.exitcode, (tmp_path / "messages").read_text()) == (128 + number, LINES[number])


def test_an_ignored_signal_stays_ignored(tmp_path):
    """A command behind nohup, or in the background of a script."""
    process = forked.start(["--help"], tmp_path / "messages", before=_ignore_and_interrupt, stdout=tmp_path / "help")
    process.join(60)
    assert process.exitcode == 0


def _ignore_and_interrupt():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_as_before_afterwards():
    from titan_neuro.cli import main

    before = [signal.getsignal(number) for number in LINES]
    with pytest.raises(SystemExit):
        main(["--version"])
    assert [signal.getsignal(number) for number in LINES] == before
