"""The jobs that the workflow plans before any of them runs, and its messages where it cannot start."""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter

from titan_neuro.data.bids.output import init_output_dir
from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare import PrepareConfig, store_path
from titan_neuro.data.prepare.inputs import preparation, source_contents
from titan_neuro.data.prepare.outputs import manifest_of
from titan_neuro.data.space import Space
from titan_neuro.data.store import RunHeader, write_run
from titan_neuro.manifests import ResultOf
from titan_neuro.probing import PROBES
from titan_neuro.study import Study, load_study, write_resolved

ROOT = Path(__file__).parents[2]
PIPELINES = ROOT / "pipelines"
PUBLISHED = ROOT.parent / "shared" / "ds003017"
ONCE = {"all": 1, "evaluate": 1, "folds": 1, "probe": len(PROBES), "report": 1, "runs": 1}


def planned(said: str) -> Counter[str]:
    """How many jobs of each rule, as Snakemake's table says."""
    table = said.split("Job stats:")[1].split("total")[0]
    return Counter({name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)})


def commands(said: str) -> list[list[str]]:
    """The words of every command that would be run."""
    return [line.split() for line in re.findall(r"^Shell command: (titan-neuro .*)$", said, re.MULTILINE)]


@pytest.mark.parametrize("study", yaml.safe_load((PIPELINES / "studies.yaml").read_text()))
def test_every_study_can_be_planned_without_a_network(snakemake, request, study):
    if study in ("sitcom", "haxby"):
        request.getfixturevalue(study)
    done = snakemake("--dry-run", study=study)
    assert done.returncode == 0, done.stdout
    before = {"demo": ["simulate", "fetch"], "budapest": ["fetch"]}.get(study, [])
    # How many runs and folds there are shows after these.
    assert planned(done.stdout) == ONCE | dict.fromkeys(before, 1)
    subcommands = [words[1] for words in commands(done.stdout)]
    assert sorted(subcommands) == sorted([*before, "prepare", "run", "evaluate", *["probe"] * len(PROBES), "report"])
    for words in commands(done.stdout):
        if words[1] in ("prepare", "run", "evaluate", "probe"):
            assert words[words.index("--config-file") + 1] == str(PIPELINES / f"{study}.yaml")


def test_only_what_is_not_done_is_planned(snakemake, listed):
    [path] = listed["output_dir"].glob("group/*_desc-forecast_scores.tsv")
    path.unlink()
    done = snakemake("--dry-run", **listed)
    assert done.returncode == 0, done.stdout
    # Its settings are as they were; runs, models and probes are done.
    assert planned(done.stdout) == Counter({"all": 1, "evaluate": 1, "report": 1})
    assert f"To be made again: evaluate: damaged: group/{path.name} is missing" in done.stdout
    assert not path.exists()


@pytest.mark.parametrize("profile", ["local", "slurm"])
def test_a_failure_stops_nothing_else_and_is_shown(profile):
    options = yaml.safe_load((PIPELINES / "profiles" / profile / "config.yaml").read_text())
    assert all(options[name] is True for name in ("keep-going", "rerun-incomplete", "show-failed-logs"))
    assert options["retries"] >= 1


def test_budapest_fetches_the_transforms(snakemake):
    said = snakemake("--dry-run", study="budapest").stdout
    [fetch] = [words for words in commands(said) if words[1] == "fetch"]
    assert fetch[2:3] == ["ds003017"]
    assert fetch[4:6] == ["--with", "transforms"]


@pytest.mark.parametrize(
    ("config", "message", "hint"),
    [
        ({}, "no study is named", "demo, budapest, sitcom, films, sherlock, haxby"),
        ({"study": "budapst"}, "no study 'budapst'. Did you mean 'budapest'?", "--config study=NAME"),
        ({"study": "demo", "bids_dr": "x"}, "unknown part 'bids_dr'. Did you mean 'bids_dir'?", "There are: about,"),
        ({"study": "demo", "set": "a=1"}, "set: expected a list, found 'a=1'", "set='[ONE, ANOTHER]'"),
        (
            {"study": "haxby", "bids_dir": "/nowhere"},
            "/nowhere: no such folder (bids_dir of study haxby",
            "bids_dir=DIR",
        ),
        ({"study": "demo", "settings": "/nowhere"}, "/nowhere: no such file (settings of study demo)", ""),
    ],
)
def test_what_can_not_be_planned_is_said(snakemake, config, message, hint):
    done = snakemake("--dry-run", **config)
    assert done.returncode != 0
    assert message in done.stdout
    assert hint in done.stdout
    assert "Traceback" not in done.stdout


def unpack(name: str, folder: Path) -> None:
    if not (PUBLISHED / name).exists():
        pytest.skip("the published metadata of ds003017 are not beside the project")
    folder.mkdir(parents=True)
    with tarfile.open(PUBLISHED / name) as archive:
        # Scans are links to where git-annex would have their content, which the safe filters take for an escape.
        archive.extractall(folder, filter="fully_trusted")  # noqa: S202


