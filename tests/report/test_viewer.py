"""Slices of a map as the page shows them: what is planted at a place is shown there, left on the left."""

import base64
import io
import re

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine
from PIL import Image

from titan_neuro.report import write_report
from titan_neuro.report.viewer import map_viewer

BLOB_MM = (-42, -21, 51)
"""In the left hand area: on the left, behind the middle, high."""


def write_blob(path, affine, shape):
    """Write a map that is 1 within 8 mm of `BLOB_MM` and 0 elsewhere, on any grid."""
    points = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    inside = np.linalg.norm(points - BLOB_MM, axis=-1) < 8
    data = np.where(np.linalg.norm(points - [0, -18, 10], axis=-1) < 75, inside, np.nan)
    nibabel.Nifti1Image(data.astype(np.float32), affine).to_filename(path)
    return path


def grid(*steps, origin):
    return nibabel.affines.from_matvec(np.diag(steps), origin)


GRIDS = {
    "RAS": (grid(4, 4, 4, origin=(-90, -126, -72)), (46, 55, 46)),
    "LAS": (grid(-4, 4, 4, origin=(90, -126, -72)), (46, 55, 46)),
    "LPI": (grid(-4, -4, -4, origin=(90, 90, 108)), (46, 55, 46)),
}


def slice_of(viewer, name):
    """The slice that a plane begins with, RGB ``(rows, columns, 3)``, cut out as the script does it."""
    plane = next(plane for plane in viewer["planes"] if plane["name"] == name)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(plane["source"].partition(",")[2]))).convert("RGB"))
    slider = viewer["sliders"][plane["axis"]]
    index = (slider["at"] - slider["low"]) // slider["step"]
    top, left = (index // plane["columns"]) * plane["height"], (index % plane["columns"]) * plane["width"]
    return plane, picture[top : top + plane["height"], left : left + plane["width"]].astype(int)


@pytest.mark.parametrize("orientation", GRIDS)
def test_a_blob_is_where_it_was_planted(tmp_path, orientation):
    viewer = map_viewer(write_blob(tmp_path / "map.nii.gz", *GRIDS[orientation]), "skillar", limit=1)
    at = [slider["at"] for slider in viewer["sliders"]]
    assert np.linalg.norm(np.subtract(at, BLOB_MM)) < 10
    for name in ("coronal", "axial", "sagittal"):
        plane, shown = slice_of(viewer, name)
        red = np.argwhere((shown[..., 0] > 60) & (2 * shown[..., 2] < shown[..., 0]))
        across, up = (viewer["sliders"][plane[axis]] for axis in ("across", "up"))
        row, column = red.mean(axis=0)
        found = across["low"] + 3 * column, up["low"] + 3 * (plane["height"] - 1 - row)
        assert np.allclose(found, [BLOB_MM[plane["across"]], BLOB_MM[plane["up"]]], atol=4)
        if name != "sagittal":
            assert column < plane["width"] / 2


def test_sliders_reach_the_whole_template(tmp_path):
    viewer = map_viewer(write_blob(tmp_path / "map.nii.gz", *GRIDS["RAS"]), "skillar")
    sizes = {plane["across"]: plane["width"] for plane in viewer["planes"]}
    sizes |= {plane["up"]: plane["height"] for plane in viewer["planes"]}
    for axis, slider in enumerate(viewer["sliders"]):
        assert (slider["high"] - slider["low"]) // slider["step"] + 1 == sizes[axis]
        assert slider["low"] <= -60
        assert slider["high"] > 60


def test_the_page_has_the_slices_of_the_skill_alone(full_report, output_folder):
    html = full_report.read_text(encoding="utf-8")
    assert html.count('<div class="viewer">') == 1
    # Three of the slices, two of the surface.
    assert html.count('type="range"') == 3 + 2
    assert len(re.findall(r'<div class="slice" role="img" aria-label="\w+ slice of skill_ar', html)) == 3
    parcels = output_folder().scores().parcels(["a", "b", "c"]).root
    page = write_report(parcels).read_text(encoding="utf-8")
    assert '<div class="viewer">' not in page
    assert '<div class="surface"' not in page
