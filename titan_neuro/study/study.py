"""A study from Python: what the command ``titan-neuro`` does, without its flags."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_neuro.errors import ConfigError, InputNotFoundError, UsageError
from titan_neuro.stage_locks import hold
from titan_neuro.study.output import OutputFolder
from titan_neuro.study.selection import Selection

if TYPE_CHECKING:
    from titan_neuro.data.bids.recordings import Recording
    from titan_neuro.data.store import RunStore
    from titan_neuro.forecaster import Forecaster
    from titan_neuro.report import Comparison
    from titan_neuro.study.config import StudyConfig
    from titan_neuro.study.evaluate import Evaluation
    from titan_neuro.study.models import StudyPlan, TrainedStudy
    from titan_neuro.study.null_control import NullKind
    from titan_neuro.study.prepare import PlannedRun
    from titan_neuro.study.probe import ProbeOutcome
    from titan_neuro.study.settings import GivenSettings
    from titan_neuro.study.status import StudyStatus
    from titan_neuro.study.train import TrainedModel
    from titan_neuro.training import FoldData

logger = logging.getLogger(__name__)


class Study:
    """One dataset, one output folder, one set of settings. Make it with :meth:`open`.

    Every stage does only what is not done yet, and reads what the stage before has left in the output folder, so that a
    study can be continued in another process or on another machine.

    Attributes
    ----------
    bids_dir : Path or None
        The BIDS dataset; None for a study that is prepared already.
    output : OutputFolder
    settings : GivenSettings
        What was asked for; :attr:`config` says what is in force.
    selection : Selection
        Which runs `prepare` and `predict` work on.
    device : str
        ``cpu`` or ``cuda[:N]``.

    Examples
    --------
    >>> study = Study.open("bids", "output", preset="parcels", seeds=[0])  # doctest: +SKIP
    >>> study.prepare()  # doctest: +SKIP
    >>> study.train()  # doctest: +SKIP
    >>> study.evaluate().scores  # doctest: +SKIP
    """

    def __init__(
        self,
        bids_dir: Path | None,
        output: OutputFolder,
        settings: GivenSettings,
        *,
        selection: Selection | None = None,
        device: str = "auto",
    ) -> None:
        self.bids_dir, self.output, self.settings = bids_dir, output, settings
        self.selection = Selection() if selection is None else selection
        self._device = device

    @classmethod
    def open(
        cls,
        bids_dir: str | Path | None,
        output_dir: str | Path,
        *,
        preset: str | None = None,
        config_file: str | Path | None = None,
        selection: Selection | None = None,
        work_dir: str | Path | None = None,
        device: str = "auto",
        overrides: Sequence[str] = (),
        **settings: Any,
    ) -> Study:
        """Open a study, new or begun. Nothing is read or written yet.

        Parameters
        ----------
        bids_dir : path or None
            The BIDS dataset; None where the runs are prepared.
        output_dir : path
            A new folder, or one that Titan-Neuro made.
        preset : {"debug", "cpu-small", "gpu-base", "parcels"}, optional
            By default ``config.resolved.yaml`` of the output folder, else the preset of the kind of data.
        config_file : path, optional
            YAML: a preset and what differs from it.
        selection : Selection, optional
            Which runs; by default all.
        work_dir : path, optional
            Unfinished work and locks; by default ``OUTPUT_DIR/.work``.
        device : {"auto", "cpu", "cuda", "cuda:N"}
            By default a GPU where there is one.
        overrides : sequence of str
            Single settings as ``--set`` takes them: ``"training.max_epochs=5"``.
        **settings
            The same as nested parts of :class:`StudyConfig`: ``training={"max_epochs": 5}, seeds=[0]``.

        Raises
        ------
        ConfigError
            Both a preset and a file are given, or a setting that does not exist; said by the first stage that needs
            the settings.
        """
        from titan_neuro.study.settings import GivenSettings

        if preset is not None and config_file is not None:
            raise ConfigError(
                f"Study.open: preset={preset!r} and config_file={str(config_file)!r} don't go together.",
                "Name the preset in the file: `preset: NAME`.",
            )
        given = GivenSettings(
            preset=preset,
            config_file=None if config_file is None else Path(config_file),
            overrides=[*overrides, settings],
        )
        folder = OutputFolder.at(Path(output_dir), None if work_dir is None else Path(work_dir))
        bids = None if bids_dir is None else Path(bids_dir)
        return cls(bids, folder, given, selection=selection, device=device)

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda[:N]``.

        Raises
        ------
        UsageError
            No such device on this machine.
        """
        from titan_neuro.study.device import torch_device

        return torch_device(self._device)

    @property
    def config(self) -> StudyConfig:
        """Every setting in force; runs that are prepared settle those of preparation."""
        from titan_neuro.data.store import open_runs

        try:
            runs = open_runs(self.output.path)
        except InputNotFoundError:
            return self._settings_for(self.recordings())
        return self.settings.resolve_prepared(self.output, runs)

    def recordings(self) -> list[Recording]:
        """List the recordings of the dataset that are chosen.

        Raises
        ------
        UsageError
            The study was opened without a dataset.
        NotBIDSError, NoMatchError, InputNotFoundError
            See :func:`titan_neuro.data.bids.recordings.find_recordings`.
        """
        from titan_neuro.data.bids.recordings import find_recordings

        return find_recordings(
            self._dataset(),
            subjects=self.selection.subjects,
            tasks=self.selection.tasks,
            runs=self.selection.runs,
            exclude=self.selection.exclude,
            filter_file=self.selection.filter_file,
            derivatives=self.selection.derivatives,
            resolution_mm=self.settings.given_resolution_mm(self.output),
            allow_missing=self.selection.allow_missing,
        )

    def runs(self) -> list[RunStore]:
        """Open the prepared runs, and say which could not be prepared.

        Raises
        ------
        InputNotFoundError
            Nothing is prepared yet; or a run is not whole: its preparation was interrupted, or files of it were removed
            or changed.
        """
        from titan_neuro.study.failures import warn_of_failures
        from titan_neuro.study.prepare import open_prepared

        runs = open_prepared(self.output)
        warn_of_failures(self.output, {run.key for run in runs})
        return runs

    def folds(self) -> list[FoldData]:
        """Divide the prepared runs into folds, as `train` and `evaluate` do."""
        return self.plan_group().folds

    def check_output(self) -> None:
        """Refuse an output folder that can't be written or that is not ours; see `OutputError`, `UsageError`."""
        from titan_neuro.data.bids.output import check_output

        check_output(self.output.path, self.bids_dir)

    def plan(self) -> list[PlannedRun]:
        """Say what :meth:`prepare` would do with each chosen run; nothing is written."""
        recordings = self.recordings()
        self.check_output()
        config = self._settings_for(recordings).prepare
        # Loaded once nothing is to be refused, as in the other stages: it takes time.
        from titan_neuro.study.prepare import plan_runs

        return plan_runs(recordings, self.output, config)

    def write_filters(self, folder: Path, planned: Sequence[PlannedRun]) -> None:
        """Write a filter file for each planned run, that chooses it alone (``folder/KEY.json``): for arrays of jobs.

        Parameters
        ----------
        folder : Path
        planned : sequence of PlannedRun
            From :meth:`plan`.
        """
        from titan_neuro.files import read_json
        from titan_neuro.study.prepare import write_filters

        given = self.selection.filter_file
        recordings = [run.recording for run in planned]
        write_filters(folder, recordings, {} if given is None else read_json(given).get("bold", {}))

    def prepare(self, *, n_processes: int = 1, memory_bytes: int | None = None, fetch: bool = True) -> list[RunStore]:
        """Bring every chosen run to one grid, clean and scale it causally, and store it.

        A run that can't be prepared does not stop the others.

        Parameters
        ----------
        n_processes : int
            Runs prepared side by side.
        memory_bytes : int, optional
            Bound on the resident size of all processes together, this one among them: fewer are started, and blocks of
            time points are shorter, where that is needed. None for no bound.
        fetch : bool
            Get what a DataLad dataset has not on this machine; else that is an error.

        Returns
        -------
        list of RunStore
            The chosen runs, prepared. Other jobs may prepare others at the same time; :meth:`runs` opens all.

        Raises
        ------
        ImageError, MetadataError, NotFetchedError, InputNotFoundError
            Some runs can't be prepared; the others are. The error lists them with their reasons, and is of the class of
            the first.
        UsageError
            `n_processes` or `memory_bytes` is less than 1, or the largest run does not fit into the memory.
        """
        if n_processes < 1 or (memory_bytes is not None and memory_bytes < n_processes):
            raise UsageError(
                f"prepare: expected at least one process and a byte for each, found n_processes={n_processes} and "
                f"memory_bytes={memory_bytes}."
            )
        recordings = self.recordings()
        self.check_output()
        config = self._settings_for(recordings)
        from titan_neuro.study.failures import forget_failures, warn_of_failures
        from titan_neuro.study.prepare import fetch_missing, prepare_runs, run_table

        while fetch and fetch_missing(recordings, self.output, config.prepare):
            # Sidecars may have been among them, or a subdataset.
            recordings = self.recordings()
        for line in run_table(recordings):
            logger.info("%s", line)
        runs, n_made = prepare_runs(
            recordings, self._dataset(), self.output, config, n_processes=n_processes, memory_bytes=memory_bytes
        )
        forget_failures(self.output, self.selection)
        noun = "run" if len(recordings) == 1 else "runs"
        logger.info("%d %s prepared, %d of them now.", len(recordings), noun, n_made)
        warn_of_failures(self.output, {run.key for run in runs})
        return runs

    def plan_group(self) -> StudyPlan:
        """Say which folds and models the study has, trained or not; nothing is written."""
        runs = self.runs()
        config = self.settings.resolve_prepared(self.output, runs)
        from titan_neuro.study.models import plan_study

        return plan_study(self.output, runs, config)

    def train(
        self,
        *,
        folds: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
        n_processes: int | None = None,
    ) -> list[TrainedModel]:
        """Train the study's model and its comparison models, for each fold and seed.

        Parameters
        ----------
        folds, seeds : sequence of int, optional
            Only these; folds are counted from 1.
        n_processes : int, optional
            That train one model together, each on a GPU of its own or on the CPU. By default one, or those that
            ``srun`` or ``torchrun`` started.

        Returns
        -------
        list of TrainedModel
            Empty in the processes that have only helped the first one.
        """
        from titan_neuro.study.train import train_models

        # Processes that train together all take the locks: they share them.
        with self.output.locked("train", reads=["runs"], shares=["models"]):
            models, is_first = train_models(self, folds, seeds, n_processes)
        return models if is_first else []

    def open_trained(self, *, folds: Sequence[int] | None = None, seeds: Sequence[int] | None = None) -> TrainedStudy:
        """Open the folds and models of a study whose folds are all trained; or only these folds and seeds."""
        plan = self.plan_group().part(folds, seeds)
        from titan_neuro.study.models import open_trained

        return open_trained(plan, self.device)

    def forecaster(self, *, fold: int = 1, seed: int | None = None, name: str | None = None) -> Forecaster:
        """Load a trained model.

        Parameters
        ----------
        fold : int
            Counted from 1; :meth:`folds` says which runs it holds out.
        seed : int, optional
            By default the study's first.
        name : str, optional
            ``gru`` or ``transformer-20``; by default the study's model.
        """
        from titan_neuro.training import load_forecaster

        plan = self.plan_group()
        numbers = [data.fold.number for data in plan.folds]
        if fold not in numbers:
            raise UsageError(f"fold={fold}: the study has the folds {', '.join(map(str, numbers))}.")
        first_seed = plan.config.seeds[0] if seed is None else seed
        if first_seed not in plan.config.seeds:
            raise UsageError(f"seed={seed}: the study has the seeds {', '.join(map(str, plan.config.seeds))}.")
        models = {model.config.backbone.name: model for model in plan.of_fold(fold, first_seed)}
        chosen = next(iter(models)) if name is None else name
        if chosen not in models:
            raise UsageError(f"name={chosen!r}: the study has the models {', '.join(models)}.")
        models[chosen].require()
        return load_forecaster(models[chosen].folder, self.device)[0]

    def evaluate(self, *, folds: Sequence[int] | None = None, seeds: Sequence[int] | None = None) -> Evaluation:
        """Score the forecasts of all held-out runs beside controls, comparison models, baselines and references.

        Parameters
        ----------
        folds, seeds : sequence of int, optional
            Only these; folds are counted from 1. The scores then say which part of the study they are of. They replace
            those that are there, and are stale for the whole study.
        """
        with self.output.locked("evaluate", reads=["runs", "models"], writes=["scores"]):
            trained = self.open_trained(folds=folds, seeds=seeds)
            from titan_neuro.study.evaluate import evaluate_study

            return evaluate_study(trained)

    def null_control(
        self, kind: NullKind, *, folds: Sequence[int] | None = None, seeds: Sequence[int] | None = None
    ) -> tuple[Evaluation, str]:
        """Go the whole way on noise of the data's shape, in ``OUTPUT_DIR/null-<kind>``.

        Parameters
        ----------
        kind : {"white", "phase"}
            White noise, or the data with phases drawn anew for each subject.
        folds, seeds : sequence of int, optional
            Only these.

        Returns
        -------
        evaluation : Evaluation
        check : str
            In words: neither the model nor its controls and comparison models score more than 0.02 above chance, and
            what the baselines score.

        Raises
        ------
        LeakageError
            One of them scores more.
        """
        from titan_neuro.evaluation.null_control import check_null
        from titan_neuro.study.evaluate import evaluate_study
        from titan_neuro.study.null_control import NOTES, prepare_null, source_of

        name = f"null-{kind}"
        folder = OutputFolder(self.output.path / name, self._work_dir_of(name))
        settings = self.settings.on_top_of(self.output.resolved_settings)
        # A model of recordings would bring into noise what noise does not have.
        settings = replace(settings, overrides=[*settings.overrides, {"training": {"start": None}}])
        null = Study(self.bids_dir, folder, settings, selection=self.selection, device=self._device)
        with (
            self.output.locked(f"null control ({kind})", reads=["runs"]),
            hold(folder.locks, "prepare", writes=["runs"]),
        ):
            runs = self.runs()
            config = self.settings.resolve_prepared(self.output, runs)
            source = source_of(self.output.path)
            prepare_null(kind, source, {run.key: run.record for run in runs}, self.selection, folder, config)
        null.train(folds=folds, seeds=seeds)
        with folder.locked("evaluate", reads=["runs", "models"], writes=["scores"]):
            evaluation = evaluate_study(null.open_trained(folds=folds, seeds=seeds), [NOTES[kind]])
        return evaluation, check_null(evaluation.scores, kind)

    def predict(self, horizon: int = 1) -> list[Path]:
        """Write forecasts of the chosen held-out runs, by the study's model of the first seed.

        Parameters
        ----------
        horizon : int
            Lead time in time points; one of the model's.

        Returns
        -------
        list of Path
            An image or a table for each run, beside the prepared run; volume ``t`` is what was expected of it at
            ``t - horizon``.

        Raises
        ------
        UsageError
            The model has no such lead time.
        NoMatchError
            No held-out run is chosen, or no run has one of the labels; or a run is too short.
        """
        with self.output.locked("predict", reads=["runs", "models"], writes=["forecasts"]):
            plan = self.plan_group()
            self.selection.require_matches([run.store.entities for run in plan.folds[0].runs.values()])
            if horizon not in plan.config.model.horizons:
                raise UsageError(
                    f"--horizon {horizon}: the model forecasts {plan.config.model.horizons} time points ahead."
                )
            from titan_neuro.study.predict import predict_runs

            return predict_runs(plan, self.selection, horizon, self.device)

    def probe(self, name: str) -> ProbeOutcome:
        """Ask what the memory of the study's model holds.

        Parameters
        ----------
        name : str
            ``context-length``, ``history-swap``, ``surprise``, ``time-segment-matching`` or ``decoding``.
        """
        return self.probes([name])[0]

    def probes(self, names: Iterable[str]) -> list[ProbeOutcome]:
        """Ask several probes one after the other; runs and models are opened once for all."""
        from titan_neuro.probing import PROBES

        asked = list(names)
        for name in asked:
            if name not in PROBES:
                raise UsageError(f"probe {name!r}: no such probe.", f"There are: {', '.join(PROBES)}.")
        stage = f"probe {asked[0]}" if len(asked) == 1 else "probe"
        with self.output.locked(stage, reads=["runs", "models"], writes=[f"probe {name}" for name in asked]):
            trained = self.open_trained()
            from titan_neuro.study.probe import probe_study

            return [probe_study(name, trained) for name in asked]

    def status(self, plan: StudyPlan | None = None, *, contents: bool = True) -> StudyStatus:
        """Say of every result whether it is done, stale, damaged or missing, and what a run would do next.

        Parameters
        ----------
        plan : StudyPlan, optional
            From :meth:`plan_group`, where the caller has it already.
        contents : bool
            Whether every file is read, also those of the dataset. False: only whether it is there, and of its size.

        Raises
        ------
        InputNotFoundError
            The output folder does not exist.
        """
        from titan_neuro.study.status import study_status

        return study_status(self, plan, read_runs=contents, read_results=contents)

    def headlines(self, *, probes: bool = True) -> list[str]:
        """Say in a few lines what was asked and found, from the tables and results that are there.

        Parameters
        ----------
        probes : bool
            Whether a line for each probe is among them.

        Returns
        -------
        list of str
            As ``run ... group`` ends with them.
        """
        from titan_neuro.report import forecast_lines, read_results, terminal_lines
        from titan_neuro.study.status import study_status

        checks = study_status(self, read_runs=False, read_results=False).checks.items()
        shown = {name: check for name, check in checks if name == "evaluate" or (probes and name.startswith("probe/"))}
        results = read_results(self.output.path, shown)
        return terminal_lines(results) if probes else forecast_lines(results)

    def report(self) -> Path:
        """Write ``report.html`` from what the other stages have made, unless it is of exactly that.

        A result that is damaged or missing is not shown; one that is stale is shown with what has changed since.

        Raises
        ------
        InputNotFoundError
            Nothing is scored yet.
        """
        from titan_neuro.study.report import report_study

        return report_study(self)

    def report_people(self, labels: Sequence[str]) -> list[Path]:
        """Write ``sub-LABEL.html`` for each of these people: their recordings, forecasts, surprise and recall.

        Parameters
        ----------
        labels : sequence of str
            With or without ``sub-``.

        Raises
        ------
        NoMatchError
            Nobody of a label is prepared.
        """
        from titan_neuro.study.report import report_people

        return report_people(self, labels)

    def compare(self, other: Study) -> Comparison:
        """Write a page into this output folder, with this study (A) and another one (B) side by side.

        Where the two scored the same people in the same runs, differences are taken within each person; where data,
        preparation or protocol differ, there are none, and page and lines say why.

        Parameters
        ----------
        other : Study
            With scores, too. Its output folder is only read.

        Returns
        -------
        Comparison
            The page (``compared-with-NAME.html``), and what was found in a few lines.

        Raises
        ------
        UsageError
            Both are the same folder.
        InputNotFoundError
            One of them has no scores of a model.
        """
        from titan_neuro.study.report import compare_studies

        return compare_studies(self, other)

    def _settings_for(self, recordings: Sequence[Recording]) -> StudyConfig:
        """Put the settings together for runs that are not prepared yet."""
        config = self.settings.resolve(self.output, recordings[0].kind)
        # Volumes become parcels by an atlas, and need the preset of parcels.
        return config if config.prepare.atlas is None else self.settings.resolve(self.output, "parcels")

    def _dataset(self) -> Path:
        if self.bids_dir is None:
            raise UsageError("The study was opened without a dataset.", "Name it: Study.open(BIDS_DIR, OUTPUT_DIR).")
        return self.bids_dir

    def _work_dir_of(self, name: str) -> Path:
        """Folder for unfinished work of a study inside this one."""
        inside = OutputFolder.at(self.output.path)
        return (
            OutputFolder.at(self.output.path / name).work_dir if self.output == inside else self.output.work_dir / name
        )
