"""Small CIFTI and GIFTI files: two hemispheres of 40 vertices, and a structure of a few voxels."""

import json

import nibabel as nib
import numpy as np
from nibabel.cifti2 import BrainModelAxis, LabelAxis, ParcelsAxis, SeriesAxis

N_VERTICES, N_TIME_POINTS, TR = 40, 60, 1.5
SHAPE, AFFINE = (4, 5, 6), np.diag([2.0, 2.0, 2.0, 1.0])
# The last vertices of each hemisphere are the medial wall.
USED = {"L": np.arange(34), "R": np.arange(36)}
_NAMES = {"L": "CIFTI_STRUCTURE_CORTEX_LEFT", "R": "CIFTI_STRUCTURE_CORTEX_RIGHT"}
VOXELS = np.array([[1, 1, 1], [1, 1, 2], [2, 3, 4]])


def brain_models(voxels=True):
    axis = BrainModelAxis.from_surface(USED["L"], N_VERTICES, _NAMES["L"])
    axis = axis + BrainModelAxis.from_surface(USED["R"], N_VERTICES, _NAMES["R"])
    if not voxels:
        return axis
    mask = np.zeros(SHAPE, bool)
    mask[tuple(VOXELS.T)] = True
    return axis + BrainModelAxis.from_mask(mask, "CIFTI_STRUCTURE_THALAMUS_LEFT", AFFINE)


def series(n_features, seed=0, n_time_points=N_TIME_POINTS):
    return np.random.default_rng(seed).normal(100, 5, (n_time_points, n_features)).astype(np.float32)


def write_cifti(path, values, rows, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Cifti2Image(values.astype(np.float32), (rows, columns)), path)
    return path


def write_dtseries(path, values=None, axis=None, step=TR, unit="SECOND"):
    axis = brain_models() if axis is None else axis
    values = series(len(axis)) if values is None else values
    return write_cifti(path, values, SeriesAxis(0, step, len(values), unit=unit), axis)


def parcels_axis(names=("LH_Vis_1", "LH_Default_1", "RH_Vis_1", "Thalamus")):
    vertices = [{_NAMES["L"]: np.arange(10)}, {_NAMES["L"]: np.arange(10, 34)}, {_NAMES["R"]: np.arange(5, 36)}, {}]
    voxels = [np.empty((0, 3), int)] * 3 + [VOXELS]
    sizes = dict.fromkeys(_NAMES.values(), N_VERTICES)
    return ParcelsAxis(list(names), voxels, vertices, AFFINE, SHAPE, sizes)


def write_ptseries(path, values=None, axis=None, step=TR, unit="SECOND"):
    axis = parcels_axis() if axis is None else axis
    values = series(len(axis)) if values is None else values
    return write_cifti(path, values, SeriesAxis(0, step, len(values), unit=unit), axis)


def labels_of(axis):
    """Left vertices below 10 are parcel 1, the others 2; right ones 3 from vertex 5 on, else none; voxels 7."""
    right = np.where(axis.vertex >= 5, 3, 0)
    left = np.where(axis.vertex < 10, 1, 2)
    return np.where(axis.name == _NAMES["L"], left, np.where(axis.name == _NAMES["R"], right, 7))


def write_dlabel(path, axis=None, names=("LH_Vis_1", "LH_Default_1", "RH_Vis_1", "Thalamus")):
    axis = brain_models() if axis is None else axis
    table = {0: ("???", (1, 1, 1, 0))} | {
        key: (name, (0.1, 0.2, 0.3, 1)) for key, name in zip((1, 2, 3, 7), names, strict=True)
    }
    return write_cifti(path, labels_of(axis)[None], LabelAxis(["x"], [table]), axis)


def write_gifti(path, rows, intent="NIFTI_INTENT_TIME_SERIES", meta=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = [nib.gifti.GiftiDataArray(np.asarray(row, np.float32), intent=intent) for row in rows]
    nib.save(nib.GiftiImage(darrays=arrays, meta=nib.gifti.GiftiMetaData(meta or {})), path)
    return path


def hemisphere(side, wall=0.0, seed=0, n_vertices=N_VERTICES, n_time_points=N_TIME_POINTS):
    values = series(n_vertices, seed + ord(side), n_time_points)
    values[:, len(USED[side]) :] = wall
    return values


def write_label_gifti(path, keys, names):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = nib.gifti.GiftiLabelTable()
    for key, name in {0: "Background+FreeSurfer_Defined_Medial_Wall", **names}.items():
        label = nib.gifti.GiftiLabel(key=key, red=1, green=0, blue=0, alpha=1)
        label.label = name
        table.labels.append(label)
    array = nib.gifti.GiftiDataArray(
        np.asarray(keys, np.int32), intent="NIFTI_INTENT_LABEL", datatype="NIFTI_TYPE_INT32"
    )
    nib.save(nib.GiftiImage(darrays=[array], labeltable=table), path)
    return path


def write_sidecar(path, content=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"RepetitionTime": TR} if content is None else content))


def write_description(root):
    root.mkdir(parents=True, exist_ok=True)
    content = {"Name": "surfaces", "BIDSVersion": "1.9.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "x"}]}
    (root / "dataset_description.json").write_text(json.dumps(content))
    return root
