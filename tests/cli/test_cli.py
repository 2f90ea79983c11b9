"""The command as its users meet it: help, exit codes, errors without a traceback."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import DEBUG_SETTINGS

from titan_neuro import errors
from titan_neuro.cli import main
from titan_neuro.data.store import open_runs

SUBCOMMANDS = ["simulate", "fetch", "prepare", "train", "predict", "evaluate", "probe", "report", "run"]


def test_help_names_every_subcommand_and_loads_nothing_heavy(titan_neuro):
    program = (
        "import sys, titan_neuro, titan_neuro.cli\n"
        "try: titan_neuro.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'nilearn', 'monai', 'lightning', 'pandas', 'numpy', 'datalad', 'bids'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for subcommand in SUBCOMMANDS:
        assert re.search(rf"^\s+{subcommand}\s", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_every_subcommand_has_help(titan_neuro, subcommand):
    assert "usage: titan-neuro" in titan_neuro(subcommand, "--help").stdout


def test_the_bids_app_flags_are_there(titan_neuro):
    text = titan_neuro("run", "--help").stdout
    bids_app = ["--participant-label", "--task-id", "--run-id", "--bids-filter-file", "-d", "--derivatives"]
    ours = ["-w", "--work-dir", "--nprocs", "--mem", "--device", "--config-file", "--random-seed", "--dry-run"]
    flags = [*bids_app, *ours, "--version", "-v"]
    for flag in flags:
        assert re.search(rf"(^|[\s,]){flag}\b", text), flag
    assert titan_neuro("--version").stdout.startswith("titan-neuro 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "--resolutin", "3", "a", "b"], "unknown flag --resolutin. Did you mean '--resolution'?"),
        (["run", "a", "b", "group", "--sed=1", "--nproc"], "argument --nprocs"),
        (["train", "a", "--maxepochs=3"], "unknown flag --maxepochs."),
        (["train", "a", "b"], "unexpected arguments: b"),
        (["--verison"], "unknown flag --verison. Did you mean '--version'?"),
    ],
)
def test_a_misspelled_flag_is_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == errors.UsageError.exit_code
    assert message in capsys.readouterr().err


def test_each_error_class_has_its_exit_code():
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    codes = [kind.exit_code for kind in classes]
    assert len(set(codes)) == len(codes) > 10
    assert 0 not in codes
    assert errors.UsageError.exit_code == 2


def failure(titan_neuro, error, *arguments):
    """Run a command that must fail as `error`, and return what it says."""
    done = titan_neuro(*arguments, check=False)
    assert done.returncode == error.exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def output(study, tmp_path):
    """A copy of the study's output folder, to be changed at will."""
    return Path(shutil.copytree(study / "output", tmp_path / "output"))


def test_no_such_folder_and_not_bids(titan_neuro, tmp_path):
    assert "no such folder" in failure(
        titan_neuro, errors.InputNotFoundError, "run", tmp_path / "nowhere", tmp_path / "out", "participant"
    )
    message = failure(titan_neuro, errors.NotBIDSError, "run", tmp_path, tmp_path / "out", "participant")
    assert "dataset_description.json" in message
    assert not (tmp_path / "out").exists()


def test_no_runs_match(titan_neuro, study, tmp_path):
    message = failure(
        titan_neuro,
        errors.NoMatchError,
        *("run", study / "bids", tmp_path / "out", "participant", "--participant-label", "sub-01"),
    )
    assert "no run matches subject sub-01" in message
    assert "The dataset has: subject: sid000005 sid000007 sid000009" in message


def test_a_file_that_was_not_fetched(titan_neuro, study, tmp_path):
    clone = tmp_path / "clone"
    titan_neuro("fetch", study / "synthetic", clone, "--participant-label", "sid000005", "--run-id", "1")
    message = failure(titan_neuro, errors.NotFetchedError, "prepare", clone, tmp_path / "out", "--no-datalad-get")
    assert "its content is not on this machine" in message
    # What the message advises is what helps.
    advice = re.search(r"titan-neuro (fetch \S+)`", message)[1]
    titan_neuro(*advice.split(), "--participant-label", "sid000005")
    titan_neuro("prepare", clone, tmp_path / "out", "--participant-label", "sid000005", "--no-datalad-get")


