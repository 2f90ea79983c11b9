"""The files of a simulated twin of ds003017: images, sidecars, events, masks, and the truth."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from titan_neuro import __version__
from titan_neuro.data.simulate.signal import (
    STREAMS,
    Screening,
    SimulateConfig,
    assign_regions,
    film_latents,
    run_frames,
    screened_latents,
    screenings,
)
from titan_neuro.files import atomic, write_json, write_text

_TASK = "movie"
_SPACE = "MNI152NLin2009aSym"
_BIDS_VERSION = "1.8.0"
_REGION_IMAGE = f"space-{_SPACE}_desc-region_dseg.nii.gz"
_FILM_TABLE = f"task-{_TASK}_desc-film_timeseries.tsv"
_LABELS = [
    f"sid{number:06d}"
    for number in (
        *(5, 7, 9, 10, 13, 20, 21, 24, 25, 29, 30, 34, 50, 52, 55),
        *(114, 120, 134, 142, 278, 416, 499, 522, 535, 560),
    )
]
_SIDECAR = {
    "TaskName": _TASK,
    "RepetitionTime": 1,
    "EchoTime": 0.033,
    "FlipAngle": 59,
    "PhaseEncodingDirection": "j-",
    "TotalReadoutTime": 0.0522511,
}
_README = """\
A simulated twin of OpenNeuro ds003017 ("The Grand Budapest Hotel"), written by Titan-Neuro.

Nobody was scanned: layout, names, timing and sidecars follow the real dataset (Visconti di Oleggio Castello et al., Sci
Data 7, 383, 2020); the images are noise with a planted signal. What was planted is in truth.json and derivatives/truth.
The images are in the space of nilearn's MNI152 template. All slices of a volume are of one moment; outside the brain
the images are zero.
"""


@dataclass(frozen=True, kw_only=True)
class _Brain:
    """The grid of the images and what lies in it; `mask` is 3D, the others have one value a voxel of the mask."""

    mask: np.ndarray
    affine: np.ndarray
    baseline: np.ndarray
    regions: np.ndarray


def write_dataset(root: Path, config: SimulateConfig, identity: dict[str, Any]) -> None:
    """Write every file of the twin: raw BIDS, brain masks and the truth as derivatives, and ``truth.json``.

    Parameters
    ----------
    root : Path
        Folder of the dataset; exists.
    config : SimulateConfig
        What is planted, and how much of it.
    identity : dict
        What makes this twin this twin; recorded in ``truth.json``.
    """
    brain = _template_brain(config)
    latents = film_latents(config)
    runs = screenings(config)
    _write_top_level(root, config)
    _write_derivatives(root / "derivatives", config, brain, latents)
    write_json(root / "truth.json", _truth(config, brain, identity))
    with tqdm(total=config.n_subjects * len(runs), desc="Simulating", unit="run") as bar:
        for subject in range(config.n_subjects):
            for run in runs:
                film = screened_latents(latents, run)
                frames = run_frames(config, subject, run, film=film, regions=brain.regions, baseline=brain.baseline)
                _write_run(root, subject, run, brain, frames)
                bar.update()


def _template_brain(config: SimulateConfig) -> _Brain:
    """Put the MNI152 brain that nilearn ships on a grid of the wanted voxel size, with a margin of one voxel."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template
    from nilearn.image import resample_img

    grid = np.eye(3) * config.voxel_size_mm
    template = resample_img(load_mni152_template(), target_affine=grid, interpolation="linear")
    mask_image = resample_img(load_mni152_brain_mask(), target_affine=grid, interpolation="nearest")
    mask = np.asarray(mask_image.dataobj) > 0
    inside = np.argwhere(mask)
    first = inside.min(0) - 1
    affine = mask_image.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    shape = inside.max(0) + 2 - first
    inside = inside - first
    coordinates = inside @ affine[:3, :3].T + affine[:3, 3]
    cropped = np.zeros(shape, dtype=bool)
    cropped[tuple(inside.T)] = True
    # 300 to 1,000 units: the rounding to int16 then adds less than 1 % to the variance over time.
    intensity = np.asarray(template.dataobj)[mask]
    return _Brain(
        mask=cropped,
        affine=affine,
        baseline=300 + 700 * intensity / intensity.max(),
        regions=assign_regions(coordinates, len(config.timescales_s)),
    )


def _write_top_level(root: Path, config: SimulateConfig) -> None:
    description = {
        **_description("Simulated twin of ds003017, The Grand Budapest Hotel", "raw"),
        "License": "CC0",
        "Authors": ["The Titan-Neuro developers"],
    }
    write_json(root / "dataset_description.json", description)
    write_text(root / "README", _README)
    write_text(root / "CHANGES", f"1.0.0 2026-01-01\n  - Simulated with seed {config.seed}.\n")
    write_text(root / ".bidsignore", "truth.json\n")
    names = "".join(f"sub-{label}\n" for label in _LABELS[: config.n_subjects])
    write_text(root / "participants.tsv", f"participant_id\n{names}")
    write_json(root / "participants.json", {"participant_id": {"Description": "Label of a simulated participant"}})
    write_json(root / f"task-{_TASK}_bold.json", _SIDECAR)


def _description(name: str, dataset_type: str) -> dict[str, Any]:
    generated_by = [{"Name": "Titan-Neuro", "Version": __version__, "Description": "titan-neuro simulate"}]
    return {"Name": name, "BIDSVersion": _BIDS_VERSION, "DatasetType": dataset_type, "GeneratedBy": generated_by}


