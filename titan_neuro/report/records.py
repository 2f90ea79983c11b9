"""The content of an output folder, as objects: tables, maps, results of probes, records of the stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from titan_neuro.evaluation.metrics_and_rows import Kind


@dataclass(frozen=True, kw_only=True)
class StatMap:
    """One map on disk: voxels (``.nii.gz``), vertices (``.dscalar.nii``, ``.func.gii``), or parcels (``.tsv``).

    Attributes
    ----------
    path : Path
        Of the two hemispheres' ``.func.gii``, the left one.
    image : Path or None
        Where parcels lie in the brain: an image beside the table.
    stat : str
        ``skillar``, ``r2`` or ``timescale``, or a statistic of a probe.
    model : str
        Name of the model in letters and digits (``titanmac``); empty for a map of a probe.
    probe : str
        Name of the probe in letters and digits (``contextlength``); empty for a map of the forecast.
    horizon : int
        Lead time in time points; 0 for a map of a probe.
    sidecar : dict
        The JSON beside the map.
    """

    path: Path
    image: Path | None = None
    stat: str
    model: str
    probe: str
    horizon: int
    sidecar: dict[str, Any]

    @property
    def images(self) -> list[Path]:
        """The files that show where values lie in the brain; none for parcels of which that is not known."""
        if self.is_parcels:
            return [self.image] if self.image else []
        return [self.path]

    @property
    def is_parcels(self) -> bool:
        """Whether the map is a table of parcels."""
        return self.path.name.endswith(".tsv")

    @property
    def unit(self) -> str:
        """What has a value in the map: ``voxels``, ``vertices`` (or ``grayordinates``), or ``parcels``."""
        if self.is_parcels:
            return "parcels"
        if self.path.name.endswith(".func.gii"):
            return "vertices"
        return "grayordinates" if self.path.name.endswith(".dscalar.nii") else "voxels"


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """The files of one probe.

    Attributes
    ----------
    name, question, summary : str
        The probe, its question, and its result in words.
    metadata : dict
        The JSON that the probe wrote: settings, tests, caveats.
    scores : pandas.DataFrame
        Columns of `titan_neuro.probing.tools.results.SCORES`.
    maps : tuple of StatMap
    """

    name: str
    question: str
    summary: str
    metadata: dict[str, Any]
    scores: pd.DataFrame
    maps: tuple[StatMap, ...]

    @property
    def x_label(self) -> str:
        """Title of the column `x`, with its unit."""
        described = self.metadata.get("x") or {}
        unit = f", {described['Units']}" if described.get("Units") else ""
        return f"{described.get('Description', 'x')}{unit}"


class Fold(NamedTuple):
    """Keys of the runs that a model was trained on, and of those that it was tested on."""

    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ForecastMetadata:
    """The JSON beside the forecast table.

    Attributes
    ----------
    ablations : str
        What memory, backbone and Swin encoder add, in one sentence; empty for a model without controls.
    summary : str
        Whether the study's model beats linear autoregression, in words.
    comparisons : list of str
        The comparisons of pairs of rows, in words.
    missing_ceilings : dict of str to str
        Noise ceilings that could not be estimated, and why.
    caveats : list of str
        Sentences without which the table must not be read.
    folds : tuple of Fold
        Runs of training and test.
    repetition_time_s : float
    normalization, space : str
        How time points were scaled, and the space or atlas of the features.
    """

    ablations: str
    summary: str
    comparisons: list[str]
    missing_ceilings: dict[str, str]
    caveats: list[str]
    folds: tuple[Fold, ...]
    repetition_time_s: float
    normalization: str
    space: str

    @property
    def tested(self) -> list[str]:
        """Keys of the runs that are scored."""
        return [key for fold in self.folds for key in fold.test]


@dataclass(frozen=True, kw_only=True)
class Results:
    """The content of one output folder; ``None`` or empty where a stage has not run.

    Attributes
    ----------
    name : str
        Name of the dataset.
    task : str
        Label of the task; empty where nothing was scored.
    prepared : dict of str to dict
        The JSON beside each prepared run, by the run's key (``sub-01_task-movie_run-1``).
    temporal_snr : dict of str to Path
        Image of the temporal signal-to-noise ratio of each prepared run that has one, by the run's key.
    scores, subjects, comparisons, ablations, curve : pandas.DataFrame or None
        The forecast table, the same per subject, pairs of its rows, what each part of the model adds, the
        context-length curve (its ``whole_run`` is bool).
    metadata : ForecastMetadata or None
        The JSON beside `scores`.
    high_motion, rollouts, residuals, ceilings : pandas.DataFrame or None
        Scores of the time points with high motion, of the rollouts, the autocorrelation of the errors, the noise
        ceilings.
    maps : tuple of StatMap
        Maps of the forecast, by name of file.
    timescale : StatMap or None
        Map of the context-length probe, in seconds.
    probes : tuple of ProbeResult
        The probes that wrote a table of scores, by name.
    surprise : pandas.DataFrame or None
        Measures of the surprise probe at every time point of every run; `usable` and the two kinds of boundaries are
        bool.
    reinstatement : pandas.DataFrame or None
        What the recall probe found in each subject.
    training : dict of str to pandas.DataFrame
        The epochs of the study's model, by seed and fold (``seed-0 fold-1``).
    config : str
        Text of ``config.resolved.yaml``.
    stages : dict of str to dict
        Records of ``provenance.json``, by name of stage.
    """

    name: str
    task: str
    prepared: dict[str, dict[str, Any]]
    temporal_snr: dict[str, Path]
    scores: pd.DataFrame | None
    metadata: ForecastMetadata | None
    subjects: pd.DataFrame | None
    comparisons: pd.DataFrame | None
    ablations: pd.DataFrame | None
    high_motion: pd.DataFrame | None
    rollouts: pd.DataFrame | None
    residuals: pd.DataFrame | None
    ceilings: pd.DataFrame | None
    maps: tuple[StatMap, ...]
    curve: pd.DataFrame | None
    timescale: StatMap | None
    probes: tuple[ProbeResult, ...]
    surprise: pd.DataFrame | None
    reinstatement: pd.DataFrame | None
    training: dict[str, pd.DataFrame]
    config: str
    stages: dict[str, dict[str, Any]]

    @property
    def has_epochs(self) -> bool:
        """Whether a model was trained by gradients; False where all that there are are the closed form alone."""
        return any(table["epoch"].max() > 0 for table in self.training.values())

    @property
    def main_model(self) -> str:
        """Name of the study's model; empty where the table has none."""
        models = [] if self.scores is None else list(self.scores.loc[self.scores["kind"] == Kind.MODEL, "model"])
        return str(models[0]) if models else ""
