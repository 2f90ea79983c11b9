"""Fetching with real git-annex: from a path, over HTTP, from a RIA store, interrupted; and what can go wrong."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import pytest

from titan_neuro.data.bids.annex import dataset_id, is_missing
from titan_neuro.data.fetch import fetch
from titan_neuro.errors import FetchError, InputNotFoundError, NoMatchError, OutputError

FIRST, SECOND = "sid000005", "sid000007"


def bold(root: Path) -> list[Path]:
    return sorted(root.glob("sub-*/func/*_bold.nii.gz"))


def masks(root: Path) -> list[Path]:
    return sorted(root.glob("derivatives/mask/sub-*/func/*_mask.nii.gz"))


# ---- from a path ------------------------------------------------------------------------------------


def test_fetching_from_a_path_in_two_parts(synthetic, tmp_path, capfd):
    clone = tmp_path / "clone"
    part = fetch(str(synthetic), clone, subjects=[f"sub-{FIRST}"], tasks=["movie"], runs=["2"], n_jobs=2)
    present = [path.name for path in bold(clone) if not is_missing(path)]
    assert present == [f"sub-{FIRST}_task-movie_run-02_bold.nii.gz"]
    assert not is_missing(masks(clone)[0])
    # The truth is no business of prepare's.
    assert is_missing(next(clone.glob("derivatives/truth/*_dseg.nii.gz")))
    assert (part.n_subjects, part.n_runs, part.n_files, part.n_files_to_get) == (1, 1, 2, 2)
    assert part.n_bytes_to_get == sum(path.stat().st_size for path in (bold(synthetic)[1], masks(synthetic)[0]))

    rest = fetch(str(synthetic), clone, n_jobs=2)
    # The two subjects' masks are one content.
    assert (rest.n_files, rest.n_files_to_get) == (6, 3)
    for mine, theirs in zip(bold(clone) + masks(clone), bold(synthetic) + masks(synthetic), strict=True):
        assert hashlib.md5(mine.read_bytes()).digest() == hashlib.md5(theirs.read_bytes()).digest()  # noqa: S324
    assert fetch(str(synthetic), clone).n_files_to_get == 0
    assert rest.dataset_id == part.dataset_id == dataset_id(synthetic)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert all("Fetching" in line for line in re.split(r"[\r\n]+", captured.err) if line.strip())
    assert "100%" in captured.err


def test_a_dataset_fetches_nothing_into_itself(synthetic):
    assert fetch(str(synthetic), synthetic).n_files_to_get == 0


def test_a_dry_run_leaves_nothing_behind(synthetic, tmp_path):
    plan = fetch(str(synthetic), tmp_path / "clone", runs=["run-01"], dry_run=True)
    assert (plan.n_subjects, plan.n_runs, plan.n_files, plan.n_files_to_get) == (2, 2, 4, 4)
    assert list(tmp_path.iterdir()) == []
    fetch(str(synthetic), tmp_path / "clone", runs=["1"])
    plan = fetch(str(synthetic), tmp_path / "clone", dry_run=True)
    assert plan.n_files_to_get == 2
    assert sum(is_missing(path) for path in bold(tmp_path / "clone")) == 2
    assert f"to be fetched: 2 ({plan.n_bytes_to_get / 1000:.1f}kB)" in plan.describe()


# ---- over HTTP --------------------------------------------------------------------------------------


def test_fetching_over_http(synthetic, tmp_path, serve, run):
    run(synthetic, "git", "update-server-info")
    url = serve(synthetic.parent)
    summary = fetch(f"{url}/synthetic", tmp_path / "clone", subjects=[SECOND])
    assert summary.n_files_to_get == 3
    assert [is_missing(path) for path in bold(tmp_path / "clone")] == [True, True, False, False]
    assert bold(tmp_path / "clone")[2].read_bytes() == bold(synthetic)[2].read_bytes()
    # DataLad has recorded URL/.git: the clone is known again.
    assert fetch(f"{url}/synthetic", tmp_path / "clone", subjects=[SECOND]).n_files_to_get == 0


def test_a_killed_fetch_is_resumed(synthetic, tmp_path, serve, run):
    """The server hands out a part of the files and hangs; the process is killed there, and the next one goes on."""
    run(synthetic, "git", "update-server-info")
    let_through, hanging, go_on = iter(range(2)), threading.Event(), threading.Event()

    class HangingHandler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if "annex/objects" in self.path and next(let_through, None) is None:
                hanging.set()
                go_on.wait(30)
            super().do_GET()

    url = f"{serve(synthetic.parent, HangingHandler)}/synthetic"
    clone = tmp_path / "clone"
    script = "from pathlib import Path; from titan_neuro.data.fetch import fetch; "
    script += f"fetch({url!r}, Path({str(clone)!r}), n_jobs=1)"
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True, stderr=subprocess.DEVNULL) as process:
        assert hanging.wait(30)
        # What has been handed out is first moved to its place.
        while sum(not is_missing(path) for path in bold(clone) + masks(clone)) < 2:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    go_on.set()
    summary = fetch(url, clone)
    assert summary.n_files == 6
    assert 0 < summary.n_files_to_get <= 4
    assert not any(is_missing(path) for path in bold(clone) + masks(clone))


def test_a_killed_clone_is_made_again(synthetic, tmp_path):
    (tmp_path / ".clone.0123abcd.tmp" / ".git").mkdir(parents=True)
    fetch(str(synthetic), tmp_path / "clone", subjects=[FIRST])
    assert [path.name for path in tmp_path.iterdir()] == ["clone"]


def test_a_failed_fetch_leaves_no_lock(synthetic, tmp_path):
    with pytest.raises((FetchError, InputNotFoundError)):
        fetch(str(tmp_path / "nowhere"), tmp_path / "clone")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "clone.txt").write_text("x")
    fetch(str(synthetic), tmp_path / "clone", subjects=[FIRST])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clone", "clone.txt"]


def test_several_processes_make_one_clone(synthetic, tmp_path):
    script = "import sys; from pathlib import Path; from titan_neuro.data.fetch import fetch; "
    script += f"fetch({str(synthetic)!r}, Path({str(tmp_path / 'clone')!r}), subjects=[{FIRST!r}])"
    processes = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) for _ in range(3)]
    messages = [process.communicate()[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], messages
    assert [path.name for path in tmp_path.iterdir()] == ["clone"]


# ---- from a RIA store -------------------------------------------------------------------------------


@pytest.mark.slow
def test_fetching_from_a_ria_store(tmp_path, copy_synthetic, run):
    source, store = copy_synthetic(tmp_path / "synthetic", n_subjects=1, n_runs=2), tmp_path / "store"
    run(source, "datalad", "create-sibling-ria", "--name=ria", "--new-store-ok", f"ria+{store.as_uri()}")
    run(source, "datalad", "push", "--to=ria")
    summary = fetch(f"ria+{store.as_uri()}#{dataset_id(source)}", tmp_path / "clone", runs=["2"])
    assert (summary.n_files, summary.n_files_to_get) == (2, 2)
    assert [is_missing(path) for path in bold(tmp_path / "clone")] == [True, False]
    assert bold(tmp_path / "clone")[1].read_bytes() == bold(source)[1].read_bytes()


# ---- what can go wrong ------------------------------------------------------------------------------


class MissingHandler(http.server.SimpleHTTPRequestHandler):
    """Has the dataset, and none of its content."""

    def do_GET(self) -> None:
        if "annex/objects" in self.path:
            self.send_error(404)
        else:
            super().do_GET()

    do_HEAD = do_GET


class DyingHandler(http.server.SimpleHTTPRequestHandler):
    """Breaks off in the middle of each file's content."""

    def copyfile(self, source, outputfile) -> None:
        content = source.read()
        outputfile.write(content[: len(content) // 2] if "annex/objects" in self.path else content)


class LyingHandler(http.server.SimpleHTTPRequestHandler):
    """Sends as many bytes as the content has, but others."""

    def copyfile(self, source, outputfile) -> None:
        content = source.read()
        outputfile.write(bytes(byte ^ 1 for byte in content) if "annex/objects" in self.path else content)


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(MissingHandler, marks=pytest.mark.slow),
        pytest.param(DyingHandler, marks=pytest.mark.slow),
        LyingHandler,
    ],
)
def test_failing_servers_are_named_and_replaced(synthetic, tmp_path, serve, run, handler):
    run(synthetic, "git", "update-server-info")
    clone = tmp_path / "clone"
    with pytest.raises(FetchError, match="6 of 6 files could not be fetched"):
        fetch(f"{serve(synthetic.parent, handler)}/synthetic", clone)
    assert all(is_missing(path) for path in bold(clone) + masks(clone))
    run(clone, "git", "remote", "set-url", "origin", f"{serve(synthetic.parent)}/synthetic/.git")
    assert fetch(str(synthetic), clone).n_files_to_get == 6
    for mine, theirs in zip(bold(clone), bold(synthetic), strict=True):
        assert mine.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