def test_prepare_fetches_missing_files_and_needs_them_once(titan_neuro, study, tmp_path):
    clone, output = tmp_path / "clone", tmp_path / "out"
    titan_neuro("fetch", study / "synthetic", clone, "--participant-label", "sid000005", "--run-id", "1")
    chosen = ("--participant-label", "sid000005", "sid000007")
    assert "3 files" in titan_neuro("prepare", clone, output, *chosen).stderr
    images = sorted(clone.glob("sub-*/func/*_bold.nii.gz"))
    assert [image.exists() for image in images] == [True] * 4 + [False] * (len(images) - 4)
    titan_neuro("fetch", clone, "--drop")
    assert not any(image.exists() for image in images)
    # What is prepared is known by its annex key.
    assert "4 runs prepared, 0 of them now" in titan_neuro("prepare", clone, output, *chosen, "--no-datalad-get").stderr


def test_content_without_another_copy_is_not_dropped(titan_neuro, study, tmp_path):
    synthetic = tmp_path / "synthetic"
    shutil.copytree(study / "synthetic", synthetic, symlinks=True)
    message = failure(titan_neuro, errors.FetchError, "fetch", synthetic, "--drop", "--run-id", "1")
    assert "files are kept" in message
    assert all(image.exists() for image in synthetic.glob("sub-*/func/*_bold.nii.gz"))
    assert "no clone" in failure(titan_neuro, errors.InputNotFoundError, "fetch", tmp_path, "--drop")


def test_an_output_that_is_not_ours(titan_neuro, study, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    message = failure(titan_neuro, errors.OutputError, "prepare", study / "bids", tmp_path)
    assert "not an output of Titan-Neuro" in message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert "inside the input" in failure(titan_neuro, errors.UsageError, "prepare", study / "bids", study / "bids/out")


@pytest.mark.skipif(os.geteuid() != 0, reason="/sys is writable by nobody; as root there is no other such folder")
def test_an_output_that_can_not_be_written(titan_neuro, study):
    assert "can't be written" in failure(titan_neuro, errors.OutputError, "prepare", study / "bids", "/sys/titan-neuro")


def test_an_unknown_setting(titan_neuro, study, tmp_path):
    message = failure(
        titan_neuro,
        errors.ConfigError,
        *("prepare", study / "bids", tmp_path / "out", "--set", "training.max_epoch=3"),
    )
    assert "Did you mean 'max_epochs'?" in message


def test_usage_errors(titan_neuro, study, output):
    assert titan_neuro("run", study / "bids", check=False).returncode == 2
    message = failure(titan_neuro, errors.UsageError, "run", study / "bids", output, "group", "--run-id", "1")
    assert "--run-id has no meaning here" in message
    assert "expected auto, cpu" in failure(titan_neuro, errors.UsageError, "train", output, "--device", "tpu")
    assert "has the folds 1, 2, 3" in failure(titan_neuro, errors.UsageError, "train", output, "--fold", "7")
    assert "has the seeds 0" in failure(titan_neuro, errors.UsageError, "train", output, "--seed", "1")
    assert "forecasts (1, 2) time points" in failure(
        titan_neuro, errors.UsageError, "predict", output, "--horizon", "5"
    )


def test_later_stages_ask_for_earlier_ones(titan_neuro, study, tmp_path):
    assert "titan-neuro prepare" in failure(titan_neuro, errors.InputNotFoundError, "train", tmp_path / "out")
    titan_neuro("prepare", study / "bids", tmp_path / "out")
    for subcommand in (["evaluate"], ["probe", "context-length"], ["predict"]):
        message = failure(titan_neuro, errors.InputNotFoundError, *subcommand, tmp_path / "out")
        assert "titan-neuro train" in message
    assert "titan-neuro evaluate" in failure(titan_neuro, errors.InputNotFoundError, "report", tmp_path / "out")


def test_a_model_of_other_settings_is_not_scored(titan_neuro, output):
    message = failure(titan_neuro, errors.MismatchError, "evaluate", output, "--set", "training.patience=3")
    assert "titan-neuro train" in message
    # A mistake leaves no trace: without it, all is as it was.
    assert "scored before" in titan_neuro("evaluate", output).stderr


def test_settings_of_preparation_come_from_the_runs(titan_neuro, study, output, tmp_path):
    resolved = (output / "config.resolved.yaml").read_text()
    for subcommand in ("train", "evaluate", "predict"):
        message = failure(titan_neuro, errors.MismatchError, subcommand, output, "--set", "prepare.warmup_s=7")
        assert "prepare.warmup_s 7.0, the runs there were prepared with" in message
    message = failure(
        titan_neuro, errors.MismatchError, "run", study / "bids", output, "group", "--confounds", "motion24"
    )
    assert "prepare.confounds motion24, the runs there were prepared with none" in message
    message = failure(titan_neuro, errors.MismatchError, "train", output, "--set", "prepare.voxel_scaling=psc")
    assert "prepare.voxel_scaling psc, the runs there were prepared with none" in message
    assert (output / "config.resolved.yaml").read_text() == resolved
    # Who says nothing of preparation has not chosen the preset's.
    shutil.copytree(output, tmp_path / "out")
    titan_neuro("prepare", study / "bids", tmp_path / "out", "--set", "prepare.warmup_s=7")
    config = tmp_path / "study.yaml"
    for content in ("preset: debug\n", "preset: debug\nprepare: {warmup_s: 7, confounds: none}\n"):
        config.write_text(content)
        group = ("run", study / "bids", tmp_path / "out", "group", "--dry-run")
        assert "Fold 1 " in titan_neuro(*group, "--config-file", config).stderr
    # Nor has an interrupted preparation.
    settings = tmp_path / "out" / "config.resolved.yaml"
    settings.write_text(settings.read_text().replace("confounds: none", "confounds: motion24"))
    assert "Fold 1 " in titan_neuro(*group).stderr
    message = failure(titan_neuro, errors.MismatchError, *group, "--atlas", study / "debug.yaml")
    assert "prepare.atlas" in message
    assert "the runs there were prepared with None" in message


def test_whole_run_preparation_is_said_everywhere(titan_neuro, study, tmp_path):
    output, debug = tmp_path / "out", study / "debug.yaml"
    settings = ("--config-file", debug, "--set", "prepare.estimation=whole-run", "--set", "comparison_models=false")
    settings += ("--set", "evaluation.n_resamples=1000", "--set", "evaluation.rollout_every_time_points=0")
    titan_neuro("prepare", study / "bids", output, *settings)
    for subcommand in ("train", "evaluate", "report"):
        done = titan_neuro(subcommand, output, *((*settings, *DEBUG_SETTINGS) if subcommand != "report" else ()))
        if subcommand == "evaluate":
            assert "Preparation used the whole run (z-score)" in done.stdout
    for path in [*output.glob("group/*_scores.json"), *output.glob("group/*_statmap.json")]:
        assert json.loads(path.read_text())["Caveats"][0].startswith("Preparation used the whole run"), path
    assert "Preparation used the whole run (z-score)" in (output / "report.html").read_text(encoding="utf-8")
    # Runs that were prepared otherwise do not join them.
    titan_neuro("prepare", study / "bids", output, "--config-file", debug, "--participant-label", "sid000005")
    message = failure(titan_neuro, errors.MismatchError, "evaluate", output, "--config-file", debug)
    assert "The prepared runs differ in normalizer" in message


def test_debug_shows_the_traceback(titan_neuro, tmp_path):
    done = titan_neuro("prepare", tmp_path / "nowhere", tmp_path / "out", "--debug", check=False)
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("amount", ["0", "-1", "0.05", "nan", "inf", "-inf", "much", "4G", ""])
@pytest.mark.parametrize("command", [("prepare", "bids", "out"), ("run", "bids", "out", "participant")])
def test_nonsense_as_memory_is_refused(command, amount, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, f"--mem={amount}"])
    assert stop.value.code == errors.UsageError.exit_code
    assert "argument --mem: " in capsys.readouterr().err


