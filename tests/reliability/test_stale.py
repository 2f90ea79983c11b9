"""What was seen to pass for a result, and is none: tables of an interrupted run, of other settings, or half removed."""

from __future__ import annotations

import functools
import os
import signal

import forked
import pytest
from histories import History

from titan_neuro.errors import InputNotFoundError

pytestmark = pytest.mark.xdist_group("tiny-study")


@pytest.fixture
def history(clean, tmp_path):
    return History(tmp_path / "study", clean().history.folder)


def said(history, stage):
    """What a stage says and prints, which must succeed."""
    files = (history.messages, history.printed)
    before = [len(file.read_text()) if file.exists() else 0 for file in files]
    assert history.run(stage) == 0, history.describe(f"{stage} failed")
    return "\n".join(file.read_text()[start:] for file, start in zip(files, before, strict=True))


def test_an_interrupted_evaluation_of_other_settings_is_no_result(clean, history):
    """Killed just after its table appeared, and then the first settings again: tables and maps are those of these."""
    history.set("evaluate")
    table = history.output / "group/task-movie_desc-forecast_scores.tsv"
    kill = functools.partial(forked.kill_before_writing, history.output, f"group/.{table.stem}.json.*")
    process = history.start("evaluate", kill)
    process.join()
    assert process.exitcode == -signal.SIGKILL and table.exists()
    history.set("")
    history.finish(clean().after["report"], ["evaluate", "report"])


def test_removed_results_are_made_again(clean, history):
    removed = sorted(path for path in (history.output / "group").iterdir())[::2]
    for path in removed:
        history.delete(f"group/{path.name}")
    assert len(removed) >= 10
    # Scores and probe are both damaged: there is nothing to show.
    assert history.run("report") == InputNotFoundError.exit_code
    history.finish(clean().after["report"], ["evaluate", "probe", "report"])


def test_a_report_of_other_settings_is_not_up_to_date(history):
    history.set("probe")
    said(history, "probe")
    # Its own date says nothing.
    os.utime(history.output / "report.html", (2e9, 2e9))
    assert "up to date" not in said(history, "report")
    assert "up to date" in said(history, "report")


@pytest.mark.parametrize("variant", ["train", "seeds", "evaluate"])
def test_status_says_what_a_run_makes(history, variant):
    history.set(variant)
    planned = said(history, "dry-run")
    trained = [line for line in said(history, "train").splitlines() if " is trained: " in line]
    named = [line for line in planned.splitlines() if line.startswith("train ") and "done" not in line]
    assert len(trained) == len(named) == {"train": 2, "seeds": 2, "evaluate": 0}[variant], planned