def test_the_hint_enables_a_remote_again(tmp_path, copy_synthetic, serve, run):
    """The dataset names a store on the web, which does not answer when the clone is made; then it does."""
    source, folder = copy_synthetic(tmp_path / "synthetic", n_subjects=1, n_runs=1), tmp_path / "www"
    folder.mkdir()
    url = serve(folder)
    run(tmp_path, "git", "clone", "--quiet", "--no-local", str(source), str(folder / "store"))
    run(folder / "store", "git", "annex", "get", "--quiet")
    run(folder / "store", "git", "update-server-info")
    run(source, "git", "remote", "add", "web", f"{url}/store/.git")
    run(source, "git", "fetch", "--quiet", "web")
    run(source, "git", "annex", "initremote", "store", "type=git", f"location={url}/store/.git", "autoenable=true")
    run(source, "git", "annex", "drop", "--quiet", ".")
    (folder / "store").rename(folder / "away")
    with pytest.raises(FetchError, match="2 of 2 files could not be fetched") as caught:
        fetch(str(source), tmp_path / "clone")
    (folder / "away").rename(folder / "store")
    with pytest.raises(FetchError, match="2 of 2 files could not be fetched"):
        fetch(str(source), tmp_path / "clone")
    run(tmp_path, *re.search("after `([^`]+)`", caught.value.hint)[1].split())
    assert fetch(str(source), tmp_path / "clone").n_files_to_get == 2
    assert not any(map(is_missing, bold(tmp_path / "clone")))


