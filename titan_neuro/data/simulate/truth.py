"""What was planted, for whoever scores a model or a probe: ``truth.json`` and ``derivatives/truth``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.simulate.config import SimulateConfig, screenings
from titan_neuro.data.simulate.images import write_image
from titan_neuro.data.simulate.names import MINIMAL, SPACE, TARGET, TASK, description, run_stem, subject_name, table
from titan_neuro.data.simulate.recall import Recall
from titan_neuro.data.simulate.scanner import Template
from titan_neuro.data.simulate.signal import STREAMS
from titan_neuro.files import write_json, write_text

_FOLDER = "derivatives/truth"
_REGION_IMAGE = f"space-{SPACE}_desc-region_dseg.nii.gz"
_RECALL_IMAGE = f"space-{SPACE}_desc-recall_dseg.nii.gz"
_STIMULUS_TABLE = f"task-{TASK}_desc-film_timeseries.tsv"
_CUES = "desc-cue_events"
_NEWS = "desc-news_timeseries"


def write_truth(
    root: Path,
    config: SimulateConfig,
    template: Template,
    latents: np.ndarray,
    recall: Recall | None,
    identity: dict[str, Any],
) -> None:
    """Write ``truth.json`` and the images and tables that it names.

    Parameters
    ----------
    root : Path
        The synthetic dataset.
    config : SimulateConfig
        Of the synthetic dataset.
    template : Template
        Where signals are planted.
    latents : numpy.ndarray
        `stimulus_latents`.
    recall : Recall or None
        What is planted for a memory.
    identity : dict
        What makes this synthetic dataset this synthetic dataset.
    """
    folder = root / _FOLDER
    write_json(folder / "dataset_description.json", description("What was planted", "derivative"))
    regions = _regions(config, template)
    write_image(folder / _REGION_IMAGE, template.grid, [(template.regions + 1).astype(np.uint8)])
    rows = [["index", "name"], *([str(region["index"]), region["name"]] for region in regions)]
    write_text(folder / "desc-region_dseg.tsv", table(rows))
    _write_stimulus(folder, config, [region["name"] for region in regions], latents)
    if recall is not None:
        _write_recall(folder, config, template, recall)
    content = {
        "simulated": identity,
        "model": "The formula and every setting are explained in titan_neuro.data.simulate.signal.",
        "variance_fractions": {
            "stimulus": config.stimulus_fraction,
            "spontaneous": config.spontaneous_fraction,
            "drift": config.drift_fraction,
            "thermal": config.thermal_fraction,
        },
        "regions": regions,
        "region_image": f"{_FOLDER}/{_REGION_IMAGE}",
        "stimulus_latents": f"{_FOLDER}/{_STIMULUS_TABLE}",
        "units": {"stimulus_start": "s of movie time", "n_volumes, fixation, overlap, movie": "volumes of 1 s"},
        "runs": [asdict(run) for run in screenings(config)],
        "associations": _associations(config, recall),
        "delayed_responses": _delayed_responses(config, recall),
        "transforms": _transforms(config),
    }
    write_json(root / "truth.json", content)


def _write_stimulus(folder: Path, config: SimulateConfig, names: list[str], latents: np.ndarray) -> None:
    first_second = screenings(config)[0].stimulus_start
    rows = [[str(first_second + second), *(f"{value:.6f}" for value in row)] for second, row in enumerate(latents)]
    write_text(folder / _STIMULUS_TABLE, table([["film_time", *names], *rows]))
    columns = {
        "film_time": {"Description": "Time in the movie", "Units": "s"},
        **{name: {"Description": f"What the movie plants in {name}, of expected variance 1"} for name in names},
    }
    write_json(folder / _STIMULUS_TABLE.replace(".tsv", ".json"), {"SamplingFrequency": 1, **columns})


def _write_recall(folder: Path, config: SimulateConfig, template: Template, recall: Recall) -> None:
    names = list(recall.places)
    labels = sum((index + 1) * voxels.astype(np.uint8) for index, voxels in enumerate(recall.places.values()))
    write_image(folder / _RECALL_IMAGE, template.grid, [np.asarray(labels, dtype=np.uint8)])
    rows = [[str(index + 1), name] for index, name in enumerate(names)]
    write_text(folder / "desc-recall_dseg.tsv", table([["index", "name"], *rows]))
    for name, patterns in recall.patterns_by_set().items():
        path = folder / _pattern_image(name)
        write_image(path, template.grid, patterns.astype(np.float32), n_volumes=len(patterns))
    if config.association_fraction > 0:
        _write_cues(folder, config, recall)
    if config.delayed_response_fraction > 0:
        _write_news(folder, config, recall)


def _write_cues(folder: Path, config: SimulateConfig, recall: Recall) -> None:
    sidecar = {
        "onset": {"Description": "First volume that shows the cue; the volumes are of 1 s", "Units": "s"},
        "duration": {"Description": "How long it shows", "Units": "s"},
        "cue": {"Description": "Which cue: the pattern of this number, from 1"},
        "response": {"Description": "Which response this subject pairs with it, from 1"},
        "response_onset": {
            "Description": "First volume that shows the response; n/a where the movie has ended by then",
            "Units": "s",
        },
    }
    write_json(folder / f"task-{TASK}_{_CUES}.json", sidecar)
    for subject in range(config.n_subjects):
        pairing = recall.pairing(subject)
        for run in screenings(config):
            rows = [list(sidecar)]
            for volume, cue in recall.cues(subject, run):
                response = volume + config.association_lag_s
                onset = str(response) if response < run.fixation + run.stimulus else "n/a"
                rows.append([str(volume), "3", str(cue + 1), str(pairing[cue] + 1), onset])
            write_text(Path(f"{run_stem(folder, subject, run.run)}_{_CUES}.tsv"), table(rows))


def _write_news(folder: Path, config: SimulateConfig, recall: Recall) -> None:
    before = max(config.delayed_response_lags_s)
    columns = [f"news-{index + 1}" for index in range(recall.news(0, screenings(config)[0]).shape[1])]
    sidecar = {
        "volume": {
            "Description": "Volume that shows the news; before the movie they are not shown, but echo",
            "Units": "s",
        },
        **{name: {"Description": "Strength of the pattern of this number, standard normal"} for name in columns},
    }
    write_json(folder / f"task-{TASK}_{_NEWS}.json", {"SamplingFrequency": 1, **sidecar})
    for subject in range(config.n_subjects):
        for run in screenings(config):
            rows = [
                [str(run.fixation - before + second), *(f"{value:.6f}" for value in row)]
                for second, row in enumerate(recall.news(subject, run))
            ]
            path = Path(f"{run_stem(folder, subject, run.run)}_{_NEWS}.tsv")
            write_text(path, table([["volume", *columns], *rows]))


def _associations(config: SimulateConfig, recall: Recall | None) -> dict[str, Any] | None:
    if recall is None or config.association_fraction == 0:
        return None
    return {
        "fraction": config.association_fraction,
        "lag_s": config.association_lag_s,
        "cue_interval_s": config.cue_interval_s,
        "voxel_image": f"{_FOLDER}/{_RECALL_IMAGE}",
        "streams": {"cue": "ventral", "response": "dorsal"},
        "patterns": {name: f"{_FOLDER}/{_pattern_image(name)}" for name in ("cue", "response")},
        "events": f"{_FOLDER}/sub-*/func/*_{_CUES}.tsv",
        "pairing": {
            "explanation": "For each subject the response of cue 1, of cue 2, and so on, from 1.",
            **{
                subject_name(subject): [int(response) + 1 for response in recall.pairing(subject)]
                for subject in range(config.n_subjects)
            },
        },
    }


def _delayed_responses(config: SimulateConfig, recall: Recall | None) -> dict[str, Any] | None:
    if recall is None or config.delayed_response_fraction == 0:
        return None
    return {
        "fraction": config.delayed_response_fraction,
        "lags_s": {f"echo-{index + 1}": lag for index, lag in enumerate(config.delayed_response_lags_s)},
        "voxel_image": f"{_FOLDER}/{_RECALL_IMAGE}",
        "patterns": {
            name: f"{_FOLDER}/{_pattern_image(name)}" for name in recall.places if name not in ("cue", "response")
        },
        "news": f"{_FOLDER}/sub-*/func/*_{_NEWS}.tsv",
    }


def _transforms(config: SimulateConfig) -> dict[str, Any] | None:
    if not config.transforms:
        return None
    return {
        "folder": f"derivatives/{MINIMAL}",
        "target": f"{TARGET} in the names stands for nilearn's MNI152 template.",
        "convention": (
            "Each file maps points of the space named last to points of the one named first, as ANTs resamples. "
            "A point p of the undistorted boldref is recorded in volume t at voxel A^-1 H_t p, less "
            "TotalReadoutTime * fieldmap_Hz(p) along the second axis as stored (phase encoding j-)."
        ),
        "motion_sd_mm": config.motion_sd_mm,
        "motion_sd_degrees": config.motion_sd_degrees,
    }


def _pattern_image(name: str) -> str:
    return f"space-{SPACE}_desc-{name.replace('-', '')}_components.nii.gz"


def _regions(config: SimulateConfig, template: Template) -> list[dict[str, Any]]:
    levels = list(zip(config.timescales_s, config.lags_s, strict=True))
    places = [(stream, level) for stream in STREAMS for level in range(len(levels))]
    return [
        {
            "index": index + 1,
            "name": f"{stream}-{level + 1}",
            "level": level + 1,
            "timescale_s": levels[level][0],
            "lag_s": levels[level][1],
            "n_voxels": int((template.regions == index).sum()),
        }
        for index, (stream, level) in enumerate(places)
    ]
