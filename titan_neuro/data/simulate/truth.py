"""The ground truth of a synthetic dataset, against which models and probes are scored."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from titan_neuro.data.simulate.anatomy import regions_of
from titan_neuro.data.simulate.config import SimulateConfig, run_designs
from titan_neuro.data.simulate.fine_patterns import N_FINE_PATTERNS, FinePatterns
from titan_neuro.data.simulate.images import write_image
from titan_neuro.data.simulate.memory_content import N_SOURCE_PATTERNS, MemoryContent
from titan_neuro.data.simulate.names import (
    MINIMAL,
    RETELLING,
    SPACE,
    TARGET,
    TASK,
    description,
    run_stem,
    subject_name,
    table,
)
from titan_neuro.data.simulate.planted import Planted
from titan_neuro.data.simulate.scanner import Template
from titan_neuro.data.simulate.story import Story
from titan_neuro.files import write_json, write_text

_FOLDER = "derivatives/truth"
_REGION_IMAGE = f"space-{SPACE}_desc-region_dseg.nii.gz"
_MEMORY_IMAGE = f"space-{SPACE}_desc-memory_dseg.nii.gz"
_STIMULUS_TABLE = f"task-{TASK}_desc-stimulus_timeseries.tsv"
_CUES = "desc-cue_events"
_SOURCES = "desc-source_timeseries"
_FINE = "desc-fine_timeseries"
_SCENE_IMAGE = f"space-{SPACE}_desc-scene_components.nii.gz"
_SCENES, _STRENGTHS = "desc-scene_events", "desc-strength_scenes"
_DATASET_DESCRIPTION = "Ground truth"


def write_truth(
    root: Path,
    config: SimulateConfig,
    template: Template,
    latents: np.ndarray,
    planted: Planted,
    identity: dict[str, Any],
) -> None:
    """Write ``truth.json`` and the images and tables that it names, in ``derivatives/truth``.

    Parameters
    ----------
    root : Path
        Root of the synthetic dataset.
    config : SimulateConfig
    template : Template
        The brain that has the signals.
    latents : numpy.ndarray
        As `stimulus_latents` returns them, ``(seconds of movie, regions)``.
    planted : Planted
    identity : dict
        Settings and version of the dataset, recorded as ``simulated``.
    """
    folder = root / _FOLDER
    write_json(folder / "dataset_description.json", description(_DATASET_DESCRIPTION, "derivative"))
    regions = _regions(config, template)
    write_image(folder / _REGION_IMAGE, template.grid, [(template.regions + 1).astype(np.uint8)])
    rows = [["index", "name"], *([str(region["index"]), region["name"]] for region in regions)]
    write_text(folder / "desc-region_dseg.tsv", table(rows))
    _write_stimulus(folder, config, [region["name"] for region in regions][: latents.shape[1]], latents)
    for part in (planted.memory_content, planted.fine_patterns):
        if part is not None:
            _write_patterns(folder, template, part)
    if planted.memory_content is not None:
        _write_memory_content(folder, config, template, planted.memory_content)
    if planted.fine_patterns is not None:
        _write_fine_patterns(folder, config, planted.fine_patterns)
    if planted.story is not None:
        _write_story(folder, config, template, planted.story)
    content = {
        "simulated": identity,
        "model": "titan_neuro.data.simulate.signal explains the formula and every setting.",
        "variance_fractions": {
            "stimulus": config.stimulus_fraction,
            "spontaneous": config.spontaneous_fraction,
            "drift": config.drift_fraction,
            "thermal": config.thermal_fraction,
        },
        "regions": regions,
        "region_image": f"{_FOLDER}/{_REGION_IMAGE}",
        "stimulus_latents": f"{_FOLDER}/{_STIMULUS_TABLE}",
        "units": {"stimulus_start": "s of movie time", "n_volumes, fixation, overlap, stimulus": "volumes of 1 s"},
        "runs": [asdict(run) for run in run_designs(config)],
        "associations": _associations(config, planted.memory_content),
        "delayed_responses": _delayed_responses(config, planted.memory_content),
        "fine_patterns": _fine_patterns(config),
        "story": _story(config, planted.story),
        "transforms": _transforms(config),
    }
    write_json(root / "truth.json", content)


def _write_stimulus(folder: Path, config: SimulateConfig, names: list[str], latents: np.ndarray) -> None:
    first_second = run_designs(config)[0].stimulus_start
    rows = [[str(first_second + second), *(f"{value:.6f}" for value in row)] for second, row in enumerate(latents)]
    write_text(folder / _STIMULUS_TABLE, table([["stimulus_time", *names], *rows]))
    columns = {
        "stimulus_time": {"Description": "Time in the movie", "Units": "s"},
        **{name: {"Description": f"Latent of {name} that the movie drives, of expected variance 1"} for name in names},
    }
    write_json(folder / _STIMULUS_TABLE.replace(".tsv", ".json"), {"SamplingFrequency": 1, **columns})


def _write_patterns(folder: Path, template: Template, part: MemoryContent | FinePatterns) -> None:
    for name, patterns in part.patterns_by_set().items():
        path = folder / _pattern_image(name)
        write_image(path, template.grid, patterns.astype(np.float32), n_volumes=len(patterns))


def _write_memory_content(
    folder: Path, config: SimulateConfig, template: Template, memory_content: MemoryContent
) -> None:
    names = list(memory_content.voxel_sets)
    labels = sum(
        (index + 1) * voxels.astype(np.uint8) for index, voxels in enumerate(memory_content.voxel_sets.values())
    )
    write_image(folder / _MEMORY_IMAGE, template.grid, [np.asarray(labels, dtype=np.uint8)])
    rows = [[str(index + 1), name] for index, name in enumerate(names)]
    write_text(folder / "desc-memory_dseg.tsv", table([["index", "name"], *rows]))
    if config.association_fraction > 0:
        _write_cues(folder, config, memory_content)
    if config.delayed_response_fraction > 0:
        _write_sources(folder, config, memory_content)


def _write_cues(folder: Path, config: SimulateConfig, memory_content: MemoryContent) -> None:
    sidecar = {
        "onset": {"Description": "First volume of the cue; a volume takes 1 s", "Units": "s"},
        "duration": {"Description": "Duration of the cue", "Units": "s"},
        "cue": {"Description": "Number of the cue's pattern, from 1"},
        "response": {"Description": "Number of the response that this subject pairs with the cue, from 1"},
        "response_onset": {
            "Description": "First volume of the response; n/a if the movie ends earlier",
            "Units": "s",
        },
    }
    write_json(folder / f"task-{TASK}_{_CUES}.json", sidecar)
    for subject in range(config.n_subjects):
        pairing = memory_content.pairing(subject)
        for run in run_designs(config):
            rows = [list(sidecar)]
            for volume, cue, n_volumes in memory_content.cues(subject, run):
                response = volume + config.association_lag_s
                onset = str(response) if response < run.fixation + run.stimulus else "n/a"
                rows.append([str(volume), str(n_volumes), str(cue + 1), str(pairing[cue] + 1), onset])
            write_text(Path(f"{run_stem(folder, subject, run.run)}_{_CUES}.tsv"), table(rows))


def _write_sources(folder: Path, config: SimulateConfig, memory_content: MemoryContent) -> None:
    before = max(config.delayed_response_lags_s)
    columns = [f"source-{index + 1}" for index in range(N_SOURCE_PATTERNS)]
    sidecar = {
        "volume": {
            "Description": "Volume that shows the source patterns; those before the movie are not shown, but have "
            "delayed responses",
            "Units": "s",
        },
        **{name: {"Description": "Strength of the pattern of this number, standard normal"} for name in columns},
    }
    write_json(folder / f"task-{TASK}_{_SOURCES}.json", {"SamplingFrequency": 1, **sidecar})
    for subject in range(config.n_subjects):
        for run in run_designs(config):
            rows = [
                [str(run.fixation - before + second), *(f"{value:.6f}" for value in row)]
                for second, row in enumerate(memory_content.source_strengths(subject, run))
            ]
            path = Path(f"{run_stem(folder, subject, run.run)}_{_SOURCES}.tsv")
            write_text(path, table([["volume", *columns], *rows]))


def _write_fine_patterns(folder: Path, config: SimulateConfig, fine_patterns: FinePatterns) -> None:
    sidecar = {
        "volume": {
            "Description": "Volume that shows the pattern; those before the movie are not shown, but have responses",
            "Units": "s",
        },
        "pattern": {"Description": "Number of the fine pattern, from 1; its response has the same number"},
    }
    write_json(folder / f"task-{TASK}_{_FINE}.json", {"SamplingFrequency": 1, **sidecar})
    for subject in range(config.n_subjects):
        for run in run_designs(config):
            first = run.fixation - config.fine_pattern_lag_s
            sequence = fine_patterns.sequence(subject, run)
            rows = [[str(first + second), str(which + 1)] for second, which in enumerate(sequence)]
            path = Path(f"{run_stem(folder, subject, run.run)}_{_FINE}.tsv")
            write_text(path, table([list(sidecar), *rows]))


def _write_story(folder: Path, config: SimulateConfig, template: Template, story: Story) -> None:
    write_image(folder / _SCENE_IMAGE, template.grid, story.patterns.astype(np.float32), n_volumes=len(story.scenes))
    rows = [["onset", "duration", *story.scenes[0].annotations()]]
    rows += [[str(scene.start), str(scene.stop - scene.start), *scene.annotations().values()] for scene in story.scenes]
    write_text(folder / f"task-{TASK}_{_SCENES}.tsv", table(rows))
    columns = {"onset": {"Description": "Time in the movie", "Units": "s"}}
    write_json(folder / f"task-{TASK}_{_SCENES}.json", columns)
    sidecar = {
        "scene": {"Description": "Number of the scene"},
        "strength": {"Description": "Strength of this subject's memory of it, standard normal"},
        "retold": {"Description": "Whether this subject retells it"},
    }
    write_json(folder / f"task-{RETELLING}_{_STRENGTHS}.json", sidecar)
    for subject in range(config.n_subjects):
        retold = story.retelling(subject).scenes
        rows = [list(sidecar)]
        for index, strength in enumerate(story.strength(subject)):
            rows.append([story.scenes[index].name, f"{strength:.6f}", str(index in retold).lower()])
        name = subject_name(subject)
        write_text(folder / name / "func" / f"{name}_task-{RETELLING}_{_STRENGTHS}.tsv", table(rows))


def _story(config: SimulateConfig, story: Story | None) -> dict[str, Any] | None:
    if story is None:
        return None
    return {
        "fraction": config.story_fraction,
        "n_scenes": len(story.scenes),
        "memory_gain": config.memory_gain,
        "engagement": config.engagement,
        "retelling_fraction": config.retelling_fraction,
        "levels": "the upper half of the hierarchy, in all streams",
        "scenes": f"{_FOLDER}/task-{TASK}_{_SCENES}.tsv",
        "patterns": f"{_FOLDER}/{_SCENE_IMAGE}",
        "strengths": f"{_FOLDER}/sub-*/func/*_{_STRENGTHS}.tsv",
    }


def _associations(config: SimulateConfig, memory_content: MemoryContent | None) -> dict[str, Any] | None:
    if memory_content is None or config.association_fraction == 0:
        return None
    return {
        "fraction": config.association_fraction,
        "lag_s": config.association_lag_s,
        "cue_source": config.cue_source,
        "cue_interval_s": config.cue_interval_s if config.cue_source == "random" else None,
        "voxel_image": f"{_FOLDER}/{_MEMORY_IMAGE}",
        "streams": {"cue": "ventral", "response": "dorsal"},
        "patterns": {name: f"{_FOLDER}/{_pattern_image(name)}" for name in ("cue", "response")},
        "events": f"{_FOLDER}/sub-*/func/*_{_CUES}.tsv",
        "pairing": {
            "explanation": "For each subject the response of cue 1, of cue 2, and so on, from 1.",
            **{
                subject_name(subject): [int(response) + 1 for response in memory_content.pairing(subject)]
                for subject in range(config.n_subjects)
            },
        },
    }


def _delayed_responses(config: SimulateConfig, memory_content: MemoryContent | None) -> dict[str, Any] | None:
    if memory_content is None or config.delayed_response_fraction == 0:
        return None
    return {
        "fraction": config.delayed_response_fraction,
        "lags_s": {f"delayed-{index + 1}": lag for index, lag in enumerate(config.delayed_response_lags_s)},
        "voxel_image": f"{_FOLDER}/{_MEMORY_IMAGE}",
        "patterns": {
            name: f"{_FOLDER}/{_pattern_image(name)}"
            for name in memory_content.voxel_sets
            if name not in ("cue", "response")
        },
        "sources": f"{_FOLDER}/sub-*/func/*_{_SOURCES}.tsv",
    }


def _fine_patterns(config: SimulateConfig) -> dict[str, Any] | None:
    if config.fine_pattern_fraction == 0:
        return None
    return {
        "fraction": config.fine_pattern_fraction,
        "lag_s": config.fine_pattern_lag_s,
        "n_patterns": N_FINE_PATTERNS,
        "streams": {"fine": "ventral", "fine-response": "dorsal"},
        "patterns": {name: f"{_FOLDER}/{_pattern_image(name)}" for name in ("fine", "fine-response")},
        "explanation": "The volumes of the image fine are the patterns in the first block, then in the second, and so "
        "on. The sign in each block is drawn anew with each pattern, and is not recorded.",
        "sequence": f"{_FOLDER}/sub-*/func/*_{_FINE}.tsv",
    }


def _transforms(config: SimulateConfig) -> dict[str, Any] | None:
    if not config.transforms:
        return None
    return {
        "folder": f"derivatives/{MINIMAL}",
        "target": f"{TARGET} in file names stands for nilearn's MNI152 template.",
        "convention": (
            "Each file maps points of the space named last to points of the one named first, as ANTs resamples. "
            "A point p of the undistorted boldref is recorded in volume t at voxel A^-1 H_t p, minus "
            "TotalReadoutTime * fieldmap_Hz(p) along the second axis as stored (phase encoding j-)."
        ),
        "motion_sd_mm": config.motion_sd_mm,
        "motion_sd_degrees": config.motion_sd_degrees,
    }


def _pattern_image(name: str) -> str:
    return f"space-{SPACE}_desc-{name.replace('-', '')}_components.nii.gz"


def _regions(config: SimulateConfig, template: Template) -> list[dict[str, Any]]:
    return [
        {
            "index": index + 1,
            "name": region.name,
            "stream": region.stream,
            "level": None if region.level is None else region.level + 1,
            "timescale_s": None if region.level is None else config.timescales_s[region.level],
            "lag_s": None if region.level is None else config.lags_s[region.level],
            "centers_mm": region.centers_mm,
            "n_voxels": int((template.regions == index).sum()),
        }
        for index, region in enumerate(regions_of(config))
    ]
