"""The output folder of a study: where its parts lie, and the record of each stage."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_neuro import manifests
from titan_neuro.files import WORK_FOLDER, file_lock, inside
from titan_neuro.stage_locks import hold

if TYPE_CHECKING:
    from titan_neuro.data.store import RunStore
    from titan_neuro.study.config import StudyConfig


@dataclass(frozen=True)
class OutputFolder:
    """Paths inside ``OUTPUT_DIR``.

    Attributes
    ----------
    path : Path
        The folder; it may be missing until `prepare` makes it.
    work_dir : Path
        Unfinished work and locks; by default ``OUTPUT_DIR/.work``.
    """

    path: Path
    work_dir: Path

    @classmethod
    def at(cls, path: Path, work_dir: Path | None = None) -> OutputFolder:
        """Return the folder at `path`; unfinished work lies in it, unless `work_dir` says otherwise."""
        return cls(path, path / WORK_FOLDER if work_dir is None else work_dir)

    @property
    def resolved_settings(self) -> Path:
        """``config.resolved.yaml``: every setting in force."""
        return self.path / "config.resolved.yaml"

    @property
    def locks(self) -> Path:
        """Who is at work: here also where `work_dir` is elsewhere, so that all who work on the folder meet."""
        return self.path / WORK_FOLDER / "locks"

    @property
    def failed_runs(self) -> Path:
        """``failed-runs.json``: why runs could not be prepared; it is there only where there are such runs."""
        return self.path / "failed-runs.json"

    def model(self, seed: int, fold_number: int, name: str) -> Path:
        """Return the folder of a model: ``OUT/models/seed-0/fold-1/titan-mac``."""
        return self.path / "models" / f"seed-{seed}" / f"fold-{fold_number}" / name

    def group_stem(self, runs: Sequence[RunStore]) -> Path:
        """Return the start of the names of group results: ``OUT/group/task-movie``."""
        tasks = sorted({run.entities.get("task", "unknown") for run in runs})
        # BIDS labels are letters and digits alone.
        return inside(self.path / "group", f"task-{''.join(tasks)}")

    def record_settings(self, config: StudyConfig) -> None:
        """Write ``config.resolved.yaml``; to be called once the settings are known to fit what is there."""
        from titan_neuro.study.load import write_resolved

        with file_lock(self.resolved_settings, work_dir=self.work_dir):
            write_resolved(self.resolved_settings, config)

    @contextmanager
    def locked(
        self,
        stage: str,
        *,
        reads: Collection[str] = (),
        shares: Collection[str] = (),
        writes: Collection[str] = (),
    ) -> Iterator[None]:
        """Keep what a stage reads and writes from others; see :func:`titan_neuro.stage_locks.hold`.

        A folder without results has nothing to keep, and may be another's: it is left as it is.
        """
        if (self.path / manifests.FOLDER).is_dir():
            with hold(self.locks, stage, reads=reads, shares=shares, writes=writes):
                # Also for a stage that finds its work done: a killed one may have left half a record.
                for path in (self.path / "provenance.json", self.resolved_settings):
                    with file_lock(path, work_dir=self.work_dir):
                        pass
                yield
        else:
            yield

    @contextmanager
    def stage(self, name: str, **metadata: Any) -> Iterator[dict[str, Any]]:
        """Run a stage with its record in ``provenance.json``; see :func:`titan_neuro.provenance.recorded`."""
        from titan_neuro.provenance import recorded

        with recorded(self.path, self.work_dir, name, **metadata) as record:
            yield record
