"""What the benchmarks share: how time and memory are measured, and how a result is judged, printed and kept.

A benchmark is a script of this folder, run as ``python benchmarks/NAME.py``; it imports this file as ``common``.
"""

from __future__ import annotations

import ctypes
import dataclasses
import datetime
import gc
import inspect
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

import torch

from titan_neuro.errors import TitanNeuroError
from titan_neuro.files import write_json, write_text
from titan_neuro.provenance import commit, versions

ROOT = Path(__file__).resolve().parents[1]
# The study of ds003017.
BUDAPEST = ROOT / "pipelines" / "budapest.yaml"
# Each tensor has pages of its own, which go back when it does: resident is what is in use. A pooled heap
# also keeps gaps, more of them the longer it is used, whether or not anything grows.
UNPOOLED_HEAP = {"MALLOC_MMAP_THRESHOLD_": "32768", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"}
_CHILD = (
    "import importlib, json, sys; sys.path.insert(0, sys.argv[1]); "
    "function = getattr(importlib.import_module(sys.argv[2]), sys.argv[3]); "
    "print(json.dumps(function(**json.loads(sys.argv[4]))))"
)


class BenchmarkError(TitanNeuroError):
    """A benchmark can't run here, or what it would time is wrong."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One line of a benchmark's table.

    Attributes
    ----------
    row : str
        Row of the table that it belongs to.
    case : str
        What was measured, in words.
    found : float or None
        None where it could not be measured; `note` then says why.
    reach, aim : float or None
        What has to be found, and what would be better; None where a number stands beside another for comparison.
    is_lower_better : bool
        Whether `reach` and `aim` are upper bounds.
    note : str
        One remark for the reader.
    details : dict
        What `found` was computed from (JSON).
    """

    row: str
    case: str
    found: float | None
    reach: float | None = None
    aim: float | None = None
    is_lower_better: bool = False
    note: str = ""
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def met(self) -> str:
        """``aim``, ``reach``, ``no``, ``not measured``, or ``-`` where nothing is demanded.

        What is judged is the number that the table shows, rounded to two decimals: more is noise.
        """
        if self.found is None:
            return "not measured"
        goals = {"aim": self.aim, "reach": self.reach}
        if all(goal is None for goal in goals.values()):
            return "-"
        sign = -1 if self.is_lower_better else 1
        for name, goal in goals.items():
            if goal is not None and sign * round(self.found, 2) >= sign * goal:
                return name
        return "no"

    def cells(self) -> list[str]:
        """What the table shows of it."""
        return [self.row, self.case, *map(_number, (self.reach, self.aim, self.found)), self.met, self.note]


HEADER = ["row", "case", "reach", "aim", "found", "met", "note"]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"


def table(results: Sequence[Result]) -> str:
    """Lay out all results as a Markdown table."""
    # Not at the top: it takes seconds, and peak memory is measured in processes that import this module.
    from titan_neuro.evaluation.formatting import markdown_table

    return markdown_table(HEADER, [result.cells() for result in results])


def write_results(target: Path, title: str, results: Sequence[Result], metadata: Mapping[str, Any]) -> None:
    """Write `target` (JSON) and the same beside it as Markdown, each under a temporary name first.

    Parameters
    ----------
    target : Path
        Ends in ``.json``.
    title : str
        Heading of the Markdown page.
    results : sequence of Result
    metadata : mapping
        What `provenance` returned, and how it was measured (JSON).
    """
    lines = [dataclasses.asdict(result) | {"met": result.met} for result in results]
    write_json(target, {"title": title, **metadata, "results": lines})
    told = "\n".join(f"- {name}: {_in_words(value)}" for name, value in metadata.items())
    write_text(target.with_suffix(".md"), f"# {title}\n\n{told}\n\n{table(results)}\n")


def run_benchmark(
    title: str,
    output: Path,
    measure: Callable[[], tuple[Sequence[Result], Mapping[str, Any]]],
    argv: Sequence[str] | None,
    packages: Sequence[str] = (),
) -> int:
    """Measure, write the results and print them: what every script's `main` does after reading its arguments.

    Parameters
    ----------
    title : str
        Heading of the page.
    output : Path
        File of the results, ends in ``.json``.
    measure : callable
        Returns the results, and how they were measured (JSON).
    argv : sequence of str, optional
        The script's arguments without its name; by default those of the process.
    packages : sequence of str
        See `provenance`.

    Returns
    -------
    int
        Exit code: 0, or that of the error that is printed.
    """
    # Before it is measured, so that the date and the commit are those of the start.
    metadata = provenance(sys.argv[1:] if argv is None else argv, packages)
    try:
        results, how = measure()
        write_results(output, title, results, metadata | dict(how))
    except TitanNeuroError as error:
        print(f"{title}: {error}", file=sys.stderr)
        return error.exit_code
    print(table(results))
    return 0


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(part)}" for name, part in value.items())
    return "none" if value is None else str(value)


def provenance(arguments: Sequence[str], packages: Sequence[str] = ()) -> dict[str, Any]:
    """Date, command line, commit, machine and versions; without a path of this machine.

    Parameters
    ----------
    arguments : sequence of str
        The script's own, without its name.
    packages : sequence of str
        Peers, whose versions matter besides those of `titan_neuro.provenance`.
    """
    source = commit()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_without_folders, arguments)]),
        "commit": source and source.removesuffix("-dirty"),
        "is_dirty": source and source.endswith("-dirty"),
        "machine": _machine(),
        "versions": versions() | _versions_of(packages),
    }


