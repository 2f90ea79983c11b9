"""The files of a synthetic dataset: images, sidecars, events and masks, as in ds003017."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from titan_neuro.data.simulate.anatomy import assign_regions, is_cerebral
from titan_neuro.data.simulate.config import RunDesign, SimulateConfig, run_designs
from titan_neuro.data.simulate.fmriprep import write_anatomy, write_fmriprep_description, write_run_transforms
from titan_neuro.data.simulate.head import TOTAL_READOUT_TIME, draw_head, draw_position
from titan_neuro.data.simulate.images import Grid, write_image
from titan_neuro.data.simulate.itk import map_points
from titan_neuro.data.simulate.names import LABELS, RETELLING, TASK, description, run_stem, subject_name, table
from titan_neuro.data.simulate.planted import plan_planted
from titan_neuro.data.simulate.scanner import Scanner, SubjectAnatomy, Template
from titan_neuro.data.simulate.scenes import Scene
from titan_neuro.data.simulate.signal import latents_at_volumes, simulate_run, stimulus_latents
from titan_neuro.data.simulate.story import Story
from titan_neuro.data.simulate.truth import write_truth
from titan_neuro.files import write_json, write_text

_SIDECAR = {
    "TaskName": TASK,
    "RepetitionTime": 1,
    "EchoTime": 0.033,
    "FlipAngle": 59,
    "PhaseEncodingDirection": "j-",
    "TotalReadoutTime": TOTAL_READOUT_TIME,
}
_README = """\
A synthetic dataset of OpenNeuro ds003017 ("The Grand Budapest Hotel"), written by Titan-Neuro.

Nobody was scanned. Layout, names, timing and sidecars follow the real dataset (Visconti di Oleggio Castello et al., Sci
Data 7, 383, 2020). The images contain a simulated signal and noise; truth.json and derivatives/truth hold the ground
truth.
"""
# Probability of grey matter above which a voxel belongs to it.
_GREY_MATTER = 0.5
_IN_TEMPLATE_SPACE = """\
The images are in the space of nilearn's MNI152 template. All slices of a volume are acquired at the same time. Outside
the brain the images are zero.
"""
_IN_SCANNER_SPACE = """\
The images are as a scanner would record them: heads differ in shape and position, move, and distort the field. The
exact transforms that undo this are in derivatives/ds003017-fmriprep, under the names of the published derivatives.
Where these say MNI152NLin2009cAsym, the template is the MNI152 of nilearn. The field shifts intensities without
changing them. All slices of a volume are acquired at the same time. Away from the brain the images are zero; there are
more slices than the real 48, so that they cover the whole brain.
"""
_IN_CORTEX = """\
The brain is the grey matter of the cerebrum. Its regions have names and coordinates: see "regions" in truth.json.
"""
_WITH_STORY = """\
The movie tells a story, whose scenes stand in the events tables; in a run of the task "recall" each subject retells
some of them: see "story" in truth.json.
"""
_WITH_MEMORY_CONTENT = """\
A part of the signal can be predicted only by a memory that is written while the same subject is read: see
"associations" and "delayed_responses" in truth.json.
"""
_WITH_FINE_PATTERNS = """\
A part of the signal can be predicted only by a model that is not linear in the voxels: see "fine_patterns" in
truth.json.
"""


def write_dataset(root: Path, config: SimulateConfig, identity: dict[str, Any]) -> None:
    """Write every file of the synthetic dataset: raw BIDS, derivatives, and ``truth.json``.

    Parameters
    ----------
    root : Path
        Folder of the dataset; it exists.
    config : SimulateConfig
    identity : dict
        Settings and version of the dataset, recorded in ``truth.json``.
    """
    template = template_brain(config)
    latents = stimulus_latents(config)
    planted = plan_planted(config, template.regions, template.coordinates_mm())
    runs = run_designs(config)
    _write_top_level(root, config)
    if config.transforms:
        write_fmriprep_description(root)
    else:
        _write_masks(root / "derivatives" / "mask", config, template)
    write_truth(root, config, template, latents, planted, identity)
    with tqdm(total=config.n_subjects * len(runs), desc="Simulating", unit="run") as bar:
        for subject in range(config.n_subjects):
            anatomy = _draw_anatomy(root, config, subject, template) if config.transforms else None
            for run in runs:
                scanner = None if anatomy is None else _draw_scanner(root, config, subject, run, anatomy)
                volumes = simulate_run(
                    *(config, subject, run),
                    stimulus=latents_at_volumes(latents, run),
                    regions=template.regions,
                    baseline=template.baseline,
                    planted=planted.parts,
                    followed=None if planted.story is None else planted.story.followed(subject, run),
                    scanner=scanner,
                )
                grid = template.grid if scanner is None else scanner.grid
                _write_run(run_stem(root, subject, run.run), grid, volumes, run, _event_rows(run, planted.story))
                bar.update()
            if planted.story is not None:
                _write_retelling(root, config, subject, template, planted.story)


def _write_retelling(root: Path, config: SimulateConfig, subject: int, template: Template, story: Story) -> None:
    retelling = story.retelling(subject)
    run = retelling.design
    volumes = simulate_run(
        *(config, subject, run),
        stimulus=np.zeros((run.n_volumes, template.regions.max() + 1)),
        regions=template.regions,
        baseline=template.baseline,
        planted=[retelling],
    )
    name = subject_name(subject)
    stem = root / name / "func" / f"{name}_task-{RETELLING}"
    rows = [_story_row(*event) for event in retelling.events(run)]
    header = ["onset", "duration", "trial_type", *story.scenes[0].annotations()]
    _write_run(stem, template.grid, volumes, run, [header, *rows], RETELLING)


def _event_rows(run: RunDesign, story: Story | None) -> list[list[str]]:
    """Rows of a run's events table, the header first; scenes stand beside the movie that shows them."""
    header, rows = ["onset", "duration", "trial_type"], [[*map(str, event)] for event in run.events()]
    if story is None:
        return [header, *rows]
    columns = [*story.scenes[0].annotations()]
    rows = [[*row, *["n/a"] * len(columns)] for row in rows] + [_story_row(*event) for event in story.events(run)]
    return [[*header, *columns], *sorted(rows, key=lambda row: float(row[0]))]


