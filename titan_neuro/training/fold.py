"""What a model of one fold is trained on, and what ties it to that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from titan_neuro.data.space import Space
from titan_neuro.data.splits import Fold, require_disjoint
from titan_neuro.data.store import RunView
from titan_neuro.provenance import digest


@dataclass(frozen=True, kw_only=True)
class FoldData:
    """The runs of a fold, seen through the study's mask.

    Raises
    ------
    MismatchError
        The parts of the fold share a subject, or what else its protocol holds apart.
    """

    fold: Fold
    protocol: str
    space: Space
    runs: Mapping[str, RunView]

    def __post_init__(self) -> None:
        require_disjoint(self.fold, self.protocol, self.runs)

    def select(self, keys: Sequence[str]) -> list[RunView]:
        """Return the runs of these keys."""
        return [self.runs[key] for key in keys]

    def identity(self) -> dict[str, Any]:
        """What a model trained on these data is bound to."""
        any_run = self.runs[self.fold.train[0]]
        return data_identity(self.space, any_run)

    @property
    def fit_runs(self) -> list[RunView]:
        """Runs of training and validation: what is fitted in closed form sees both."""
        return self.select((*self.fold.train, *self.fold.validation))

    def digests(self) -> dict[str, str]:
        """What is read while training, by name: the runs, as they lie on the disk, and what they are seen through."""
        runs = {run.key: digest([run.store.record["fingerprint"], run.store.sha256]) for run in self.fit_runs}
        return {**runs, "the grid and how runs were prepared": digest(self.identity())}

    @property
    def caveats(self) -> list[str]:
        """Sentences that every table made from these runs must bear, each once."""
        return list(dict.fromkeys(caveat for run in self.runs.values() for caveat in run.store.caveats))


def data_identity(space: Space, run: RunView) -> dict[str, Any]:
    """Describe data in JSON: space (grid and mask, or parcels), repetition time, how they were prepared."""
    return {**space.identity(), "repetition_time": run.repetition_time, **run.store.preparation}
