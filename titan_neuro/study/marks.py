"""The marker files of the workflow: one for each result that is done, and no other.

Snakemake sees these files alone. They are made to agree with the manifests when a workflow starts, and when runs or
folds were listed: what is done by then is no job, whoever has made it, and what is stale, damaged or missing is one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from titan_neuro import manifests
from titan_neuro.errors import TitanNeuroError
from titan_neuro.files import writing_to
from titan_neuro.manifests import Check, State
from titan_neuro.probing import PROBES

if TYPE_CHECKING:
    from titan_neuro.study.prepare import PlannedRun
    from titan_neuro.study.study import Study

_FOLLOWING = ("trained", "evaluated", "probed", "reported")


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Marker files of one study, and how the workflow calls the stages.

    Attributes
    ----------
    folder : Path
        ``simulated``, ``fetched``, ``runs/KEY.json``, ``prepared/KEY``, ``folds.txt``, ``trained/seed-S_fold-F``,
        ``evaluated``, ``probed/NAME`` and ``reported`` lie in it.
    preparation, group, page : Study
        With the settings that `prepare`, the stages after it, and `report` are called with.
    """

    folder: Path
    preparation: Study
    group: Study
    page: Study

    def match(self, sources: Sequence[tuple[str, str, Path]]) -> list[str]:
        """Make all marker files agree with what is there now.

        Parameters
        ----------
        sources : sequence of (str, str, Path)
            Marker, its content, and the folder that it stands for: of what is simulated and fetched, in this order.

        Returns
        -------
        list of str
            A line for each result that was there and is to be made again, with the reason.

        Raises
        ------
        OutputError
            A marker file can't be written or removed.
        """
        if not self.folder.is_dir() and not (self.group.output.path / manifests.FOLDER).is_dir():
            return []
        is_fetched = True
        for name, content, made in sources:
            path = self.folder / name
            is_fetched = is_fetched and path.is_file() and path.read_text(encoding="utf-8") == content and made.is_dir()
            if not is_fetched:
                self._remove(name)
        planned = self._plan()
        if planned is None or not is_fetched or not self._lists(planned):
            self._remove("runs")
        lines = self._mark_runs(planned or [])
        if planned is None or not (self.folder / "runs").is_dir() or not all(run.check.is_done for run in planned):
            self._remove("folds.txt")
        if not (self.folder / "folds.txt").exists():
            # Snakemake makes a missing list only where something is to be made from it. With the list it shows what.
            self._remove(*_FOLLOWING)
            return lines
        return [*lines, *self.match_group()]

    def match_runs(self) -> list[str]:
        """Make the marker files of prepared runs agree with what is there now; see :meth:`match`."""
        # In a new study there is nothing to compare, and the dataset need not be read again.
        is_begun = bool(manifests.names(self.preparation.output.path, "prepare"))
        return self._mark_runs((is_begun and self._plan()) or [])

    def match_group(self) -> list[str]:
        """Make the marker files of what follows from the prepared runs agree with what is there now.

        See :meth:`match`. What is made of something that is to be made again is not done, whatever its manifest says:
        it may come out otherwise.
        """
        from titan_neuro.study.status import check_group

        try:
            plan = self.group.plan_group()
        except TitanNeuroError:
            # The job that lists the folds says why.
            self._remove(*_FOLLOWING, "folds.txt")
            return []
        checks = check_group(plan)
        done = {name for name, check in checks.items() if check.is_done}
        models = {model.result.name: model.seed_and_fold for model in plan.models}
        self._mark("trained", {*models.values()} - {models[name] for name in models if name not in done})
        is_evaluated = done >= {"evaluate", *models}
        self._mark_one("evaluated", is_done=is_evaluated)
        are_read = done >= {model.result.name for model in plan.main_models}
        probed = {name for name in PROBES if are_read and f"probe/{name}" in done}
        self._mark("probed", probed)
        if is_evaluated and probed == {*PROBES}:
            checks["report"] = self._check_report()
        self._mark_one("reported", is_done="report" in checks and checks["report"].is_done)
        return _again({name: check for name, check in checks.items() if not name.startswith("predict/")})

    def _plan(self) -> list[PlannedRun] | None:
        """Say what `prepare` would do; None where the dataset or the settings can't be read: its job says why."""
        try:
            return self.preparation.plan()
        except TitanNeuroError:
            return None

    def _lists(self, planned: Sequence[PlannedRun]) -> bool:
        """Whether the listed runs are those that are planned, chosen by the same filters."""
        with tempfile.TemporaryDirectory() as folder:
            self.preparation.write_filters(Path(folder), planned)
            listed, expected = (
                {path.name: path.read_bytes() for path in each.glob("*.json")}
                for each in (self.folder / "runs", Path(folder))
            )
        return listed == expected

    def _mark_runs(self, planned: Sequence[PlannedRun]) -> list[str]:
        self._mark("prepared", {run.recording.key for run in planned if run.check.is_done})
        return _again({f"prepare/{run.recording.key}": run.check for run in planned})

    def _check_report(self) -> Check:
        """Say whether `report` would find its page up to date."""
        from titan_neuro.study.status import report_result, study_status

        try:
            return report_result(self.page.output, study_status(self.page, read_runs=False)).check()
        except TitanNeuroError as error:
            return Check(State.STALE, (error.message,))

    def _mark(self, kind: str, done: Collection[str]) -> None:
        folder = self.folder / kind
        for path in [*folder.iterdir()] if folder.is_dir() else []:
            if path.name not in done:
                self._remove(f"{kind}/{path.name}")
        for name in done:
            self._mark_one(f"{kind}/{name}", is_done=True)

    def _mark_one(self, name: str, *, is_done: bool) -> None:
        path = self.folder / name
        if not is_done:
            self._remove(name)
        elif not path.exists():
            with writing_to(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()

    def _remove(self, *names: str) -> None:
        for path in (self.folder / name for name in names):
            with writing_to(path):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)


def _again(checks: Mapping[str, Check]) -> list[str]:
    """Return a line for each result that is made again."""
    return [f"{name}: {check}" for name, check in checks.items() if check.state not in {State.DONE, State.MISSING}]
