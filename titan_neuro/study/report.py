"""Pages of a study: the report, one for a person, and two studies side by side.

What draws them takes seconds to load: it is imported where it is clear that there is something to draw.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from titan_neuro.errors import InputNotFoundError, UsageError
from titan_neuro.manifests import Check, State
from titan_neuro.probing import PROBES
from titan_neuro.study.status import StudyStatus, report_result, study_status

if TYPE_CHECKING:
    from titan_neuro.report import Comparison
    from titan_neuro.study.study import Study

logger = logging.getLogger(__name__)


def report_study(study: Study) -> Path:
    """Write ``report.html`` unless it is up to date; see :meth:`Study.report`."""
    study.check_output()
    with _reading(study, writes="report"):
        status = _status(study)
        page, result = study.output.path / "report.html", report_result(study.output, status)
        if result.check().is_done:
            logger.info("The report is up to date.")
            return page
        from titan_neuro.report import write_report

        with result.writing() as written:
            written.files.append(write_report(study.output.path, _states(status), status.problem))
        return page


def compare_studies(study: Study, other: Study) -> Comparison:
    """Write a page with two studies side by side; see :meth:`Study.compare`."""
    if study.output.path.resolve() == other.output.path.resolve():
        raise UsageError(f"{study.output.path}: expected two studies, found one folder twice.", "Name two OUTPUT_DIR.")
    study.check_output()
    with _reading(study, writes="comparison"), _reading(other):
        states = [_states(_status(of)) for of in (study, other)]
        from titan_neuro.report import ComparedStudy, write_comparison

        first, second = (ComparedStudy(of.output.path, each) for of, each in zip((study, other), states, strict=True))
        return write_comparison(first, second)


def report_people(study: Study, labels: Sequence[str]) -> list[Path]:
    """Write a page for each of these people; see :meth:`Study.report_people`."""
    study.check_output()
    with _reading(study, writes="pages of people"):
        states = _states(study_status(study, read_runs=False))
        from titan_neuro.report import write_person

        return [write_person(study.output.path, label.removeprefix("sub-"), states) for label in labels]


@contextmanager
def _reading(study: Study, writes: str = "") -> Iterator[None]:
    """Keep the results that a page is drawn from as they are."""
    reads = ["runs", "models", "scores", *(f"probe {name}" for name in PROBES)]
    with study.output.locked("report", reads=reads, writes=[writes] if writes else []):
        yield


def _status(study: Study) -> StudyStatus:
    """Return the state of all results, of which one at least can be shown."""
    # The pages draw no results from the prepared runs: these are not read whole for them.
    status = study_status(study, read_runs=False)
    shown = [name for name in status.checks if name == "evaluate" or name.startswith("probe/")]
    if not any(status.checks[name].state in {State.DONE, State.STALE} for name in shown):
        raise InputNotFoundError(
            f"{study.output.path}: there is nothing to report: nothing is scored.",
            "Run `titan-neuro evaluate` first.",
        )
    return status


def _states(status: StudyStatus) -> dict[str, Check]:
    return {name: check for name, check in status.checks.items() if name != "report"}
