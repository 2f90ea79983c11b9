"""The data of one fold, and the identity of these data in the record of a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from titan_neuro.data.space import Space
from titan_neuro.data.splits import Fold, require_disjoint
from titan_neuro.data.store import RunView
from titan_neuro.errors import list_names
from titan_neuro.forecaster import ForecasterConfig
from titan_neuro.manifests import ResultOf
from titan_neuro.provenance import digest, versions
from titan_neuro.training.config import TrainingConfig
from titan_neuro.training.start import start_digest

# Raised when the same settings and data lead to other weights: existing models are then trained again.
_METHOD_VERSION = 10
# Settings that change the weights by rounding errors only; and where the model lies whose content is an input.
_SETTINGS_WITHOUT_EFFECT = ("checkpoint_every_s", "gradient_checkpointing", "strategy", "start")


@dataclass(frozen=True, kw_only=True)
class FoldData:
    """The runs of a fold, read through the mask that all runs of the study share.

    Attributes
    ----------
    fold : Fold
        Keys of the training, validation and test runs.
    protocol : {"subject", "run", "strict"}
        How the runs were split.
    space : Space
        Grid and mask, or parcels.
    runs : mapping of str to RunView
        All runs of the study that some fold tests or trains on, by key.
    set_aside : sequence of RunView
        Runs of the study that no fold trains on or tests; only a probe reads them.
    dataset : mapping, optional
        Name and, where it has one, DOI of the dataset, as :func:`titan_neuro.data.bids.output.source_dataset` returns
        them; None where that is not known.

    Raises
    ------
    MismatchError
        Two parts of the fold share a subject or a stimulus that the protocol keeps separate.
    """

    fold: Fold
    protocol: str
    space: Space
    runs: Mapping[str, RunView]
    set_aside: Sequence[RunView] = ()
    dataset: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        require_disjoint(self.fold, self.protocol, self.runs)

    def __str__(self) -> str:
        """One line: which runs the fold trains on, chooses the epoch by, and tests."""
        parts = (self.fold.train, self.fold.validation, self.fold.test)
        train, validation, test = (", ".join(keys) or "none" for keys in parts)
        return f"Fold {self.fold.number} (by {self.protocol}): train on {train}; choose by {validation}; test {test}"

    def select(self, keys: Sequence[str]) -> list[RunView]:
        """Return the runs of these keys."""
        return [self.runs[key] for key in keys]

    @property
    def fit_runs(self) -> list[RunView]:
        """Training and validation runs: closed-form fits use both."""
        return self.select((*self.fold.train, *self.fold.validation))

    def identity(self) -> dict[str, Any]:
        """Return what a model trained on these data is bound to; see :func:`data_identity`."""
        return data_identity(self.space, self.runs[self.fold.train[0]])

    def input_digests(self) -> dict[str, str]:
        """Return a digest of each training and validation run as stored, and one of grid and preparation, by name."""
        runs = {run.key: run_digest(run) for run in self.fit_runs}
        return {**runs, "the grid and how runs were prepared": digest(self.identity())}

    @property
    def caveats(self) -> list[str]:
        """Sentences that every table made from these runs must carry, without repeats."""
        caveats = dict.fromkeys(caveat for run in self.runs.values() for caveat in run.store.caveats)
        if lost := self.space.lost_parcels:
            n_parcels = len(self.space.parcels) + len(lost)
            caveats[
                f"{len(lost)} of {n_parcels} parcels are left out, which not all runs have: {list_names(lost)}."
            ] = None
        return list(caveats)


def run_digest(run: RunView) -> str:
    """Return a digest of a run as stored: of what it was prepared from, and of all that the store holds."""
    return digest([run.store.record["fingerprint"], run.store.sha256])


def data_identity(space: Space, run: RunView) -> dict[str, Any]:
    """Describe data in JSON: space (grid and mask, or parcels), repetition time in s, settings of the preparation."""
    return {**space.identity(), "repetition_time": run.repetition_time, **run.store.preparation}


def trained_result(
    data: FoldData, model: ForecasterConfig, training: TrainingConfig, seed: int, *, root: Path
) -> ResultOf:
    """Return what the trained model of a fold follows from: its manifest.

    Parameters
    ----------
    data : FoldData
    model, training : ForecasterConfig, TrainingConfig
    seed : int
    root : Path
        The output folder, whose ``manifests/`` has or will have it.
    """
    start = start_digest(training)
    training_settings = TypeAdapter(TrainingConfig).dump_python(training, mode="json")
    return ResultOf(
        root=root,
        name=f"train/seed-{seed}_fold-{data.fold.number}_{model.backbone.name}",
        method=_METHOD_VERSION,
        settings={
            "model": TypeAdapter(ForecasterConfig).dump_python(model, mode="json"),
            "training": {
                name: value for name, value in training_settings.items() if name not in _SETTINGS_WITHOUT_EFFECT
            },
            "seed": seed,
            "protocol": data.protocol,
            "fold": {
                "number": data.fold.number,
                "train": list(data.fold.train),
                "validation": list(data.fold.validation),
            },
            # Another version may build another model from the same settings.
            "version": versions()["titan-neuro"],
        },
        inputs={**data.input_digests(), **({} if start is None else {"the model that training starts from": start})},
    )
