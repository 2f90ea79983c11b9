"""Histories of a study: what may happen to its folders and processes, and what must be there at the end."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import forked
import tiny_study
import yaml

from titan_neuro import errors

EXIT_CODES = {0, *range(1, errors.LeakageError.exit_code + 1)}
"""Of an end that is explained in words."""
DISK_BYTES = 2**26
TIMEOUT_S = 240

# Each is a study of its own; by the setting that differs, one of each stage.
VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "prepare": {"prepare": {"warmup_s": 8}},
    "train": {"training": {"learning_rate": 0.01}},
    "seeds": {"seeds": [1]},
    "evaluate": {"evaluation": {"rollout_every_time_points": 30}},
    "probe": {"probe": {"context_length": {"contexts_time_points": [4], "origins_per_run": 3}}},
}

# Files that no manifest lists: they describe the folder, or record what was done there.
SINGLETONS = {
    *("dataset_description.json", "README.md", ".bidsignore", "config.resolved.yaml"),
    *("provenance.json", "failed-runs.json"),
}


class History:
    """One study to which things happen. Each method is a step, and is listed in `steps` as it can be pasted.

    Parameters
    ----------
    folder : Path
        A new folder. With `disk`, a small disk of its own is mounted there.
    finished : Path, optional
        A folder ``bids``, ``output`` of a finished study, from which this one begins.
    stages : sequence of str
        The whole way of this study.
    """

    def __init__(self, folder: Path, finished: Path | None = None, stages: tuple[str, ...] = tiny_study.STAGES) -> None:
        self.folder, self.stages = folder, stages
        self.steps: list[str] = []
        self.bids, self.output = folder / "bids", folder / "disk/output"
        self.settings, self.messages, self.printed = (
            folder / name for name in ("settings.yaml", "messages", "printed")
        )
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self._write_settings(self.settings, "")
        if finished is None:
            tiny_study.write_dataset(self.bids)
        else:
            shutil.copytree(finished / "bids", self.bids)
            self.restore_output(finished / "disk/output")

    # ---- processes

    def run(self, stage: str) -> int:
        """Run a stage, well or badly."""
        self._note("run", stage)
        return self._end(stage, self.start(stage))

    def kill(self, stage: str, *, after_s: float | None = None, before_change: int | None = None) -> bool:
        """Kill a stage after some time, or before it changes a file for the n-th time; whether it was still at work."""
        self._note(
            "kill", stage, **({"after_s": after_s} if before_change is None else {"before_change": before_change})
        )
        if before_change is not None:
            process = self.start(stage, functools.partial(forked.kill_before_change, self.output, before_change))
        else:
            process = self.start(stage)
            process.join(after_s)
            process.kill()
        return self._end(stage, process, may_be_killed=True) == -signal.SIGKILL

    def together(self, first: str, second: str, delay_s: float) -> None:
        """Run two stages, the second a little later; ``evaluate with seeds`` has the settings of that variant."""
        self._note("together", first, second, delay_s)
        processes = [self.start(first)]
        time.sleep(delay_s)
        processes.append(self.start(second))
        for stage, process in zip((first, second), processes, strict=True):
            self._end(stage, process)

    def run_on_full_disk(self, stage: str, free_bytes: int) -> None:
        """Run a stage that finds so much room on the disk; where no disk can be mounted, in each file."""
        self._note("run_on_full_disk", stage, free_bytes)
        disk = self.output.parent
        if not os.path.ismount(disk):
            self._end(stage, self.start(stage, functools.partial(forked.limit_file_size, free_bytes)))
            return
        ballast, state = disk / "ballast", os.statvfs(disk)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - free_bytes)
        try:
            self._end(stage, self.start(stage))
        finally:
            ballast.unlink()

    # ---- files

    def delete(self, name: str) -> None:
        """Delete a file of the output folder."""
        self._note("delete", name)
        (self.output / name).unlink(missing_ok=True)

    def flip(self, name: str, bit: int) -> None:
        """Change one bit of a file of the output folder."""
        self._note("flip", name, bit)
        with contextlib.suppress(FileNotFoundError):
            content = bytearray((self.output / name).read_bytes())
            if content:
                content[bit // 8 % len(content)] ^= 1 << bit % 8
                (self.output / name).write_bytes(content)

    def restore_output(self, saved: Path) -> None:
        """Replace the output folder by a copy of another one, of a dataset beside that, made as if here."""
        shutil.rmtree(self.output, ignore_errors=True)
        if not saved.exists():
            return
        shutil.copytree(saved, self.output)
        description = self.output / "dataset_description.json"
        if description.exists():
            made_from = saved.parents[1] / self.bids.name
            description.write_text(description.read_text().replace(made_from.as_uri(), self.bids.as_uri()))

    def set(self, variant: str) -> None:
        """Change the settings, to one of `VARIANTS`."""
        self._note("set", variant)
        self._write_settings(self.settings, variant)

    def change_recording(self, subject: str, version: int) -> None:
        """Replace the table of a recording by another one of the same form."""
        self._note("change_recording", subject, version)
        tiny_study.write_recording(self.bids, subject, version=version)

    def change_sidecar(self, subject: str, repetition_time: float) -> None:
        """Replace the sidecar of a recording."""
        self._note("change_sidecar", subject, repetition_time)
        path = tiny_study.recording(self.bids, subject).with_suffix(".json")
        path.write_text(json.dumps({"RepetitionTime": repetition_time}))

    def cut_recording(self, subject: str) -> None:
        """Cut the table of a recording in the middle of a line."""
        self._note("cut_recording", subject)
        path = tiny_study.recording(self.bids, subject)
        path.write_bytes(path.read_bytes()[:500])

    def move_output(self) -> None:
        """Move the output folder."""
        self._note("move_output")
        self.output = self.output.rename(self.output.with_name(f"{self.output.name}-moved"))

    def move_dataset(self) -> None:
        """Move the dataset."""
        self._note("move_dataset")
        self.bids = self.bids.rename(self.bids.with_name(f"{self.bids.name}-moved"))

    # ---- the end

    def finish(self, reference: dict[str, str], stages: Sequence[str] | None = None) -> None:
        """Go the whole way (or these stages) once more: it must succeed, and all be as after a clean run."""
        self.steps.append("history.finish(reference" + (")" if stages is None else f", {stages!r})"))
        for stage in self.stages if stages is None else stages:
            code = self._end(stage, self.start(stage))
            assert code == 0, self.describe(f"{stage} ended with exit code {code}")
        found = problems(self.output, self.bids, reference)
        assert not found, self.describe("\n".join(found))

    def describe(self, what: str) -> str:
        """Say what is wrong, with the steps that lead there."""
        messages = self.messages.read_text(errors="replace") if self.messages.exists() else ""
        return "\n".join([what, "history = History(tmp_path, finished)", *self.steps, "", messages[-1500:]])

    # ---- helpers

    def _note(self, method: str, *arguments: object, **named: object) -> None:
        given = [*map(repr, arguments), *(f"{name}={value!r}" for name, value in named.items())]
        self.steps.append(f"history.{method}({', '.join(given)})")

    def _write_settings(self, path: Path, variant: str) -> None:
        settings = _merged(yaml.safe_load(tiny_study.SETTINGS), VARIANTS[variant])
        path.write_text(yaml.safe_dump(settings))

    def start(self, stage: str, before: Callable[[], None] | None = None) -> Any:
        """Start a stage; `before` is called in its process."""
        name, _, variant = stage.partition(" with ")
        settings = self.settings
        if variant:
            settings = self.settings.with_stem(variant)
            self._write_settings(settings, variant)
        arguments = tiny_study.command(name, self.bids, self.output, settings)
        with self.messages.open("a") as file:
            file.write(f"--- {stage}\n")
        return forked.start(arguments, self.messages, before, stdout=self.printed)

    def _end(self, stage: str, process: Any, *, may_be_killed: bool = False) -> int:
        process.join(TIMEOUT_S)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(self.describe(f"{stage} did not end within {TIMEOUT_S} s"))
        text = self.messages.read_text(errors="replace")
        killed = may_be_killed and process.exitcode == -signal.SIGKILL
        assert killed or process.exitcode in EXIT_CODES, self.describe(f"{stage}: exit code {process.exitcode}")
        assert "Traceback" not in text and "internal error" not in text, self.describe(f"{stage}: no sentence")
        return process.exitcode


def _merged(settings: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(settings)
    for name, value in over.items():
        merged[name] = _merged(merged.get(name, {}), value) if isinstance(value, dict) else value
    return merged


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of `DISK_BYTES` at `folder`; an ordinary folder, where this user may not mount."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder]
    is_mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield folder
    finally:
        if is_mounted:
            subprocess.run(["umount", folder], check=True)


# ---- what must be there at the end


def files_of(output: Path) -> list[str]:
    """Return all files of an output folder, as paths in it."""
    return sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file() or path.is_symlink())


def outcome(output: Path, bids: Path) -> dict[str, str]:
    """Return a digest of each file that must not depend on what happened before, without times and ids.

    Left out are: ``.work`` (unfinished work, and fits that are kept), ``provenance.json`` (commands, times and versions
    of each call), the folder ``logs`` of a model (names contain the time and the process) and its lock. Of a model's
    table of epochs the wall times are left out; of a manifest ``made``, and the digests of files with wall times
    (``timed``); of the report its section on provenance, and the speed of the training.
    """
    contents = {}
    for name in files_of(output):
        parts = Path(name).parts
        if parts[0] not in (".work", "provenance.json") and "logs" not in parts and parts[-1] != ".lock":
            content = _without_times(name, (output / name).read_bytes(), bids)
            contents[name] = hashlib.sha256(content).hexdigest()
    return contents


def _without_times(name: str, content: bytes, bids: Path) -> bytes:
    if name == "dataset_description.json":
        return content.replace(bids.as_uri().encode(), b"BIDS")
    if name == "report.html":
        content = re.sub(rb'<section id="provenance">.*?</section>', b"", content, flags=re.DOTALL)
        return re.sub(rb"<td>[^<]*</td></tr>", b"</tr>", content)
    if name.startswith("models/") and name.endswith("/training.csv"):
        return b"\n".join(b",".join(line.split(b",")[:-2]) for line in content.splitlines())
    if name.startswith("manifests/"):
        manifest = json.loads(content)
        del manifest["made"], manifest["digest"]
        files = manifest["files"].items()
        manifest["files"] = [
            name if record.get("timed") or name == "report.html" else [name, record] for name, record in files
        ]
        # Contain times, and the place of the dataset.
        for name in ("provenance.json", "dataset_description.json"):
            manifest["inputs"].pop(name, None)
        return json.dumps(manifest).encode()
    return content


def problems(output: Path, bids: Path, reference: dict[str, str]) -> list[str]:
    """Say how an output folder differs from that of a clean run, and which of its files no manifest lists.

    Results that are no longer asked for may be there beside the others, each with a manifest of its own. Nobody reads
    them: what happened to their files does not matter.
    """
    found, listed = [], {}
    for path in sorted((output / "manifests").rglob("*.json")):
        manifest = path.relative_to(output).as_posix()
        for name, record in json.loads(path.read_text())["files"].items():
            listed[name] = manifest
            file = output / name
            is_same = file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == record["sha256"]
            if manifest in reference and not is_same:
                found.append(f"{name}: missing, or not what {manifest} lists")
    after = outcome(output, bids)
    found += [f"{name}: missing" for name in reference.keys() - after.keys()]
    found += [f"{name}: differs" for name in reference.keys() & after.keys() if after[name] != reference[name]]
    for name in files_of(output):
        if name in listed:
            if name not in reference and listed[name] in reference:
                found.append(f"{name}: a clean run does not make it")
        elif not _needs_no_manifest(Path(name), reference):
            found.append(f"{name}: no manifest lists it")
    return found


def _needs_no_manifest(path: Path, reference: dict[str, str]) -> bool:
    if path.parts[0] == "models":
        # Half a model of a seed that is no longer asked for is no result, and in nobody's way.
        seeds = {Path(name).parts[1] for name in reference if name.startswith("models/")}
        return "logs" in path.parts or path.name == ".lock" or path.parts[1] not in seeds
    return (
        path.parts[0] == ".work" or (path.parts[0] == "manifests" and path.suffix == ".json") or str(path) in SINGLETONS
    )


# ---- chance


def take_step(history: History, rng: random.Random, variants: Sequence[str]) -> None:
    """Let one thing happen to a study."""
    names = files_of(history.output) if history.output.is_dir() else []
    stage = rng.choice(history.stages)
    step = rng.choices(list(_CHANCES), list(_CHANCES.values()))[0]
    if step == "run":
        history.run(stage)
    elif step == "kill after":
        history.kill(stage, after_s=round(rng.uniform(0.05, 1.2), 3))
    elif step == "kill before":
        history.kill(stage, before_change=rng.randrange(40))
    elif step == "together":
        history.together(stage, rng.choice(history.stages), round(rng.uniform(0, 0.5), 3))
    elif step == "full disk":
        history.run_on_full_disk(stage, 4096 * rng.randrange(40))
    elif step == "delete" and names:
        history.delete(rng.choice(names))
    elif step == "flip" and names:
        history.flip(rng.choice(names), rng.randrange(2**16))
    elif step == "set":
        history.set(rng.choice(variants))
    elif step == "input":
        change = rng.choice(["table", "sidecar", "cut"])
        if change == "table":
            history.change_recording("02", rng.randrange(2))
        elif change == "sidecar":
            history.change_sidecar("02", 2.0)
        else:
            history.cut_recording("02")
    elif step == "move output" and history.output.is_dir():
        history.move_output()
    elif step == "move dataset":
        history.move_dataset()


_CHANCES = {
    **{"run": 2, "kill after": 3, "kill before": 3, "together": 2, "full disk": 3, "delete": 3, "flip": 3},
    **{"set": 3, "input": 2, "move output": 0.5, "move dataset": 0.5},
}
