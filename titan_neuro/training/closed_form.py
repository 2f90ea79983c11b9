"""The parts of a forecaster that are fitted in closed form: fitted once for each fold, kept in the work folder.

Seeds, comparison models, the processes of one training and the jobs of an array all start from the same linear skip,
recall and keys of the memory. The first that needs them fits them, the others wait for its file. A resumed training
does not fit them again.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from tqdm import tqdm

from titan_neuro.forecaster import ForecasterConfig, LookaheadConfig, RecallConfig
from titan_neuro.forecaster.fit import ClosedFormFit, fit_closed_form
from titan_neuro.linear.autoregression import Autoregression, fit_autoregression
from titan_neuro.provenance import digest, versions
from titan_neuro.training.fold import FoldData
from titan_neuro.training.start import Start
from titan_neuro.training.tensors import TensorsAndMetadata, cached_tensors

# Raised when the same runs and settings lead to other numbers.
_METHOD_VERSION = 10


def fitted_linear_skip(data: FoldData, horizons: Sequence[int], *, work_dir: Path) -> Autoregression:
    """Return the linear skip of the fold's models; fit it where no training did so before.

    It is fitted to the training and validation runs, as the AR baseline of the fold is: the learned part is validated
    against the same autoregression that it is scored against.

    Parameters
    ----------
    data : FoldData
    horizons : sequence of int
        Lead times, in time points.
    work_dir : Path
    """

    def fit() -> TensorsAndMetadata:
        progress = functools.partial(tqdm, desc="autoregression", unit="run", disable=None, leave=False)
        fitted = fit_autoregression(data.fit_runs, tuple(horizons), progress=progress)
        tensors = {"coefficients": fitted.coefficients, "intercept": fitted.intercept}
        return tensors, {"order": fitted.order, "penalty": fitted.penalty}

    tensors, metadata = cached_tensors(work_dir, "linear", _fingerprint(data, list(horizons)), fit)
    return Autoregression(
        **tensors, horizons=tuple(horizons), order=tuple(metadata["order"]), penalty=tuple(metadata["penalty"])
    )


def fitted_closed_form(
    data: FoldData, model: ForecasterConfig, *, work_dir: Path, start: Start | None = None
) -> ClosedFormFit | None:
    """Return the fit of a model's recall and memory, made once for all seeds; None for a model without recall.

    It is fitted to the training and validation runs, as the linear skip is. Each of these runs is later read with the
    fit to the other runs (`Forecaster.held_out_index`). Where the test runs have another stimulus than the training
    runs (protocols other than ``subject``), the recall has no stimulus memory.

    Parameters
    ----------
    data : FoldData
    model : ForecasterConfig
    work_dir : Path
    start : Start, optional
        Model that the fit starts from.
    """
    recall, memory = model.recall, model.memory
    if recall is None:
        return None

    def fit() -> TensorsAndMetadata:
        linear = fitted_linear_skip(data, model.horizons, work_dir=work_dir)
        is_shared = data.protocol == "subject"
        given = None if start is None else start.fit
        fitted = fit_closed_form(recall, memory, data.fit_runs, linear, stimulus_is_shared=is_shared, start=given)
        return fitted.tensors(), {"runs": fitted.runs}

    sizes = TypeAdapter(tuple[RecallConfig, LookaheadConfig | None]).dump_python((recall, memory), mode="json")
    settings = [sizes, model.horizons, data.protocol, *([] if start is None else [start.record["sha256"]])]
    tensors, metadata = cached_tensors(work_dir, "closed-form", _fingerprint(data, settings), fit)
    return ClosedFormFit.from_tensors(tensors, {key: tuple(place) for key, place in metadata["runs"].items()})


def _fingerprint(data: FoldData, settings: Any) -> str:
    """Return the digest of the runs and settings that a fit depends on."""
    keys = [run.key for run in data.fit_runs]
    return digest([settings, keys, data.input_digests(), versions()["titan-neuro"], _METHOD_VERSION])
