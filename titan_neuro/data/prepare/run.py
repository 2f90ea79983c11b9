"""Prepare: from a recording to a store of causally scaled frames inside the brain mask."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from filelock import FileLock
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from titan_neuro.data.annex import annex_key, is_missing
from titan_neuro.data.bids import Recording
from titan_neuro.data.prepare.normalize import CausalZScore
from titan_neuro.data.space import Space
from titan_neuro.data.store import RunHeader, RunStore, store_name, write_run
from titan_neuro.errors import ImageError, MetadataError, NotFetchedError, TitanNeuroError
from titan_neuro.files import remove_leftovers, write_json

logger = logging.getLogger(__name__)

_FRAMES_A_BLOCK = 64


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class PrepareConfig:
    """How recordings become frames.

    Attributes
    ----------
    warmup_s : float
        Seconds at the start of a run that are fed but never scored: the expanding z-score rests on too little there.
    scored_trial_types : tuple of str
        A frame is scored when it lies inside an event of one of these ``trial_type``s. A run whose events table has
        none of them (or that has no table) is scored from the end of the warm-up on.
    mask_frames : int
        Where the dataset brings no brain mask, one is computed from the mean of this many first frames.
    """

    warmup_s: Annotated[float, Field(ge=0)] = 20.0
    scored_trial_types: tuple[str, ...] = ("movie",)
    mask_frames: Annotated[int, Field(ge=1)] = 10


def prepare_run(
    recording: Recording, output_dir: Path, config: PrepareConfig, *, work_dir: Path, memory_bytes: int | None = None
) -> tuple[Path, bool]:
    """Prepare one recording, unless its store is there already with the same source and settings.

    Parameters
    ----------
    recording : Recording
    output_dir : Path
        Root of the output dataset; the store goes to ``sub-X/[ses-Y/]func/``.
    config : PrepareConfig
    work_dir : Path
        Folder for locks.
    memory_bytes : int, optional
        Bound on what is held of the image at a time; at least one frame is.

    Returns
    -------
    path : Path
        The store.
    made : bool
        False when it was there already.

    Raises
    ------
    NotFetchedError, ImageError, MetadataError, OutputError
        The content is not on this machine; the image can't be used; no repetition time; the folder can't be written.
    """
    path = store_path(recording, output_dir)
    content = _content_id(recording.path)
    fingerprint = _fingerprint(recording, content, config)
    lock = work_dir / "locks" / f"{path.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        remove_leftovers(path)
        if _is_prepared(path, fingerprint):
            return path, False
        _require_content(recording)
        source = _open(recording, config)
        record = {"fingerprint": fingerprint, "source_content": content}
        header = _header(recording, source, config, record)
        write_run(path, header, _scaled_blocks(source, memory_bytes))
        write_json(path.with_suffix(".json"), _sidecar(header))
    return path, True


def store_path(recording: Recording, output_dir: Path) -> Path:
    """Return where the store of a recording lies."""
    folder = output_dir / f"sub-{recording.subject}"
    if "session" in recording.entities:
        folder /= f"ses-{recording.entities['session']}"
    return folder / "func" / store_name(recording.entities, recording.kind)


def missing_inputs(recording: Recording, output_dir: Path, config: PrepareConfig) -> list[Path]:
    """Files that `prepare_run` would need and whose content is not on this machine; none once it is prepared."""
    fingerprint = _fingerprint(recording, _content_id(recording.path), config)
    if _is_prepared(store_path(recording, output_dir), fingerprint):
        return []
    return [path for path in (recording.path, recording.mask, recording.events) if path and is_missing(path)]


def _require_content(recording: Recording) -> None:
    for what, path in {"recording": recording.path, "brain mask": recording.mask, "events": recording.events}.items():
        if path is not None and is_missing(path):
            raise NotFetchedError(
                f"{path}: the {what} is in the dataset, but its content is not on this machine.",
                f"Get it with `titan-neuro fetch {_dataset_root(path)}`, or leave out --no-datalad-get.",
            )


def _dataset_root(path: Path) -> Path:
    # The outermost: masks lie in a derivatives folder that describes itself.
    roots = [parent for parent in path.parents if (parent / "dataset_description.json").is_file()]
    return roots[-1] if roots else path.parent


def _fingerprint(recording: Recording, content: str, config: PrepareConfig) -> str:
    """Digest of everything that the store is made from; `content` identifies the recording itself."""
    digest = hashlib.sha256(content.encode())
    for file in (recording.mask, recording.events):
        digest.update((_content_id(file) if file else "none").encode())
    digest.update(repr((sorted(asdict(config).items()), recording.repetition_time)).encode())
    return digest.hexdigest()


def _content_id(path: Path) -> str:
    key = annex_key(path)
    if key is not None:
        return key
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_prepared(path: Path, fingerprint: str) -> bool:
    if not path.exists():
        return False
    try:
        same = RunStore(path).record.get("fingerprint") == fingerprint
    except TitanNeuroError:
        same = False
    if not same:
        logger.info("%s was prepared from other data or with other settings: again.", path.name)
    return same


class _Source:
    """A recording opened for one pass in order of time."""

    def __init__(self, path: Path, space: Space, n_frames: int, header_tr: float | None, data: Any) -> None:
        self.path, self.space, self.n_frames, self.header_tr, self._data = path, space, n_frames, header_tr, data

    def block(self, start: int, stop: int) -> np.ndarray:
        """Frames inside the mask, ``(time, features)``."""
        try:
            if self.space.mask is None:
                block = self._data[start:stop]
            else:
                block = np.asarray(self._data[..., start:stop])[self.space.mask].T
        except (OSError, EOFError, ValueError) as error:
            raise ImageError(
                f"{self.path}: can't be read at frames {start} to {stop - 1}: {error}.", "Fetch the file again."
            ) from error
        if not np.isfinite(block).all():
            frame, feature = np.argwhere(~np.isfinite(block))[0]
            raise ImageError(
                f"{self.path}: expected finite values, found {block[frame, feature]} in frame {start + frame}, "
                f"{'voxel' if self.space.kind == 'volume' else 'parcel'} {feature} of those in use.",
                "Repair the file or leave the run out.",
            )
        return np.asarray(block)


def _open(recording: Recording, config: PrepareConfig) -> _Source:
    return _open_image(recording, config) if recording.kind == "volume" else _open_table(recording)


def _open_image(recording: Recording, config: PrepareConfig) -> _Source:
    import nibabel as nib

    try:
        # The file stays open: a gzip stream that is opened anew for each block is read from its start each time.
        image = nib.load(recording.path, keep_file_open=True)
    except (nib.filebasedimages.ImageFileError, OSError, EOFError) as error:
        raise ImageError(f"{recording.path}: not a readable NIfTI image: {error}.", "Fetch the file again.") from error
    if image.ndim != 4:
        raise ImageError(
            f"{recording.path}: expected a 4D image (x, y, z, time), found {image.ndim}D of shape {image.shape}.",
            "A run is a series of volumes; leave single images out with --bids-filter-file.",
        )
    if image.shape[3] < 2:
        raise ImageError(f"{recording.path}: expected at least 2 volumes, found {image.shape[3]}.")
    affine = np.asarray(image.affine, dtype=np.float64)
    mask = _mask(recording, image, affine, config)
    name = recording.entities.get("space", "native")
    unit = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}.get(image.header.get_xyzt_units()[1])
    header_tr = float(image.header.get_zooms()[3]) * unit if unit else None
    space = Space(kind="volume", name=name, mask=mask, affine=affine)
    return _Source(recording.path, space, image.shape[3], header_tr or None, image.dataobj)


def _mask(recording: Recording, image: Any, affine: np.ndarray, config: PrepareConfig) -> np.ndarray:
    import nibabel as nib
    from nilearn.masking import compute_epi_mask

    if recording.mask is None:
        logger.warning("%s: no brain mask in the dataset: computed from its first volumes.", recording.key)
        first = np.asarray(image.dataobj[..., : config.mask_frames], dtype=np.float32).mean(axis=-1)
        return np.asarray(compute_epi_mask(nib.Nifti1Image(first, affine)).dataobj) > 0
    found = nib.load(recording.mask)
    if found.shape != image.shape[:3] or not np.allclose(found.affine, affine, atol=1e-3):
        raise ImageError(
            f"{recording.mask}: expected the grid of {recording.path.name}, {image.shape[:3]} with the affine "
            f"{affine.tolist()}; found {found.shape} with {found.affine.tolist()}.",
            "Give a mask on the grid of the run (--derivatives).",
        )
    mask = np.asarray(found.dataobj) > 0
    if not mask.any():
        raise ImageError(f"{recording.mask}: the brain mask is empty.")
    return mask


def _open_table(recording: Recording) -> _Source:
    try:
        table = pd.read_csv(recording.path, sep="\t", na_values="n/a")
        values = table.to_numpy(dtype=np.float64)
    except (ValueError, pd.errors.ParserError) as error:
        raise ImageError(
            f"{recording.path}: expected a table of numbers, a column for each parcel under its name: {error}."
        ) from error
    if len(values) < 2:
        raise ImageError(f"{recording.path}: expected at least 2 frames (rows), found {len(values)}.")
    atlas = recording.entities.get("segmentation", recording.entities.get("atlas", "unknown"))
    space = Space(kind="parcels", name=atlas, parcels=tuple(map(str, table.columns)))
    return _Source(recording.path, space, len(values), None, values)


def _scaled_blocks(source: _Source, memory_bytes: int | None) -> Iterator[np.ndarray]:
    """Yield z-scored blocks, reading no more of the image at a time than the memory allows."""
    voxels = source.space.n_features if source.space.mask is None else source.space.mask.size
    # A frame is held as read, as float64 on the grid, and a few times inside the mask while it is scaled.
    frames = _FRAMES_A_BLOCK if memory_bytes is None else max(1, memory_bytes // (voxels * 8 * 4))
    frames = min(frames, _FRAMES_A_BLOCK)
    scale = CausalZScore(source.space.n_features)
    for start in range(0, source.n_frames, _FRAMES_A_BLOCK):
        stop = min(start + _FRAMES_A_BLOCK, source.n_frames)
        yield np.concatenate([scale(source.block(t, min(t + frames, stop))) for t in range(start, stop, frames)])


def _header(recording: Recording, source: _Source, config: PrepareConfig, record: dict[str, str]) -> RunHeader:
    repetition_time = _repetition_time(recording, source)
    scored, rule = _scored_frames(recording, source.n_frames, repetition_time, config)
    if not scored.any():
        raise MetadataError(
            f"{recording.key}: no frame is left to score: {source.n_frames} frames, TR {repetition_time} s, "
            f"warm-up {config.warmup_s} s, scored: {rule}.",
            "Check the events table, or shorten the warm-up with --set prepare.warmup_s=...",
        )
    return RunHeader(
        key=recording.key,
        entities={name: value for name, value in recording.entities.items() if name != "desc"},
        repetition_time=repetition_time,
        space=source.space,
        scored=scored,
        record={
            **record,
            "normaliser": {"method": "causal expanding z-score", "warmup_s": config.warmup_s},
            "scored": rule,
            "source": recording.path.name,
            "mask": recording.mask.name
            if recording.mask
            else f"computed from {config.mask_frames} first frames"
            if recording.kind == "volume"
            else None,
            "events": recording.events.name if recording.events else None,
        },
    )


def _repetition_time(recording: Recording, source: _Source) -> float:
    sidecar, header = recording.repetition_time, source.header_tr
    if sidecar is None and header is None:
        raise MetadataError(
            f"{recording.path}: no repetition time: neither RepetitionTime in its JSON sidecar nor a time step in its "
            "header.",
            'Write {"RepetitionTime": SECONDS} into the sidecar.',
        )
    found = sidecar if sidecar is not None else header
    if found is None or not (math.isfinite(found) and found > 0):
        raise MetadataError(f"{recording.path}: expected a repetition time above 0 s, found {found}.")
    if sidecar is not None and header is not None and abs(sidecar - header) > 1e-3:
        raise MetadataError(
            f"{recording.path}: the sidecar says a repetition time of {sidecar} s, the header {header} s.",
            "Correct the one that is wrong.",
        )
    return found


def _scored_frames(
    recording: Recording, n_frames: int, repetition_time: float, config: PrepareConfig
) -> tuple[np.ndarray, str]:
    onset = np.arange(n_frames) * repetition_time
    warm = onset >= config.warmup_s
    wanted = list(config.scored_trial_types)
    if recording.events is None:
        return warm, "all frames after the warm-up (no events table)"
    events = _read_events(recording.events)
    chosen = events[events["trial_type"].isin(wanted)]
    if chosen.empty:
        return warm, f"all frames after the warm-up (no event of type {' or '.join(wanted)})"
    inside = np.zeros(n_frames, dtype=bool)
    for start, duration in zip(chosen["onset"], chosen["duration"], strict=True):
        inside |= (onset >= start) & (onset < start + duration)
    return inside & warm, f"frames inside events of type {' or '.join(wanted)}, after the warm-up"


def _read_events(path: Path) -> pd.DataFrame:
    try:
        events = pd.read_csv(path, sep="\t", na_values="n/a")
    except (ValueError, pd.errors.ParserError) as error:
        raise MetadataError(f"{path}: not a readable table: {error}.") from error
    lacking = {"onset", "duration"} - set(events.columns)
    if lacking:
        raise MetadataError(
            f"{path}: expected the columns onset, duration[, trial_type], found {', '.join(events.columns)}."
        )
    if "trial_type" not in events:
        events["trial_type"] = ""
    return events


def _sidecar(header: RunHeader) -> dict[str, Any]:
    return {
        "Description": "Frames scaled causally for forecasting (Zarr, one row a frame, one column a voxel or parcel)",
        "RepetitionTime": header.repetition_time,
        "Space": header.space.name,
        "NumberOfFrames": len(header.scored),
        "NumberOfScoredFrames": int(header.scored.sum()),
        "NumberOfFeatures": header.space.n_features,
        "Sources": [header.record["source"]],
        **{"Normaliser": header.record["normaliser"], "ScoredFrames": header.record["scored"]},
    }
