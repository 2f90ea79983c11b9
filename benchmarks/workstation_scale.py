"""Hours of ds003017 on a workstation, from studies of two sizes that `workstation.py` has measured; for docs/scale.md.

What a part takes is a constant for each fold (or for the study), and a rate for each volume that it reads: of those
that are fitted on, validated or tested. Both follow from two studies, a short and a longer one; a third is compared.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from workstation import FITS, PROBES

from titan_neuro.evaluation.formatting import markdown_table

# Parts of the stages, by what they grow with: volumes of all folds that are fitted on, validated or tested, or of all
# runs. Those of the last two have one constant for the study, the others one for each fold.
PARTS = {
    "linear skip": "fit",
    "closed form": "fit",
    "validation, saving": "validation",
    "fits of baselines": "fit",
    "check of causality": "fold",
    "scores of test runs": "test",
    "ceilings, tables, maps": "runs",
    **{f"probe {name}": "test" for name in PROBES},
    "report": "study",
}
# Stages, and the parts that they consist of.
STAGES = {
    "train": ("linear skip", "closed form", "validation, saving"),
    "evaluate": ("fits of baselines", "check of causality", "scores of test runs", "ceilings, tables, maps"),
    **{name: (name,) for name in PARTS if name.startswith("probe ") or name == "report"},
}
ROLES = ("train", "validation", "test")
_VOLUMES = {
    "fit": "of training and validation runs, all folds",
    "validation": "of validation runs, all folds",
    "test": "of test runs, all folds",
    "runs": "of all runs",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A study's size, and where it was measured, what its parts took.

    Attributes
    ----------
    n_folds : int
    volumes : mapping of str to int
        By what parts grow with (`PARTS`), over all folds.
    cpu_s : mapping of str to float
        Processor time of each part, over all folds.
    stages : mapping of str to mapping
        Of each stage ``cpu_s``, ``wall_s`` and ``peak_bytes``.
    """

    n_folds: int
    volumes: Mapping[str, int]
    cpu_s: Mapping[str, float] = dataclasses.field(default_factory=dict)
    stages: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_folds(cls, train: Sequence[int], validation: Sequence[int], test: Sequence[int], n_runs: int) -> Study:
        """Return a study with so many volumes in the parts of each fold, and in all its runs."""
        volumes = {"validation": sum(validation), "test": sum(test), "runs": n_runs}
        return cls(n_folds=len(test), volumes={**volumes, "fit": sum(train) + sum(validation)})

    @classmethod
    def measured(cls, results: Sequence[Mapping[str, Any]]) -> Study:
        """Read the results of `workstation.py`."""
        stages = {row["row"]: row["details"] for row in results}
        folds = stages.pop("volumes")
        size = cls.of_folds(folds["train"], folds["validation"], folds["test"], folds["runs"])
        return dataclasses.replace(size, stages=stages, cpu_s=_parts_of(stages))