def _write_derivatives(folder: Path, config: SimulateConfig, brain: _Brain, latents: np.ndarray) -> None:
    write_json(folder / "mask" / "dataset_description.json", _description("Brain masks", "derivative"))
    for label in _LABELS[: config.n_subjects]:
        path = folder / "mask" / f"sub-{label}" / "func" / f"sub-{label}_task-{_TASK}_desc-brain_mask.nii.gz"
        _write_image(path, brain, [np.ones(len(brain.regions), dtype=np.uint8)])
    write_json(folder / "truth" / "dataset_description.json", _description("What was planted", "derivative"))
    regions = _regions(config, brain)
    _write_image(folder / "truth" / _REGION_IMAGE, brain, [(brain.regions + 1).astype(np.uint8)])
    rows = [["index", "name"], *([str(region["index"]), region["name"]] for region in regions)]
    write_text(folder / "truth" / "desc-region_dseg.tsv", _table(rows))
    names = [region["name"] for region in regions]
    first_second = screenings(config)[0].film_start
    rows = [[str(first_second + second), *(f"{value:.6f}" for value in row)] for second, row in enumerate(latents)]
    write_text(folder / "truth" / _FILM_TABLE, _table([["film_time", *names], *rows]))
    columns = {
        "film_time": {"Description": "Time in the film", "Units": "s"},
        **{name: {"Description": f"What the film plants in {name}, of expected variance 1"} for name in names},
    }
    write_json(folder / "truth" / _FILM_TABLE.replace(".tsv", ".json"), {"SamplingFrequency": 1, **columns})


def _truth(config: SimulateConfig, brain: _Brain, identity: dict[str, Any]) -> dict[str, Any]:
    return {
        "simulated": identity,
        "model": "The formula and every setting are explained in titan_neuro.data.simulate.signal.",
        "variance_fractions": {
            "film": config.film_fraction,
            "spontaneous": config.spontaneous_fraction,
            "drift": config.drift_fraction,
            "thermal": config.thermal_fraction,
        },
        "regions": _regions(config, brain),
        "region_image": f"derivatives/truth/{_REGION_IMAGE}",
        "film_latents": f"derivatives/truth/{_FILM_TABLE}",
        "units": {"film_start": "s of film time", "n_volumes, fixation, overlap, film": "volumes of 1 s"},
        "runs": [asdict(run) for run in screenings(config)],
    }


def _regions(config: SimulateConfig, brain: _Brain) -> list[dict[str, Any]]:
    levels = list(zip(config.timescales_s, config.lags_s, strict=True))
    places = [(stream, level) for stream in STREAMS for level in range(len(levels))]
    return [
        {
            "index": index + 1,
            "name": f"{stream}-{level + 1}",
            "level": level + 1,
            "timescale_s": levels[level][0],
            "lag_s": levels[level][1],
            "n_voxels": int((brain.regions == index).sum()),
        }
        for index, (stream, level) in enumerate(places)
    ]


def _write_run(root: Path, subject: int, run: Screening, brain: _Brain, frames: Iterable[np.ndarray]) -> None:
    name = f"sub-{_LABELS[subject]}"
    stem = root / name / "func" / f"{name}_task-{_TASK}_run-{run.run:02d}"
    _write_image(Path(f"{stem}_bold.nii.gz"), brain, frames, n_volumes=run.n_volumes)
    # Slice timing stands in each run's own sidecar, as in ds003017; here every slice is of the same moment.
    write_json(Path(f"{stem}_bold.json"), {**_SIDECAR, "SliceTiming": [0.0] * brain.mask.shape[2]})
    rows = [[str(onset), str(duration), trial_type] for onset, duration, trial_type in run.events()]
    write_text(Path(f"{stem}_events.tsv"), _table([["onset", "duration", "trial_type"], *rows]))


def _table(rows: Iterable[Iterable[str]]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


def _write_image(path: Path, brain: _Brain, frames: Iterable[np.ndarray], n_volumes: int | None = None) -> None:
    """Write values inside the mask as NIfTI, frame by frame, with bytes that depend on nothing but the values.

    Without `n_volumes` the one frame makes a 3D image.
    """
    volume = None
    with (
        atomic(path) as temporary,
        temporary.open("wb") as raw,
        # Neither a name nor a date in the gzip header: the annex key is made of these bytes.
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as file,
    ):
        for values in frames:
            if volume is None:
                volume = np.zeros(brain.mask.shape, dtype=values.dtype)
                file.write(_header(brain, values.dtype, n_volumes))
            volume[brain.mask] = values
            file.write(volume.tobytes(order="F"))


def _header(brain: _Brain, dtype: np.dtype, n_volumes: int | None) -> bytes:
    import nibabel as nib

    header = nib.Nifti1Header()
    time = () if n_volumes is None else (n_volumes,)
    header.set_data_dtype(dtype)
    header.set_data_shape((*brain.mask.shape, *time))
    header.set_zooms((*np.diag(brain.affine)[:3], *(_SIDECAR["RepetitionTime"] for _ in time)))
    header.set_xyzt_units("mm", "sec")
    header.set_sform(brain.affine, code="mni")
    header.set_qform(brain.affine, code="mni")
    no_extension = bytes(4)
    header["vox_offset"] = len(header.binaryblock) + len(no_extension)
    return bytes(header.binaryblock) + no_extension
