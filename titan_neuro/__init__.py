"""Titan-Neuro: forecast whole fMRI recordings with a memory that learns at test time.

Where to begin:

- `titan_neuro.Study`: a whole study from Python: ``Study.open(bids_dir, output_dir)``, then ``prepare()``, ``train()``,
  ``evaluate()``, ``probe(name)`` and ``report()``.
- `titan_neuro.Forecaster` and `titan_neuro.ForecasterConfig`: the model alone, on NumPy arrays or tensors.
  ``fit`` takes a list of runs ``(time, features)``, ``step`` the next time points of one run ``(time, features)``, and
  ``forward`` a batch of runs ``(batch, time, features)``. ``features``, the content of the memories for a probe, takes
  the `Observation` that ``observe`` makes of a batch.
- `titan_neuro.LinearTokenizerConfig` and `titan_neuro.SwinTokenizerConfig`: the settings of its tokenizer,
  which reads features of any kind, or volumes.
- `titan_neuro.runs.InMemoryRun`: an array with the names of its subject and stimulus, for ``fit``.
- `titan_neuro.titans`: the memory of the Titans paper and its variants LMM, MAC, MAG and MAL; no fMRI in it.
- On the command line: ``titan-neuro --help``.

>>> from titan_neuro import Forecaster, ForecasterConfig, LinearTokenizerConfig
>>> model = Forecaster(ForecasterConfig(tokenizer=LinearTokenizerConfig()), n_features=200)
>>> model.fit([run_1, run_2])  # (time, 200), z-scored
>>> forecasts, state = model.step(new_run)  # (time, horizons, 200)

Each of them is loaded when it is first used, so that importing this package takes milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from titan_neuro import titans
    from titan_neuro.forecaster import Forecaster, ForecasterConfig, LinearTokenizerConfig, SwinTokenizerConfig
    from titan_neuro.study import Study

    __version__: str

_HOMES = {
    "Forecaster": "forecaster",
    "ForecasterConfig": "forecaster",
    "LinearTokenizerConfig": "forecaster",
    "Study": "study",
    "SwinTokenizerConfig": "forecaster",
}

__all__ = [
    "Forecaster",
    "ForecasterConfig",
    "LinearTokenizerConfig",
    "Study",
    "SwinTokenizerConfig",
    "__version__",
    "titans",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # Reading the installation's metadata takes longer than the rest of this file.
        from importlib.metadata import version

        return version("titan-neuro")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name == "titans":
        return importlib.import_module(f"{__name__}.titans")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
