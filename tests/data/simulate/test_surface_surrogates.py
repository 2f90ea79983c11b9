import nibabel as nib
import numpy as np
import pytest
from surface_files import TR, USED, hemisphere, series, write_dtseries, write_gifti, write_ptseries

from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.surfaces import SurfaceSeries
from titan_neuro.data.prepare.time_series import ParcelTable
from titan_neuro.data.simulate.surrogate import write_surrogate


def recording(path, kind, hemispheres=None):
    entities = {"subject": "1", "task": "x", "space": "fsLR"}
    return Recording(
        **{"path": path, "kind": kind, "route": kind, "entities": entities, "events": None, "mask": None},
        hemispheres=hemispheres or {},
    )


@pytest.mark.parametrize("kind", ["white", "phase"])
def test_surrogates_of_dense_series_have_the_same_points(tmp_path, kind):
    values = series(73)
    values[:, 9] = 0
    path = write_dtseries(tmp_path / "sub-1_task-x_space-fsLR_bold.dtseries.nii", values)
    source = recording(path, "surface")
    made = SurfaceSeries(write_surrogate(source, kind, tmp_path / "noise", seed=0))
    assert np.array_equal(made.space.grayordinates.codes, SurfaceSeries(source).space.grayordinates.codes)
    assert made.header_repetition_time == TR
    noise, kept = made.read(0, 60), np.delete(values, 9, axis=1)
    assert not np.allclose(noise, kept, atol=0.1)
    if kind == "phase":
        np.testing.assert_allclose(noise.std(axis=0), kept.std(axis=0), rtol=1e-4)


def test_surrogates_of_hemispheres_have_the_same_points(tmp_path):
    paths = {
        side: write_gifti(tmp_path / f"sub-1_task-x_hemi-{side}_space-fsLR_bold.func.gii", hemisphere(side))
        for side in "LR"
    }
    made = write_surrogate(recording(paths["L"], "surface", paths), "white", tmp_path / "noise", seed=0)
    assert {side: path.name for side, path in made.hemispheres.items()} == {
        side: path.name for side, path in paths.items()
    }
    assert SurfaceSeries(made).space.n_features == sum(map(len, USED.values()))


def test_surrogates_of_parcel_series_keep_parcels_and_places(tmp_path):
    values = series(4)
    values[:, 2] = np.nan
    path = write_ptseries(tmp_path / "sub-1_task-x_space-fsLR_timeseries.ptseries.nii", values)
    source = recording(path, "parcels")
    made = ParcelTable(write_surrogate(source, "white", tmp_path / "noise", seed=0))
    assert made.space.identity() == ParcelTable(source).space.identity()
    assert made.space.lost_parcels == ("RH_Vis_1",)
    assert made.space.layout.identity() == ParcelTable(source).space.layout.identity()
    assert not np.allclose(made.read(0, 60), values[:, [0, 1, 3]], atol=0.1)
    assert nib.load(tmp_path / "noise" / path.name).header.get_axis(0).step == TR