def _story_row(onset: float, duration: float, trial_type: str, scene: Scene) -> list[str]:
    return [str(onset), str(duration), trial_type, *scene.annotations().values()]


def _draw_anatomy(root: Path, config: SimulateConfig, subject: int, template: Template) -> SubjectAnatomy:
    anatomy = SubjectAnatomy(draw_head(config, subject, template.coordinates_mm()), template)
    write_anatomy(root, config, subject, anatomy)
    return anatomy


def _draw_scanner(root: Path, config: SimulateConfig, subject: int, run: RunDesign, anatomy: SubjectAnatomy) -> Scanner:
    position = draw_position(config, subject, run, anatomy.head)
    scanner = Scanner(config, anatomy, position)
    write_run_transforms(root, subject, run, scanner, position)
    return scanner


def template_brain(config: SimulateConfig) -> Template:
    """Return nilearn's MNI152 brain, or its grey matter, in voxels of the configured size; the margin is one voxel."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_gm_template, load_mni152_template
    from nilearn.image import resample_img

    grid = np.eye(3) * config.voxel_size_mm
    template = resample_img(load_mni152_template(), target_affine=grid, interpolation="linear")
    mask_image = resample_img(load_mni152_brain_mask(), target_affine=grid, interpolation="nearest")
    mask = np.asarray(mask_image.dataobj) > 0
    if config.anatomy == "cortex":
        grey_matter = resample_img(load_mni152_gm_template(), target_affine=grid, interpolation="linear")
        mask &= np.asarray(grey_matter.dataobj) > _GREY_MATTER
        mask[mask] = is_cerebral(map_points(mask_image.affine, np.argwhere(mask)))
    inside = np.argwhere(mask)
    first = inside.min(0) - 1
    affine = mask_image.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    shape = inside.max(0) + 2 - first
    inside = inside - first
    coordinates = inside @ affine[:3, :3].T + affine[:3, 3]
    cropped = np.zeros(shape, dtype=bool)
    cropped[tuple(inside.T)] = True
    # 300 to 1,000 units: rounding to int16 then adds less than 1 % to the variance over time.
    intensity = np.asarray(template.dataobj)[mask]
    return Template(
        mask=cropped,
        affine=affine,
        baseline=300 + 700 * intensity / intensity.max(),
        regions=assign_regions(coordinates, config),
    )


def _write_top_level(root: Path, config: SimulateConfig) -> None:
    content = {
        **description("Synthetic dataset of ds003017, The Grand Budapest Hotel", "raw"),
        "License": "CC0",
        "Authors": ["The Titan-Neuro developers"],
    }
    write_json(root / "dataset_description.json", content)
    space = _IN_SCANNER_SPACE if config.transforms else _IN_TEMPLATE_SPACE
    has_memory_content = config.association_fraction > 0 or config.delayed_response_fraction > 0
    planted = _WITH_MEMORY_CONTENT * has_memory_content + _WITH_FINE_PATTERNS * (config.fine_pattern_fraction > 0)
    space += _IN_CORTEX * (config.anatomy == "cortex")
    write_text(root / "README", _README + space + planted + _WITH_STORY * (config.story_fraction > 0))
    write_text(root / "CHANGES", f"1.0.0 2026-01-01\n  - Simulated with seed {config.seed}.\n")
    write_text(root / ".bidsignore", "truth.json\n")
    names = "".join(f"sub-{label}\n" for label in LABELS[: config.n_subjects])
    write_text(root / "participants.tsv", f"participant_id\n{names}")
    write_json(root / "participants.json", {"participant_id": {"Description": "Label of a simulated participant"}})
    for task in _tasks(config):
        write_json(root / f"task-{task}_bold.json", {**_SIDECAR, "TaskName": task})


def _tasks(config: SimulateConfig) -> list[str]:
    return [TASK, RETELLING] if config.story_fraction > 0 else [TASK]


def _write_masks(folder: Path, config: SimulateConfig, template: Template) -> None:
    write_json(folder / "dataset_description.json", description("Brain masks", "derivative"))
    for subject in range(config.n_subjects):
        name = subject_name(subject)
        for task in _tasks(config):
            path = folder / name / "func" / f"{name}_task-{task}_desc-brain_mask.nii.gz"
            write_image(path, template.grid, [np.ones(len(template.regions), dtype=np.uint8)])


def _write_run(
    stem: Path,
    grid: Grid,
    volumes: Iterable[np.ndarray],
    run: RunDesign,
    events: Sequence[Sequence[str]],
    task: str = TASK,
) -> None:
    write_image(Path(f"{stem}_bold.nii.gz"), grid, volumes, n_volumes=run.n_volumes)
    # Slice timing is in each run's own sidecar, as in ds003017; here all slices are acquired at the same time.
    sidecar = {**_SIDECAR, "TaskName": task, "SliceTiming": [0.0] * grid.mask.shape[2]}
    write_json(Path(f"{stem}_bold.json"), sidecar)
    write_text(Path(f"{stem}_events.tsv"), table(events))