def test_missing_git_annex_is_named(synthetic, tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "git").symlink_to(shutil.which("git"))
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(programs))
    with pytest.raises(FetchError, match="git-annex was not found on PATH") as caught:
        fetch(str(synthetic), tmp_path / "clone")
    assert "pip install git-annex" in caught.value.hint
    assert not (tmp_path / "clone").exists()


def test_lost_content_is_named(tmp_path, copy_synthetic, run):
    source = copy_synthetic(tmp_path / "synthetic", n_subjects=1, n_runs=2)
    lost = bold(source)[1].relative_to(source)
    run(source, "git", "annex", "drop", "--force", str(lost))
    with pytest.raises(FetchError, match=rf"1 of 3 files could not be fetched:\n  {lost}: .*not available") as caught:
        fetch(str(source), tmp_path / "clone")
    assert "whereis" in caught.value.hint
    assert not is_missing(bold(tmp_path / "clone")[0])


def test_folders_with_another_dataset_are_refused(synthetic, tmp_path, copy_synthetic):
    other = copy_synthetic(tmp_path / "other", n_subjects=1, n_runs=1)
    fetch(str(other), tmp_path / "clone")
    with pytest.raises(OutputError, match="holds another dataset"):
        fetch(str(synthetic), tmp_path / "clone")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is no clone"):
        fetch(str(synthetic), tmp_path / "mine")


def test_a_clone_accepts_another_source_of_its_dataset(synthetic, tmp_path, serve, run):
    fetch(str(synthetic), tmp_path / "clone", subjects=[FIRST])
    run(synthetic, "git", "update-server-info")
    url = serve(synthetic.parent)
    assert fetch(f"{url}/synthetic/.git", tmp_path / "clone").n_files_to_get == 2


def test_labels_without_a_match_are_named(synthetic, tmp_path, commit_links):
    clone = tmp_path / "clone"
    with pytest.raises(NoMatchError, match="no BOLD image of participant '01'") as caught:
        fetch(str(synthetic), clone, subjects=[FIRST, "01"])
    assert f"participant {FIRST} {SECOND}; task movie; run 01 02" in caught.value.hint
    with pytest.raises(NoMatchError, match="no BOLD image of run '3'"):
        fetch(str(synthetic), clone, subjects=[FIRST], runs=["3"])
    lopsided = {
        "sub-01/func/sub-01_task-x_run-1_bold.nii.gz": "MD5E-s5--1a.nii.gz",
        "sub-02/func/sub-02_task-x_run-2_bold.nii.gz": "MD5E-s5--1b.nii.gz",
    }
    commit_links(tmp_path / "lopsided", lopsided)
    with pytest.raises(NoMatchError, match="no BOLD image of participant 01 and run 02 together"):
        fetch(str(tmp_path / "lopsided"), tmp_path / "other", subjects=["01"], runs=["02"])


def test_missing_sources_are_named(tmp_path):
    with pytest.raises(InputNotFoundError, match="no such dataset"):
        fetch(str(tmp_path / "nothing"), tmp_path / "clone")
    # Nothing listens on port 9.
    with pytest.raises(FetchError, match="can't be cloned: unable to access"):
        fetch("http://127.0.0.1:9/synthetic", tmp_path / "clone")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FetchError, match=r"can't be cloned: repository .* does not exist"):
        fetch(str(tmp_path / "folder"), tmp_path / "clone")
    assert not (tmp_path / "clone").exists()


def test_full_disks_are_named_before_fetching(tmp_path, commit_links):
    name = "sub-01/func/sub-01_task-x_bold.nii.gz"
    commit_links(tmp_path / "source", {name: "MD5E-s900000000000000--1a20752ace79b263bcd8662d974e9fc8.nii.gz"})
    with pytest.raises(FetchError, match=r"the disk is too full: 900TB are to be fetched, .* are free"):
        fetch(str(tmp_path / "source"), tmp_path / "clone")
