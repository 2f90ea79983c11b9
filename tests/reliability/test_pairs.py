"""Two processes on one folder, of whatever subcommands: each waits, shares the work or stops with a sentence."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from types import MappingProxyType

import forked
import pytest
import tiny_study
from histories import TIMEOUT_S, History, outcome

from titan_neuro.probing import PROBES
from titan_neuro.stage_locks import hold

pytestmark = pytest.mark.xdist_group("pairs")
JOBS = (
    *("prepare", "prepare with prepare", "train", "train with train", "evaluate", "evaluate with evaluate"),
    *("probe", "predict", "report", "participant", "group", "status"),
)
PAIRS = list(itertools.combinations_with_replacement(JOBS, 2))
ALL_PROBES = [f"probe {name}" for name in PROBES]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a study that is prepared and trained."""
    history = History(tmp_path_factory.mktemp("trained"))
    for stage in ("prepare", "train"):
        assert history.run(stage) == 0, history.describe(f"a clean {stage} failed")
    return history.folder


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """Outcomes of clean runs, made when they are asked for: by the version of a recording and the stages."""
    made = {}

    def reference(version, stages):
        if (version, stages) not in made:
            history = History(tmp_path_factory.mktemp("clean"), stages=stages)
            history.change_recording("02", version)
            for stage in stages:
                assert history.run(stage) == 0, history.describe(f"a clean {stage} failed")
            made[version, stages] = outcome(history.output, history.bids)
        return made[version, stages]

    return reference


def test_pairs_leave_nothing_behind(tmp_path, trained, references):
    """One after the other on one folder, of whose dataset a recording has changed: every stage has something to do."""
    history = History(tmp_path / "study", trained)
    history.together("evaluate", "evaluate with evaluate", 0)
    history.together("report", "evaluate", 0)
    history.change_recording("02", 1)
    history.together("evaluate", "prepare", 0)
    history.together("train", "prepare with prepare", 0)
    history.together("prepare", "train", 0)
    history.finish(references(1, tiny_study.STAGES))


@pytest.mark.slow
@pytest.mark.endurance
@pytest.mark.parametrize("version", [0, 1], ids=["same recordings", "a recording changed"])
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_pair_leaves_nothing_behind(tmp_path, trained, references, first, second, version):
    stages = (*tiny_study.STAGES, *(["group"] if "group" in (first, second) else []))
    history = History(tmp_path / "study", trained, stages)
    history.change_recording("02", version)
    history.together(first, second, 0)
    history.finish(references(version, stages))


@contextlib.contextmanager
def waiting(history, *jobs, stage, variables=MappingProxyType({}), **resources):
    """Start processes while this one is at work on these; the block begins once each says that it waits."""
    files = [history.folder / f"messages-{number}" for number in range(len(jobs))]
    processes = []
    with hold(history.output / ".work/locks", stage, **resources):
        for (job, *more), file in zip(jobs, files, strict=True):
            arguments = tiny_study.command(job, history.bids, history.output, history.settings)
            # As torchrun numbers the processes that it starts.
            with pytest.MonkeyPatch.context() as environment:
                for name, value in variables.items():
                    environment.setenv(name, value.format(rank=len(processes)))
                processes.append(forked.start([*arguments, *more], file))
        deadline = time.monotonic() + TIMEOUT_S
        for process, file in zip(processes, files, strict=True):
            while not (file.exists() and " waits for " in file.read_text()):
                assert process.is_alive() and time.monotonic() < deadline, file.read_text()
                time.sleep(0.05)
        yield
    texts = []
    for process, file in zip(processes, files, strict=True):
        process.join(TIMEOUT_S)
        texts.append(file.read_text())
        assert process.exitcode == 0, texts[-1]
    history.texts = texts


def test_a_new_preparation_waits_for_the_group(tmp_path, trained):
    """As when `group` is at work and somebody prepares all runs anew with another setting."""
    history = History(tmp_path / "study", trained)
    before = outcome(history.output, history.bids)
    job = ("participant", "--set", "prepare.high_pass_hz=0.01")
    with waiting(history, job, stage="train", reads=["runs"], shares=["models"]):
        assert outcome(history.output, history.bids) == before
        status = forked.run_command("status", history.output)
        assert "At work: `train` (" in status.stdout
        assert "Nothing" not in status.stdout
    assert "`prepare` waits for `train` (" in history.texts[0] and "which reads the prepared runs." in history.texts[0]
    assert "4 runs prepared, 4 of them now." in history.texts[0]


def test_runs_that_are_prepared_wait_for_nobody(tmp_path, trained):
    history = History(tmp_path / "study", trained)
    with hold(history.output / ".work/locks", "train", reads=["runs"], shares=["models"]):
        assert history.run("participant") == 0
    assert "waits" not in history.messages.read_text()


def test_two_evaluations_share_the_work(tmp_path, trained):
    history = History(tmp_path / "study", trained)
    with waiting(history, ("evaluate",), ("evaluate",), stage="evaluate", writes=["scores"]):
        assert not (history.output / "manifests/evaluate.json").exists()
    assert "".join(history.texts).count("The forecasts were scored before") == 1


@pytest.mark.parametrize(
    ("job", "resources"),
    [
        ("train", {"shares": ["runs"]}),
        ("probe", {"shares": ["models"]}),
        ("predict", {"shares": ["runs", "models"]}),
        ("evaluate", {"shares": ["models"]}),
    ],
)
def test_stages_wait_for_who_writes_what_they_read(tmp_path, trained, job, resources):
    history = History(tmp_path / "study", trained)
    before = outcome(history.output, history.bids)
    with waiting(history, (job,), stage="another", **resources):
        assert outcome(history.output, history.bids) == before


def test_a_report_waits_for_the_results_that_it_shows(tmp_path, trained):
    history = History(tmp_path / "study", trained)
    assert history.run("evaluate") == 0
    with waiting(history, ("report",), stage="evaluate", writes=["scores", *ALL_PROBES]):
        assert not (history.output / "report.html").exists()


def test_processes_that_train_together_share_the_locks(tmp_path, trained):
    """Two, started by torchrun."""
    history = History(tmp_path / "study", trained)
    history.set("train")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    variables |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    variables |= {"RANK": "{rank}", "LOCAL_RANK": "{rank}"}
    with waiting(history, ("train",), ("train",), stage="prepare", shares=["runs"], variables=variables):
        pass
    assert "".join(history.texts).count("is trained:") == 2
    assert history.run("train") == 0
    assert history.messages.read_text().count("was trained before") == 2