def test_dry_runs_write_nothing(titan_neuro, study, output, tmp_path):
    text = titan_neuro("run", study / "bids", tmp_path / "out", "participant", "--dry-run").stderr
    assert "sub-sid000005_task-movie_run-01: to prepare" in text
    assert not (tmp_path / "out").exists()
    before = sorted((path, path.stat().st_mtime_ns) for path in output.rglob("*"))
    done = titan_neuro("run", study / "bids", output, "group", "--dry-run")
    assert "Fold 1 (by subject): train on sub-" in done.stderr
    assert done.stdout == titan_neuro("status", output).stdout and "Nothing is left to do." in done.stdout
    assert sorted((path, path.stat().st_mtime_ns) for path in output.rglob("*")) == before


def test_parallel_preparation_gives_the_same_stores(titan_neuro, study, tmp_path):
    done = titan_neuro(
        "prepare", study / "bids", tmp_path / "out", "--nprocs", 2, "--config-file", study / "debug.yaml"
    )
    assert "6 runs prepared, 6 of them now." in done.stderr
    together, alone = (open_runs(folder) for folder in (tmp_path / "out", study / "output"))
    assert [store.key for store in together] == [store.key for store in alone]
    assert [store.sha256["series"] for store in together] == [store.sha256["series"] for store in alone]


