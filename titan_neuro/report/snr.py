"""Temporal signal-to-noise ratio where it lies in the brain: of a person, or the mean over people."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from titan_neuro.data.bids.names import sidecar_path
from titan_neuro.evaluation.metrics_and_rows import count_in_words
from titan_neuro.files import read_json
from titan_neuro.metrics.measures import FloatArray
from titan_neuro.report.brain import quality_figure, space_note
from titan_neuro.report.comparable import person_of
from titan_neuro.report.maps import MapFigure
from titan_neuro.report.records import Results
from titan_neuro.report.style import png_uri
from titan_neuro.report.volumes import read_volume

_LOWEST = 10


def snr_map(results: Results, label: str | None = None) -> MapFigure | None:
    """Draw the temporal signal-to-noise ratio of one person or of all.

    Parameters
    ----------
    results : Results
    label : str, optional
        Of a person, without ``sub-``; by default the mean over people is drawn, of each the mean over runs.

    Returns
    -------
    MapFigure or None
        None where no run has such an image. A sentence where images do not lie on one grid.

    Raises
    ------
    ImageError
        An image can't be read.
    """
    people: dict[str, list[Path]] = {}
    for key, path in results.temporal_snr.items():
        if label in {None, person_of(key)}:
            people.setdefault(person_of(key), []).append(path)
    if not people:
        return None
    n_runs = sum(map(len, people.values()))
    title = f"tSNR of sub-{label}" if label is not None else f"tSNR, mean over {count_in_words(len(people), 'subject')}"
    means = [_mean_of_images(paths) for paths in people.values()]
    whole = _mean(means)
    if whole is None:
        return {"empty": f"{title}: the recordings do not lie on one grid, so there is no picture."}
    values, affine = whole
    finite = values[np.isfinite(values)]
    low, median = np.percentile(finite, (_LOWEST, 50))
    spread = f"Median {median:.3g}; the lowest {_LOWEST} % are below {low:.3g}."
    first = next(iter(results.temporal_snr.values()))
    note = space_note(read_json(sidecar_path(first), keys=["Space"]))
    return {
        "pictures": [(png_uri(quality_figure(values, affine, title, note)), f"Brain map: {title}. {spread}")],
        "structures": [],
        "title": title,
        "caption": f"{title}, {count_in_words(n_runs, 'run')}. {spread} Pale: it is no finding.",
        "file": f"sub-{'*' if label is None else label}_*_stat-tsnr_statmap.nii.gz",
    }


def _mean_of_images(paths: list[Path]) -> tuple[FloatArray, FloatArray] | None:
    return _mean([read_volume(path) for path in paths])


def _mean(images: list[tuple[FloatArray, FloatArray] | None]) -> tuple[FloatArray, FloatArray] | None:
    """Mean of images where they have a value; None where one is missing or lies on another grid."""
    known = [image for image in images if image is not None]
    shapes = {values.shape for values, _ in known}
    if len(known) < len(images) or len(shapes) > 1:
        return None
    if any(not np.allclose(affine, known[0][1], atol=1e-3) for _, affine in known):
        return None
    n_values = np.sum([np.isfinite(values) for values, _ in known], axis=0)
    total = np.nansum([values for values, _ in known], axis=0)
    return np.where(n_values > 0, total / np.maximum(n_values, 1), np.nan), known[0][1]
