"""Stores of small runs, and one fold of four of them."""

from pathlib import Path

import numpy as np

from titan_neuro.data.space import Space
from titan_neuro.data.splits import Fold
from titan_neuro.data.store import RunHeader, RunStore, write_run
from titan_neuro.training import FoldData


def write_small_run(path: Path, number: int, series: np.ndarray, space: Space, **changes: object) -> None:
    """Write the run of one subject; an existing one is replaced. `changes` are fields of its header."""
    header = {
        "key": f"sub-0{number}_task-x",
        "entities": {"subject": f"0{number}", "task": "x"},
        "repetition_time": 1.0,
        "space": space,
        "scored": np.ones(len(series), dtype=bool),
        "record": {"fingerprint": str(number), "normalizer": {"method": "none"}},
    }
    write_run(path, RunHeader(**{**header, **changes}), [series])


def read_small_fold(paths: list[Path], space: Space) -> FoldData:
    """Return a fold of runs: the last for the test, the one before for the validation, the others for training."""
    views = [RunStore(path).within(space) for path in paths]
    runs = {view.key: view for view in views}
    keys = tuple(runs)
    return FoldData(fold=Fold(1, keys[:-2], keys[-2:-1], keys[-1:]), protocol="subject", space=space, runs=runs)
