"""Small datasets with the result of an uninterrupted preparation, to be compared with interrupted ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import forked
import native_runs
import numpy as np
import yaml
from phantom import STEM, Phantom

from titan_neuro.data.store import open_runs


def contents(folder: Path) -> dict[str, bytes | None]:
    """Bytes of all files, by their path; None for folders."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def finished_runs(output: Path) -> dict[Path, int]:
    """The last file of each finished run, its manifest, and when it was written."""
    return {path: path.stat().st_mtime_ns for path in output.glob("manifests/prepare/*.json")}


@dataclass
class Preparation:
    """A dataset, how it is prepared, and what an uninterrupted preparation gives."""

    root: Path
    options: tuple[str, ...]
    folder: Path
    n_runs: int

    def __post_init__(self) -> None:
        self.inputs = contents(self.root)
        self._n_outputs = 0
        output = self.new_output()
        self.finish(output)
        self.expected = self._outcome(output)
        self.stages = sorted(self._stages(output))

    def new_output(self) -> Path:
        self._n_outputs += 1
        self.messages = self.folder / f"messages-{self._n_outputs}"
        return self.folder / f"out-{self._n_outputs}"

    def start(self, output: Path, before: Callable[[], None] | None = None, *options: object) -> ForkServerProcess:
        return forked.start(["prepare", self.root, output, *self.options, *options], self.messages, before)

    def exit_code(self, output: Path, before: Callable[[], None] | None = None, *options: object) -> int:
        process = self.start(output, before, *options)
        process.join(120)
        return process.exitcode

    def finish(self, output: Path, before: Callable[[], None] | None = None) -> None:
        assert self.exit_code(output, before) == 0, self.messages.read_text()

    def check(self, output: Path) -> None:
        """The output is that of an uninterrupted preparation, and nothing else is left there."""
        outcome = self._outcome(output)
        assert outcome.keys() == self.expected.keys()
        assert [name for name in outcome if outcome[name] != self.expected[name]] == []
        stores = open_runs(output)
        assert len(stores) == self.n_runs
        for store in stores:
            store.verify()
        assert sorted(self._stages(output)) == self.stages
        assert self._stages(output)[self.stages[0]]["n_runs"] == self.n_runs
        assert yaml.safe_load((output / "config.resolved.yaml").read_text())["prepare"]["estimation"] == "causal"
        assert contents(self.root) == self.inputs

    def _outcome(self, output: Path) -> dict[str, bytes | None]:
        """Everything in the output, except of times and locks."""
        files = {
            name: content
            for name, content in contents(output).items()
            if name != "provenance.json" and not name.startswith(".work/locks/")
        }
        return {name: _without_times(content) if "manifests/" in name else content for name, content in files.items()}

    def _stages(self, output: Path) -> dict[str, Any]:
        return json.loads((output / "provenance.json").read_text())["stages"]


def _without_times(manifest: bytes | None) -> bytes | None:
    if manifest is None:
        return None
    made = {"made": json.loads(manifest)["made"]["sources"]}
    return json.dumps({**json.loads(manifest), **made}).encode()


def native_in(folder: Path, n_runs: int) -> Preparation:
    """Runs in their own space, in a folder whose name is not plain ASCII."""
    root = native_runs.write(folder / "les données – 数据", n_runs=n_runs, shape=(24, 26, 22), n_time_points=40)
    return Preparation(root, (), folder, n_runs)


def raw_with_transforms(folder: Path, n_runs: int, n_volumes: int) -> Preparation:
    """Raw runs with transforms, prepared with computed confounds."""
    phantom = Phantom(shape=(16, 18, 14), voxel_mm=10.0, warp_spacing_mm=10.0, n_volumes=n_volumes)
    noise = np.random.default_rng(0).normal(0, 10, (*phantom.shape, phantom.n_volumes))
    root = phantom.write(folder / "bids", phantom.record(0)[..., None] + noise)
    for path in [*root.rglob(f"{STEM}_*")]:
        for run in range(2, n_runs + 1):
            shutil.copy(path, path.with_name(path.name.replace("run-01", f"run-{run:02d}")))
    return Preparation(root, ("--resolution", "10", "--confounds", "motion24"), folder, n_runs)
