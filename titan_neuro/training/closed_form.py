"""What a fold's models begin with: fitted in closed form once, kept in the work folder, shared by whoever needs it.

Seeds, comparison models, the processes of one training and the jobs of an array all begin with the same linear skip and
memories. The first that comes fits them, the others wait for its file. A training that is resumed does not fit them
again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from titan_neuro.files import file_lock, write_bytes
from titan_neuro.forecaster.forecaster import ForecasterConfig
from titan_neuro.forecaster.recall.fit import fit_recall
from titan_neuro.forecaster.recall.recall import Recall, RecallConfig
from titan_neuro.linear.autoregression import Autoregression, fit_autoregression
from titan_neuro.provenance import digest, versions
from titan_neuro.training.fold import FoldData

logger = logging.getLogger(__name__)

# Raised when the same runs and settings come to other numbers.
_METHOD_VERSION = 1
_Fitted = tuple[dict[str, Tensor], dict[str, Any]]


def fitted_linear_skip(data: FoldData, horizons: Sequence[int], *, work_dir: Path) -> Autoregression:
    """Fit the linear skip of the fold's models, once for all.

    It sees the validation runs too, as the AR baseline of this fold does: the learned part is judged against the very
    bar that it will be scored against.
    """

    def fit() -> _Fitted:
        fitted = fit_autoregression(data.fit_runs, tuple(horizons))
        tensors = {"coefficients": fitted.coefficients, "intercept": fitted.intercept}
        return tensors, {"order": fitted.order, "penalty": fitted.penalty}

    tensors, metadata = _once(work_dir, "linear", data, list(horizons), fit)
    return Autoregression(
        **tensors, horizons=tuple(horizons), order=tuple(metadata["order"]), penalty=tuple(metadata["penalty"])
    )


def fitted_recall(data: FoldData, model: ForecasterConfig, *, work_dir: Path) -> Recall | None:
    """Fit the memories that a model begins with, once for all seeds; None for a model without.

    To the training and validation runs, as the linear skip; a validation run is then read with what was fitted without
    it. Where test runs show what no training run did, no stimulus is remembered.
    """
    config = model.recall
    if config is None:
        return None
    # What is drawn here is not used (`Recall.take`), and must not shift what is drawn later.
    with torch.random.fork_rng(devices=[]):
        recall = config.build(
            horizons=model.horizons, n_features=data.space.n_features, context_width=model.backbone.dim
        )

    def fit() -> _Fitted:
        linear = fitted_linear_skip(data, model.horizons, work_dir=work_dir)
        is_shared = data.protocol == "subject"
        fit_recall(recall, data.fit_runs, linear.coefficients, linear.intercept, stimulus_is_shared=is_shared)
        tensors, runs = recall.fitted()
        return tensors, {"runs": runs}

    settings = [TypeAdapter(RecallConfig).dump_python(config, mode="json"), model.horizons, model.backbone.dim]
    tensors, metadata = _once(work_dir, "recall", data, [*settings, data.protocol], fit)
    recall.set_fitted(tensors, {key: tuple(place) for key, place in metadata["runs"].items()})
    return recall


def _once(work_dir: Path, name: str, data: FoldData, settings: Any, fit: Callable[[], _Fitted]) -> _Fitted:
    """Read what was fitted to these runs with these settings before, or fit it."""
    keys = [run.key for run in data.fit_runs]
    follows_from = [settings, keys, data.digests(), versions()["titan-neuro"], _METHOD_VERSION]
    path = work_dir / f"{name}-{digest(follows_from)[:12]}.safetensors"
    with file_lock(path, work_dir=work_dir):
        if path.is_file():
            try:
                return _read(path)
            except (SafetensorError, ValueError, KeyError) as error:
                logger.warning("%s is damaged (%s); it is fitted again.", path, error)
        _write(path, *fit())
        # Read back: whoever fitted it goes on with the same bits as whoever finds it.
        return _read(path)


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(whole, metadata={"metadata": json.dumps(metadata)}))


def _read(path: Path) -> _Fitted:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["metadata"])  # noqa: SIM118