def test_finished_work_is_not_repeated(titan_neuro, study, output):
    def results():
        skip = {"provenance.json", "config.resolved.yaml"}
        files = [path for path in output.rglob("*") if path.is_file() and path.name not in skip]
        return {path: path.stat().st_mtime_ns for path in files if ".work" not in path.parts}

    before = results()
    settings = ("--set", "training.max_epochs=2")
    titan_neuro("run", study / "bids", output, "participant", *settings)
    text = titan_neuro("run", study / "bids", output, "group", *settings).stderr
    assert text.count("was trained before") == 3
    assert "scored before" in text
    assert "probe was run before" in text
    assert "up to date" in text
    assert results() == before


def test_seeds_and_folds_train_separately(titan_neuro, output):
    settings = ("--set", "seeds=[0, 5]")
    text = titan_neuro("train", output, *settings, "--seed", "5", "--fold", "2").stderr
    assert text.count("is trained:") == 3
    models = output / "models"
    assert sorted(path.name for path in models.iterdir()) == ["seed-0", "seed-5"]
    assert sorted(path.name for path in (models / "seed-5").iterdir()) == ["fold-2"]
    records = {
        folder.name: json.loads((folder / "config.json").read_text())["metadata"]
        for folder in (models / "seed-5/fold-2").iterdir()
    }
    assert sorted(records) == ["gru", "titan-mac", "transformer-20"]
    assert all((record["seed"], record["fold"]) == (5, 2) for record in records.values())
    sizes = [record["n_parameters"] for record in records.values()]
    assert max(sizes) < 1.05 * min(sizes)
    message = failure(titan_neuro, errors.InputNotFoundError, "evaluate", output, *settings)
    assert "models/seed-5/fold-1/titan-mac: no trained model" in message
    # Without the comparison models and the other seed the study is whole.
    assert (
        "was trained before"
        in titan_neuro("train", output, "--random-seed", "0", "--set", "comparison_models=false").stderr
    )


def test_an_interrupted_training_resumes_to_the_same_weights(titan_neuro, output, tmp_path):
    undisturbed = Path(shutil.copytree(output, tmp_path / "undisturbed"))
    settings = ("--fold", "1", "--set", "comparison_models=false")
    settings += ("--set", "training.max_epochs=8", "--set", "training.patience=8")
    before = (output / "models/seed-0/fold-1/titan-mac/config.json").read_text()
    command = [str(Path(sys.executable).with_name("titan-neuro")), "train", str(output), *settings]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not checkpoints(output):
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert (output / "models/seed-0/fold-1/titan-mac/config.json").read_text() == before
    assert "Training resumes from" in titan_neuro("train", output, *settings).stderr
    titan_neuro("train", undisturbed, *settings)
    weights = [folder / "models/seed-0/fold-1/titan-mac/model.safetensors" for folder in (output, undisturbed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not checkpoints(output)


def checkpoints(output):
    """Checkpoints of trainings that were not finished."""
    return list((output / ".work").glob("fold-1-*/step-*.ckpt"))


def test_predict_writes_images_of_held_out_runs(titan_neuro, output):
    import nibabel as nib
    import numpy as np

    titan_neuro("predict", output, "--horizon", "2", "--participant-label", "sub-sid000007", "--run-id", "2")
    paths = list(output.glob("sub-*/func/*_desc-forecastH2_bold.nii.gz"))
    assert [path.name for path in paths] == ["sub-sid000007_task-movie_run-02_desc-forecastH2_bold.nii.gz"]
    image = nib.load(paths[0])
    sidecar = json.loads(Path(str(paths[0]).replace(".nii.gz", ".json")).read_text())
    assert sidecar["RepetitionTime"] == 1.0
    data = np.asarray(image.dataobj)
    assert not data[..., :2].any()
    assert data[..., 2:].any(axis=(0, 1, 2)).all()
    assert image.header.get_zooms()[3] == 1.0


def test_the_output_is_a_bids_derivative(study):
    program = Path(sys.executable).with_name("bids-validator-deno")
    done = subprocess.run([str(program), str(study / "output")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    output = study / "output"
    description = json.loads((output / "dataset_description.json").read_text())
    assert description["GeneratedBy"][0]["Name"] == "Titan-Neuro"
    assert description["SourceDatasets"]
    stages = json.loads((output / "provenance.json").read_text())["stages"]
    prepared = next(record for stage, record in stages.items() if stage.startswith("prepare"))
    assert re.fullmatch(r"[0-9a-f-]{36}", prepared["input_dataset_id"])
    assert all(key.startswith("MD5E-") for key in prepared["input_keys"].values())
    assert all(record["versions"]["torch"] and record["wall_time_s"] > 0 for record in stages.values())
    assert stages["train seed-0 fold-1"]["seed"] == 0
    assert stages["train seed-0 fold-1"]["models"] == ["titan-mac", "gru", "transformer-20"]
    assert (output / "config.resolved.yaml").is_file()