def _without_folders(argument: str) -> str:
    option, separator, value = argument.rpartition("=")
    return f"{option}{separator}{PurePath(value).name if PurePath(value).is_absolute() else value}"


def _versions_of(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _machine() -> dict[str, Any]:
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def use_one_thread() -> None:
    """Make torch compute in one thread.

    Raises
    ------
    BenchmarkError
        It does not.
    """
    torch.set_num_threads(1)
    if torch.get_num_threads() != 1:
        raise BenchmarkError(f"threads: expected 1, found {torch.get_num_threads()}.", "Run with OMP_NUM_THREADS=1.")


def warm_heap() -> None:
    """Raise glibc's threshold above which a tensor is mapped anew, and cleared by the kernel, at each allocation.

    It rises to the size of a mapped block that is freed, to 32 MiB at most. A training process gets there by itself;
    here both sides shall work with such a heap from the first round on, whichever comes first.
    """
    torch.empty(30 * 2**20, dtype=torch.uint8).fill_(0)


def unpool_heap() -> None:
    """Make glibc do from here on what `UNPOOLED_HEAP` makes it do in a new process."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD, as malloc.h numbers them.
        for option, value in ((-3, 32768), (-1, 0), (-2, 0)):
            libc.mallopt(option, value)


def cpu_seconds(call: Callable[[], object]) -> float:
    """Processor time of one call, in this process."""
    start = time.process_time()
    call()
    return time.process_time() - start


def cuda_seconds(call: Callable[[], object]) -> float:
    """Time that one call keeps the GPU, or keeps it waiting, by its own clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def alternate(
    calls: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    min_rounds: int = 3,
    clock: Callable[[Callable[[], object]], float] = cpu_seconds,
) -> dict[str, dict[str, float]]:
    """Time several calls in turns, so that what slows the machine for a while slows all of them.

    Parameters
    ----------
    calls : mapping
        What to time, by name. Before each timed call comes one that is not, so that it finds caches and heap as a call
        of its own kind leaves them, not as the other side does.
    seconds : float
        After this time no round is begun.
    min_rounds : int
        Rounds that are run even so.
    clock : callable
        `cpu_seconds` or `cuda_seconds`.

    Returns
    -------
    dict
        For each name ``min_s``, ``median_s`` and ``n_rounds``. Compare minima: noise only ever adds.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    # What is here already need not be looked through after each call.
    gc.freeze()
    gc.disable()
    try:
        begin, n_rounds = time.monotonic(), 0
        while n_rounds < min_rounds or time.monotonic() - begin < seconds:
            for name, call in calls.items():
                call()
                gc.collect()
                times[name].append(clock(call))
            n_rounds += 1
    finally:
        gc.enable()
        gc.unfreeze()
    return {name: summary(series) for name, series in times.items()}


def summary(times_s: Sequence[float]) -> dict[str, float]:
    """Least and middle of a series of times, and its length."""
    return {"min_s": min(times_s), "median_s": statistics.median(times_s), "n_rounds": len(times_s)}


def peak_growth_bytes(call: Callable[[], object]) -> int:
    """How far a call raises the process's resident memory, at its peak, above what is resident before it.

    Run it in a fresh process (`in_fresh_process`), after a small call of the same kind: what is loaded once is no part
    of it, nor is free memory that the heap still held, since it is trimmed first.

    Raises
    ------
    BenchmarkError
        Not on Linux, or the peak can't be reset.
    """
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        raise BenchmarkError(f"peak memory can't be measured here: {error}.", "It takes Linux with glibc.") from error
    before = _status_bytes("VmRSS")
    call()
    return _status_bytes("VmHWM") - before


def resident_bytes_at_peak() -> int:
    """Greatest resident memory of this process so far, or since `peak_growth_bytes` was called."""
    return _status_bytes("VmHWM")


def forget_files(paths: Iterable[Path]) -> None:
    """Take files out of the system's cache, so that the next read comes from the disk."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            # Pages that are not on the disk yet stay.
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def disk_bytes() -> int:
    """Bytes that this process has had fetched from the disk so far.

    Raises
    ------
    BenchmarkError
        Not on Linux.
    """
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError as error:
        raise BenchmarkError(f"what is read from the disk can't be counted: {error}.", "It takes Linux.") from error
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


def _status_bytes(field: str) -> int:
    return next(int(line.split()[1]) * 1024 for line in _lines("/proc/self/status") if line.startswith(f"{field}:"))


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.is_file() else []


def in_fresh_process(
    function: Callable[..., Any], *, environment: Mapping[str, str] | None = None, **arguments: Any
) -> Any:
    """Call a benchmark's function in a new Python process with one thread; arguments and result pass as JSON.

    `environment` is added to this process's own.

    Raises
    ------
    BenchmarkError
        The process failed, for example for lack of memory.
    """
    source = Path(inspect.getfile(function)).resolve()
    command = [sys.executable, "-W", "ignore", "-c", _CHILD, str(source.parent), source.stem, function.__name__]
    done = subprocess.run(
        [*command, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "benchmarks")} | dict(environment or {}),
    )
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-5:])
        raise BenchmarkError(
            f"{function.__name__}({arguments}): its process ended with code {done.returncode}.\n{tail}",
            "Code -9 means that the system stopped it: it takes more memory than is free.",
        )
    return json.loads(done.stdout.splitlines()[-1])
