"""A study from Python: the same stages, results and errors as on the command line, without flags."""

import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import titan_neuro
from titan_neuro.errors import ConfigError, InputNotFoundError, UsageError
from titan_neuro.study import Selection, Study

# As small as the session's study was trained; see `conftest.study`.
TRAINING = {"max_epochs": 2, "steps_per_epoch": 2}


@pytest.fixture
def finished(study):
    """The session's study; every stage of it is done, so nothing is written."""
    return Study.open(study / "bids", study / "output", training=TRAINING)


def test_stages_return_their_results(finished, study):
    runs = finished.prepare()
    assert len(runs) == 6
    models = finished.train()
    assert {model.name for model in models} == {"titan-mac", "gru", "transformer-20"}
    assert not any(model.is_new for model in models)
    evaluation = finished.evaluate()
    assert "titan-mac" in evaluation.summary
    assert {"titan-mac", "ar", "var"} <= set(evaluation.scores["model"])
    effects = evaluation.ablations.set_index("compared_with")["effect"]
    assert effects["titan-mac-recall-zeroed"] == "adds" and effects["titan-mac-backbone-zeroed"] == "adds nothing"
    assert (
        {"titan-mac-swin-zeroed", "titan-mac-swin-random-means"}
        <= set(effects.index)
        <= set(evaluation.scores["model"])
    )
    assert "the backbone adds nothing; training its blocks by gradients adds nothing; the Swin" in evaluation.parts
    assert "Swin encoder adds nothing. The recall as a whole adds 0." in evaluation.parts
    assert str(evaluation).splitlines()[-1] == evaluation.parts
    outcome = finished.probe("surprise")
    assert outcome.summary.endswith(".")
    assert "p" in outcome.tables["scores"]
    page = finished.report()
    assert page == study / "output/report.html"
    first = page.read_text(encoding="utf-8").partition('<p class="sentence">')[2]
    assert first.startswith("In 3 people, the forecasts of titan-mac have ") and evaluation.parts in first


def test_a_model_forecasts_the_runs_it_holds_out(finished):
    [fold, *_] = finished.folds()
    model = finished.forecaster(fold=fold.fold.number)
    run = fold.runs[fold.fold.test[0]]
    forecasts, _ = model.step(run.read(0, 40), model.init_state())
    assert forecasts.shape == (40, len(model.horizons), run.n_features)


def test_forecasts_are_written_for_chosen_runs(study, tmp_path):
    output = shutil.copytree(study / "output", tmp_path / "output")
    chosen = Selection(subjects=["sid000007"], runs=["2"])
    paths = Study.open(None, output, training=TRAINING, selection=chosen).predict(2)
    assert [path.name for path in paths] == ["sub-sid000007_task-movie_run-02_desc-forecastH2_bold.nii.gz"]


def test_settings_are_nested_keywords(study, tmp_path):
    opened = Study.open(study / "bids", tmp_path / "out", preset="debug", training={"max_epochs": 7}, seeds=[3])
    assert opened.config.training.max_epochs == 7
    assert opened.config.seeds == (3,)
    same = Study.open(
        study / "bids", tmp_path / "out", preset="debug", overrides=["training.max_epochs=7", "seeds=[3]"]
    )
    assert same.config == opened.config


def test_planning_writes_nothing(study, tmp_path):
    planned = Study.open(study / "bids", tmp_path / "out", preset="debug").plan()
    assert len(planned) == 6
    assert not any(run.check.is_done for run in planned)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda study: study.forecaster(fold=9), UsageError, "the study has the folds 1, 2, 3"),
        (lambda study: study.forecaster(name="lstm"), UsageError, "the models titan-mac, gru, transformer-20"),
        (lambda study: study.probe("telepathy"), UsageError, "There are: context-length"),
        (lambda study: study.train(seeds=[5]), UsageError, "the study has the seeds 0"),
        (lambda study: study.predict(99), UsageError, r"the model forecasts \(1, 2\)"),
    ],
)
def test_wrong_arguments_are_named(finished, call, error, message):
    with pytest.raises(error) as found:
        call(finished)
    assert found.match(message) or message in found.value.hint


@pytest.mark.parametrize("amounts", [(1, 0), (1, -1), (4, 3), (0, None), (-1, None)])
def test_no_process_or_no_memory_is_refused(finished, amounts):
    n_processes, memory_bytes = amounts
    with pytest.raises(UsageError, match="expected at least one process"):
        finished.prepare(n_processes=n_processes, memory_bytes=memory_bytes)


def test_a_preset_and_a_file_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match="don't go together"):
        Study.open(None, tmp_path, preset="debug", config_file=tmp_path / "x.yaml")


def test_an_unknown_setting_suggests_the_nearest(study, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'max_epochs'"):
        Study.open(study / "bids", tmp_path / "out", training={"max_epoch": 3}).plan()


def test_stages_ask_for_the_stage_before(tmp_path):
    with pytest.raises(InputNotFoundError):
        Study.open(None, tmp_path / "nothing").evaluate()
    with pytest.raises(UsageError, match="without a dataset"):
        Study.open(None, tmp_path / "nothing").prepare()


def test_the_package_says_where_to_begin():
    help_text = inspect.getdoc(titan_neuro)
    for name in ("titan_neuro.Study", "titan_neuro.Forecaster", "titan_neuro.titans"):
        assert name in help_text
    assert {"Study", "Forecaster", "titans"} <= set(dir(titan_neuro))
    assert titan_neuro.Study is Study
    with pytest.raises(AttributeError, match="no attribute 'study_of'"):
        titan_neuro.study_of  # noqa: B018


def test_importing_the_package_loads_nothing_heavy():
    program = (
        "import sys, titan_neuro, titan_neuro.study; sys.exit(bool({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_no_subcommand_is_longer_than_sixty_lines():
    files = set(Path(titan_neuro.__file__).parent.glob("cli/[!_]*.py"))
    files = {path for path in files if path.stem not in {"flags", "command", "interruption"}}
    assert len(files) == 10
    assert {path.name for path in files if len(path.read_text().splitlines()) > 60} == set()
