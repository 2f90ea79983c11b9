"""Surrogates keep the stated statistics of the data, and nothing else."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.signal import lfilter

from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.data.prepare.time_series import ParcelTable
from titan_neuro.data.simulate.surrogate import surrogate, write_surrogate
from titan_neuro.tables import write_tsv


@pytest.fixture
def series():
    """Three autocorrelated series with a common part, a mean, and a constant one."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(600, 3)) + 2 * rng.normal(size=(600, 1))
    values = lfilter([1], [1, -0.8], noise, axis=0) + np.array([100.0, -5, 0])
    return np.column_stack([values, np.full(600, 7.0)])


def lag_one(values):
    centered = values - values.mean(axis=0)
    return (centered[1:] * centered[:-1]).sum(axis=0) / (centered**2).sum(axis=0)


def test_white_noise_keeps_only_mean_and_deviation(series):
    made = surrogate(series, "white", np.random.default_rng(1), keep_mean=True)
    np.testing.assert_allclose(made.std(axis=0), series.std(axis=0), rtol=0.1)
    np.testing.assert_allclose(made[:, :3].mean(axis=0), series[:, :3].mean(axis=0), atol=1.5)
    assert (np.abs(lag_one(made[:, :3])) < 0.12).all()
    assert (np.abs(np.corrcoef(made[:, :3].T)[np.triu_indices(3, 1)]) < 0.12).all()
    assert (np.corrcoef(series[:, :3].T)[np.triu_indices(3, 1)] > 0.7).all()
    np.testing.assert_array_equal(made[:, 3], 7.0)


@pytest.mark.parametrize("n_time_points", [599, 600])
def test_random_phases_keep_amplitudes_and_autocorrelation(series, n_time_points):
    series = series[:n_time_points]
    made = surrogate(series, "phase", np.random.default_rng(1), keep_mean=True)
    np.testing.assert_allclose(np.abs(np.fft.rfft(made, axis=0)), np.abs(np.fft.rfft(series, axis=0)), atol=1e-8)
    np.testing.assert_allclose(lag_one(made[:, :3]), lag_one(series[:, :3]), atol=0.02)
    assert (np.abs(np.corrcoef(made[:, :3].T)[np.triu_indices(3, 1)]) < 0.3).all()
    assert (np.abs([np.corrcoef(made[:, v], series[:, v])[0, 1] for v in range(3)]) < 0.3).all()


def test_the_mean_can_be_left_out(series):
    for kind in ("white", "phase"):
        kept, bare = (surrogate(series, kind, np.random.default_rng(1), keep_mean=keep) for keep in (True, False))
        np.testing.assert_allclose(kept - bare, np.broadcast_to(series.mean(axis=0), series.shape), atol=1e-9)


def dataset(root):
    func = root / "sub-01/func"
    func.mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    return func


def test_an_image_keeps_grid_timing_and_events(tmp_path):
    func = dataset(tmp_path / "bids")
    data = np.random.default_rng(0).normal(1000, 10, (4, 5, 6, 60)).astype(np.float32)
    affine = np.diag([3.0, 3, 4, 1])
    image = nib.Nifti1Image(data, affine)
    image.header.set_zooms((3, 3, 4, 1.5))
    image.header.set_xyzt_units("mm", "sec")
    for run in (1, 2):
        nib.save(image, func / f"sub-01_task-movie_run-{run}_bold.nii")
    (func / "sub-01_task-movie_run-1_events.tsv").write_text("onset\tduration\ttrial_type\n10\t60\tmovie\n")
    recordings = find_recordings(tmp_path / "bids")
    made = [write_surrogate(recording, "white", tmp_path / "noise", 3) for recording in recordings]
    assert made[0].events == recordings[0].events and made[0].key == recordings[0].key
    back = nib.load(made[0].path)
    assert back.shape == data.shape
    np.testing.assert_array_equal(back.affine, affine)
    assert back.header.get_zooms()[3] == 1.5
    values = back.get_fdata()
    np.testing.assert_allclose(values.mean(axis=-1), data.mean(axis=-1), atol=8)
    assert abs(np.corrcoef(values.ravel() - 1000, data.ravel() - 1000)[0, 1]) < 0.05
    # Another run, or another seed, other noise; the same, the same.
    other = nib.load(made[1].path).get_fdata()
    assert abs(np.corrcoef(values.ravel() - 1000, other.ravel() - 1000)[0, 1]) < 0.05
    content = made[0].path.read_bytes()
    assert write_surrogate(recordings[0], "white", tmp_path / "noise", 3).path.read_bytes() == content
    assert write_surrogate(recordings[0], "white", tmp_path / "noise", 4).path.read_bytes() != content
    assert not (tmp_path / "noise/series").exists()


def test_a_table_keeps_its_parcels(tmp_path):
    func = dataset(tmp_path / "bids")
    values = np.random.default_rng(0).normal(size=(80, 3))
    # A quotation mark is a part of the name, and a parcel that the run lacks stays lost.
    table = pd.DataFrame(values, columns=["V1", '"V2"', "MT"]).assign(lost=np.nan)
    write_tsv(func / "sub-01_task-movie_atlas-x_timeseries.tsv", table)
    (func / "sub-01_task-movie_atlas-x_timeseries.json").write_text(json.dumps({"RepetitionTime": 1.0}))
    [recording] = find_recordings(tmp_path / "bids")
    made = ParcelTable(replace(recording, path=write_surrogate(recording, "phase", tmp_path / "noise", 3).path))
    assert (made.space.parcels, made.space.lost_parcels) == (("V1", '"V2"', "MT"), ("lost",))
    np.testing.assert_allclose(
        np.abs(np.fft.rfft(made.read(0, 80), axis=0)), np.abs(np.fft.rfft(values, axis=0)), atol=1e-6
    )