def pretend_to_prepare(output: Path, recording: Recording, config: PrepareConfig) -> None:
    """A store of two time points of noise, under the name and with the settings and the manifest of a run."""
    store = store_path(recording, output, config)
    follows_from = preparation(recording, source_contents(recording, config), config)
    header = RunHeader(
        key=recording.key,
        entities=recording.entities,
        repetition_time=1.0,
        space=Space(kind="volume", name="MNI152NLin2009cAsym", mask=np.ones((4, 4, 4), bool), affine=np.eye(4)),
        scored=np.ones(2, bool),
        record={
            "route": "transforms",
            "normalizer": {"method": "causal"},
            "settings": TypeAdapter(PrepareConfig).dump_python(config, mode="json"),
            "fingerprint": recording.key,
        },
    )
    series = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    with ResultOf(root=output, name=manifest_of(store), **follows_from).writing() as written:
        write_run(store, header, [series])
        written.files.append(store)


@pytest.mark.slow
def test_budapest_is_125_runs_and_five_trainings(snakemake, tmp_path):
    """The real tree of ds003017 and of its transforms, names alone; its runs are pretended to be prepared."""
    bids, output = tmp_path / "ds003017", tmp_path / "output"
    unpack("ds003017-metadata.tar.gz", bids)
    unpack("ds003017-fmriprep-metadata.tar.gz", bids / "derivatives/ds003017-fmriprep")
    config = {"study": "budapest", "source": "null", "bids_dir": bids, "output_dir": output}
    done = snakemake("runs", **config)
    assert done.returncode == 0, done.stdout
    marks = output / ".work/workflow"
    keys = sorted(path.stem for path in (marks / "runs").glob("*.json"))
    assert len(keys) == 125
    log = (marks / "logs/runs.log").read_text()
    assert log.count("raw image and fMRIPrep's transforms, in one interpolation") == 125

    said = snakemake("--dry-run", **config).stdout
    assert planned(said) == Counter({**ONCE, "runs": 0, "prepare": 125})
    prepare = [words for words in commands(said) if words[1] == "prepare"]
    chosen = [words[words.index("--bids-filter-file") + 1] for words in prepare]
    assert sorted(chosen) == [str(marks / "runs" / f"{key}.json") for key in keys]
    # Compute nodes need no network, and no two jobs write into one clone.
    assert all("--no-datalad-get" in words for words in prepare)

    study = load_study(default_preset="debug", config_file=PIPELINES / "budapest.yaml")
    init_output_dir(output, bids, "0", output / ".work")
    write_resolved(output / "config.resolved.yaml", study)
    for recording in Study.open(bids, output).recordings():
        pretend_to_prepare(output, recording, study.prepare)
    # They are done by their manifests: no job prepares them.
    done = snakemake("folds", **config)
    assert done.returncode == 0, done.stdout
    told = (marks / "folds.txt").read_text()
    assert len(re.findall(r"^Fold \d ", told, re.MULTILINE)) == 5

    said = snakemake("--dry-run", **config).stdout
    assert planned(said) == Counter({**ONCE, "runs": 0, "folds": 0, "train": 5})
    trained = {(words[4], words[6]) for words in commands(said) if words[1] == "train"}
    assert trained == {("0", str(fold)) for fold in (1, 2, 3, 4, 5)}


def test_cluster_profiles_state_each_steps_resources(snakemake, tmp_path):
    def asked(profile: object) -> dict[str, str]:
        said = snakemake("--dry-run", profile=profile, study="demo").stdout
        found = re.findall(r"^rule (\w+):\n((?:    .*\n)+)", said, re.MULTILINE)
        return {rule: " ".join(re.findall(r"^    ((?:threads|resources): .*)$", text, re.M)) for rule, text in found}

    given = asked("slurm")
    # Memory depends on the attempt, which a dry run does not know; nor does it look at names.
    assert re.fullmatch("threads: 8 resources: mem_mb=.*runtime=720", given["evaluate"])
    assert re.fullmatch("threads: 4 resources: mem_mb=.*runtime=480", given["probe"])
    assert re.fullmatch("resources: mem_mb=.*runtime=60", given["report"])
    # What is a comment there works once it is none.
    text = (PIPELINES / "profiles/slurm/config.yaml").read_text()
    ours = re.sub(r"^  # (- (?:\w+:gpu|slurm_\w+)=\w+)", r"  \1", text, flags=re.MULTILINE)
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/config.yaml").write_text(ours)
    given = asked(tmp_path / "ours")
    assert given["evaluate"].endswith("gpu=1")
    assert given["probe"].endswith("gpu=1")
    assert "gpu=" not in given["report"]
    assert re.search("slurm_partition=.* slurm_account=", given["report"])
