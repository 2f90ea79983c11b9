"""Maps and time series of features, written in the form that the recordings came in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from titan_neuro.data.bids.output import write_nifti
from titan_neuro.data.grayordinates import CORTEX, Grayordinates, split_points, to_axis
from titan_neuro.data.space import ParcelLayout, Space
from titan_neuro.files import write_bytes, write_json
from titan_neuro.tables import write_tsv

if TYPE_CHECKING:
    from nibabel.cifti2 import ParcelsAxis

_ANATOMY = {"L": "CortexLeft", "R": "CortexRight"}


def write_map(stem: Path, label: str, space: Space, values: np.ndarray, metadata: Mapping[str, Any]) -> Path:
    """Write one number for each feature, with a sidecar.

    Parameters
    ----------
    stem : Path
        Beginning of the name: ``group/task-movie``.
    label : str
        Other entities of the name: ``stat-r2_desc-arH1``. Between the two stands ``space-`` for volumes (nothing for
        native space) and surfaces, ``seg-`` for parcels.
    space : Space
    values : numpy.ndarray
        ``(features,)``; NaN: no value.
    metadata : mapping
        JSON for the sidecar: description, unit and number of subjects.

    Returns
    -------
    Path
        ``*_statmap.nii.gz`` for volumes (NaN outside the mask); ``*_statmap.dscalar.nii`` for surfaces from CIFTI
        files, ``*_hemi-L_*_statmap.func.gii`` (beside it hemi-R) for those from GIFTI files (NaN at other vertices);
        ``*_statmap.tsv`` for parcels (columns parcel, value). Beside this, parcels of which it is known where they lie
        are drawn in an image of the atlas's kind: ``.nii.gz``, ``.pscalar.nii`` or ``.func.gii``.
    """
    entity = "" if space.name == "native" else f"_{'seg' if space.kind == 'parcels' else 'space'}-{space.name}"
    end = f"{entity}_{label}_statmap"
    layout, sidecar = space.layout, {**metadata, "Space": space.name}
    if space.kind == "parcels":
        path = stem.with_name(f"{stem.name}{end}.tsv")
        _write_table(path, space, values)
        if layout is not None:
            _write_image(stem, end, layout.space, layout.paint(space.parcels, values), (space.parcels, layout, values))
            sidecar["AtlasSpace"] = layout.space.name
    else:
        path = _write_image(stem, end, space, values, None)
    write_json(stem.with_name(f"{stem.name}{end}.json"), sidecar)
    return path


def write_surface_series(stem: Path, points: Grayordinates, series: np.ndarray, repetition_time: float) -> list[Path]:
    """Write a time series on surfaces.

    Parameters
    ----------
    stem : Path
        The path without its ending, with the entities ``space`` and ``desc``; of GIFTI files, ``hemi-L`` and ``hemi-R``
        are put before these.
    points : Grayordinates
        The features.
    series : numpy.ndarray
        ``(time, features)``.
    repetition_time : float
        Seconds.

    Returns
    -------
    list of Path
        ``*_bold.dtseries.nii``, or ``*_bold.func.gii`` of each hemisphere.
    """
    import nibabel as nib

    if points.form == "cifti":
        path = stem.with_name(f"{stem.name}_bold.dtseries.nii")
        axis = nib.cifti2.SeriesAxis(0, repetition_time, len(series))
        _write_cifti(path, series, axis, to_axis(points), "NIFTI_INTENT_CONNECTIVITY_DENSE_SERIES")
        return [path]
    first, entity, rest = stem.name.partition("_space-")
    return [
        _write_gifti(stem.with_name(f"{first}_hemi-{side}{entity}{rest}_bold.func.gii"), points, side, series)
        for side in _sides(points)
    ]


def _write_table(path: Path, space: Space, values: np.ndarray) -> None:
    table = pd.DataFrame({"parcel": space.parcels, "value": values})
    if space.layout is not None:
        names = space.layout.names
        sides = dict(zip(names, space.layout.hemispheres, strict=True))
        networks = dict(zip(names, space.layout.networks, strict=True))
        for column, known in (("hemisphere", sides), ("network", networks)):
            if any(known.values()):
                table[column] = [known[parcel] or None for parcel in space.parcels]
    write_tsv(path, table)


def _write_image(
    stem: Path,
    end: str,
    space: Space,
    values: np.ndarray,
    parcels: tuple[Sequence[str], ParcelLayout, np.ndarray] | None,
) -> Path:
    """Write values of voxels or points of surfaces; `parcels` are those that they were painted from."""
    path = stem.with_name(f"{stem.name}{end}")
    points = space.grayordinates
    if points is None:
        path = path.with_name(f"{path.name}.nii.gz")
        write_nifti(path, space, iter([values[None]]), n_time_points=1, repetition_time=None, fill=np.nan)
        return path
    if points.form == "gifti":
        paths = {side: stem.with_name(f"{stem.name}_hemi-{side}{end}.func.gii") for side in _sides(points)}
        written = [_write_gifti(file, points, side, values[None]) for side, file in paths.items()]
        return written[0]
    import nibabel as nib

    scalars = nib.cifti2.ScalarAxis([end.rpartition("_statmap")[0].rpartition("_stat-")[2]])
    if parcels is None:
        path = path.with_name(f"{path.name}.dscalar.nii")
        _write_cifti(path, values[None], scalars, to_axis(points), "NIFTI_INTENT_CONNECTIVITY_DENSE_SCALARS")
        return path
    names, layout, of_parcels = parcels
    path = path.with_name(f"{path.name}.pscalar.nii")
    axis = _parcels_axis(names, layout, points)
    _write_cifti(path, of_parcels[None], scalars, axis, "NIFTI_INTENT_CONNECTIVITY_PARCELLATED_SCALAR")
    return path


def _write_cifti(path: Path, values: np.ndarray, rows: Any, columns: Any, intent: str) -> None:
    import nibabel as nib

    image = nib.Cifti2Image(values.astype(np.float32), (rows, columns))
    image.nifti_header.set_intent(intent)
    write_bytes(path, image.to_bytes())


def _write_gifti(path: Path, points: Grayordinates, side: str, values: np.ndarray) -> Path:
    """Write the values ``(maps or time points, features)`` of one hemisphere, NaN at vertices that are no features."""
    import nibabel as nib

    n_vertices = next(structure.n_vertices for structure in points.structures if structure.name == CORTEX[side])
    vertices, features = points.vertices(CORTEX[side])
    whole = np.full((len(values), n_vertices or 0), np.nan, dtype=np.float32)
    whole[:, vertices] = values[:, features]
    intent = "NIFTI_INTENT_NONE" if len(values) == 1 else "NIFTI_INTENT_TIME_SERIES"
    image = nib.GiftiImage(
        darrays=[nib.gifti.GiftiDataArray(row, intent=intent, datatype="NIFTI_TYPE_FLOAT32") for row in whole],
        meta=nib.gifti.GiftiMetaData({"AnatomicalStructurePrimary": _ANATOMY[side]}),
    )
    write_bytes(path, image.to_bytes())
    return path


def _sides(points: Grayordinates) -> list[str]:
    return [side for side, name in CORTEX.items() if any(name == structure.name for structure in points.structures)]


def _parcels_axis(names: Sequence[str], layout: ParcelLayout, points: Grayordinates) -> ParcelsAxis:
    from nibabel.cifti2 import ParcelsAxis

    position = {name: number for number, name in enumerate(layout.names)}
    voxels, vertices = [], []
    for name in names:
        features = np.flatnonzero(layout.labels == position[name])
        voxel, vertex = split_points(points, features)
        voxels.append(voxel[vertex < 0])
        numbers = points.points[features, 0]
        vertices.append(
            {
                points.structures[number].name: vertex[numbers == number]
                for number in np.unique(numbers[vertex >= 0]).tolist()
            }
        )
    sizes = {structure.name: structure.n_vertices for structure in points.structures if structure.n_vertices}
    return ParcelsAxis(list(names), voxels, vertices, points.affine, points.shape, sizes)