def _parts_of(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Add up the steps of `train` and `evaluate` by part; a probe and the report are parts of their own."""
    parts: dict[str, float] = {}
    for name, stage in stages.items():
        if name in PARTS:
            parts[name] = stage["cpu_s"]
        if name not in ("train", "evaluate"):
            continue
        ends = [(None, 0.0), *stage["steps"], (None, stage["cpu_s"])]
        for (_, start), (step, end) in itertools.pairwise(ends):
            part = _part_of_step(name, step)
            parts[part] = parts.get(part, 0.0) + end - start
    return parts


def _part_of_step(stage: str, step: str | None) -> str:
    """Part to which the time up to the end of a step belongs; None: up to the end of the stage."""
    if stage == "train":
        return step if step in FITS.values() else "validation, saving"
    if step is None:
        return "ceilings, tables, maps"
    if step.endswith("every row is causal"):
        return "check of causality"
    return "fits of baselines" if step.endswith("is fitted") else "scores of test runs"


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds of a part: a constant for each fold or for the study, and a rate for each volume."""

    constant_s: float
    volume_s: float


def costs(short: Study, long: Study) -> dict[str, Cost]:
    """Lines through the two studies, none of which falls."""
    found = {}
    for part, grows_with in PARTS.items():
        n_short, n_long = (_n_constants(study, grows_with) for study in (short, long))
        per_short, per_long = short.cpu_s[part] / n_short, long.cpu_s[part] / n_long
        if grows_with not in long.volumes:
            found[part] = Cost(max(per_short, per_long), 0.0)
            continue
        volumes = [study.volumes[grows_with] / n for study, n in ((short, n_short), (long, n_long))]
        rate = max(0.0, (per_long - per_short) / (volumes[1] - volumes[0]))
        rate = min(rate, per_long / volumes[1])
        found[part] = Cost(per_long - rate * volumes[1], rate)
    return found


def _n_constants(study: Study, grows_with: str) -> int:
    return 1 if grows_with in ("runs", "study") else study.n_folds


def seconds(study: Study, by_part: Mapping[str, Cost]) -> dict[str, float]:
    """Processor time of each part of a study."""
    found = {}
    for part, cost in by_part.items():
        constants = cost.constant_s * _n_constants(study, PARTS[part])
        found[part] = constants + cost.volume_s * study.volumes.get(PARTS[part], 0)
    return found


def formula_table(study: Study, by_part: Mapping[str, Cost], prepare_s: float) -> str:
    """Hours of a study on one core, part by part; `prepare_s` is what preparing its runs takes."""
    taken = seconds(study, by_part)
    rows = [["prepare, with transforms", "volumes x p + 125 runs x q", "-", f"{prepare_s / 3600:.2f} h"]]
    for part, cost in by_part.items():
        grows_with = PARTS[part]
        n_constants, n_volumes = _n_constants(study, grows_with), study.volumes.get(grows_with)
        formula = f"{n_constants} x {cost.constant_s:.0f} s"
        if n_volumes is not None:
            formula += f" + {n_volumes:,} x {1e3 * cost.volume_s:.1f} ms"
        rows.append([part, formula, _VOLUMES.get(grows_with, "-"), f"{taken[part] / 3600:.2f} h"])
    total = (prepare_s + sum(taken.values())) / 3600
    rows.append(["**all, one core**", "sum", "-", f"**{total:.1f} h**"])
    return markdown_table(["part", "formula", "volumes are", "hours of one core"], rows)


def check_table(study: Study, by_part: Mapping[str, Cost]) -> str:
    """What the stages of a measured study took beside the formula."""
    expected = dict.fromkeys((name for name in study.stages if name in STAGES), 0.0)
    for part, taken in seconds(study, by_part).items():
        stage = next(name for name in STAGES if part in STAGES[name])
        if stage in expected:
            expected[stage] += taken
    found = {name: study.stages[name]["cpu_s"] for name in expected}
    rows = [
        [name, f"{expected[name]:,.0f} s", f"{found[name]:,.0f} s", f"{found[name] / expected[name]:.2f}"]
        for name in expected
    ]
    total, measured = sum(expected.values()), sum(found.values())
    rows.append(["**all of these**", f"{total:,.0f} s", f"{measured:,.0f} s", f"**{measured / total:.2f}**"])
    return markdown_table(["stage", "CPU by the formula", "CPU measured", "measured / formula"], rows)


def stages_table(study: Study) -> str:
    """Processor time, time by the clock, and memory of each stage of a measured study."""
    rows = [
        [name, f"{stage['cpu_s']:,.0f} s", f"{stage['wall_s']:,.0f} s", f"{stage['peak_bytes'] / 1e9:.1f} GB"]
        for name, stage in study.stages.items()
    ]
    cpu, wall = (sum(stage[key] for stage in study.stages.values()) for key in ("cpu_s", "wall_s"))
    peak = max(stage["peak_bytes"] for stage in study.stages.values())
    rows.append(["**all**", f"{cpu:,.0f} s", f"{wall:,.0f} s", f"{peak / 1e9:.1f} GB"])
    return markdown_table(["stage", "CPU", "wall-clock time", "peak memory"], rows)
