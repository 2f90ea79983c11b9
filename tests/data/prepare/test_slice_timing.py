import nibabel as nib
import numpy as np
import pytest
from autoregression import ar5_r2

from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare import slice_timing
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.data.prepare.scratch import ScratchSeries
from titan_neuro.data.prepare.slice_timing import correct_slice_timing, fourier_shift, slice_timing_shifts
from titan_neuro.errors import ImageError, MetadataError

SHAPE, N_TIME_POINTS, TR = (6, 5, 7), 120, 2.0
# Interleaved, as they are acquired along the slices: the last is not as late as a whole TR.
TIMES = {
    "i": [0.0, 0.9, 0.3, 1.2, 0.6, 1.5],
    "j": [0.0, 0.8, 0.4, 1.2, 1.6],
    "k": [0.0, 1.0, 0.25, 1.25, 0.5, 1.5, 0.75],
}


def signal(time_s):
    """What each voxel does at a time ``(..., 1)``: three cosines of its own, all below 0.8 of Nyquist."""
    rng = np.random.default_rng(0)
    frequency = rng.uniform(0.005, 0.2, (3, *SHAPE))
    phase = rng.uniform(0, 2 * np.pi, (3, *SHAPE))
    base = rng.uniform(800, 1200, SHAPE)
    waves = [
        10 * np.cos(2 * np.pi * f[..., None] * time_s + p[..., None]) for f, p in zip(frequency, phase, strict=True)
    ]
    return base[..., None] + sum(waves)


def acquired_at(direction):
    """Seconds into the volume at which each voxel is acquired, by the definition of BIDS."""
    axis = "ijk".index(direction[0])
    times = np.array(TIMES[direction[0]])
    # With a minus the first entry belongs to the slice of the highest index.
    times = times[::-1] if direction.endswith("-") else times
    return np.broadcast_to(np.moveaxis(times.reshape(-1, 1, 1), 0, axis), SHAPE)[..., None]


@pytest.fixture
def shift(tmp_path):
    def shift_(data, sidecar, read=lambda image: image.read(0, image.n_volumes)):
        path = tmp_path / "sub-1_bold.nii.gz"
        nib.save(nib.Nifti1Image(data.astype(np.float32), np.diag([3.0, -3.0, 3.0, 1.0])), path)
        recording = Recording(
            **{"path": path, "kind": "volume", "route": "native", "entities": {"subject": "1"}, "sidecar": sidecar},
            **{"events": None, "mask": None},
        )
        with ScratchSeries(tmp_path / "slices") as scratch:
            return read(correct_slice_timing(BoldImage(path), recording, TR, scratch))

    return shift_


@pytest.mark.parametrize("direction", ["k", "k-", "j", "i-", None])
def test_slices_are_shifted_to_middle_of_volume(shift, direction):
    volumes = np.arange(N_TIME_POINTS) * TR
    recorded = signal(volumes + acquired_at(direction or "k"))
    sidecar = {"SliceTiming": TIMES[(direction or "k")[0]]}
    found = shift(recorded, {**sidecar, "SliceEncodingDirection": direction} if direction else sidecar)
    times = TIMES[(direction or "k")[0]]
    expected = signal(volumes + np.full((*SHAPE, 1), max(times) / 2))
    assert found.dtype == np.float32
    inner = np.s_[..., 20:-20]
    assert np.abs(found - expected)[inner].max() < 1.0
    assert np.sqrt(((found - expected)[inner] ** 2).mean()) < 0.1
    # As recorded it is far from that, and shifted the other way round it would be as well.
    assert np.abs(recorded - expected)[inner].max() > 15


def test_single_volumes_equal_the_block(shift):
    data = np.random.default_rng(1).normal(1000, 10, (*SHAPE, N_TIME_POINTS))
    sidecar = {"SliceTiming": TIMES["j"], "SliceEncodingDirection": "j"}
    together = shift(data, sidecar)
    single = shift(data, sidecar, lambda volumes: [volumes.read(t, t + 1) for t in (0, 7, N_TIME_POINTS - 1)])
    assert np.array_equal(np.concatenate(single, axis=-1), together[..., [0, 7, N_TIME_POINTS - 1]])


def test_memory_bounds_the_columns_in_memory(shift, monkeypatch):
    data = np.random.default_rng(2).normal(1000, 10, (*SHAPE, N_TIME_POINTS))
    whole = shift(data, {"SliceTiming": TIMES["k"]})
    widths = []
    fourier_shift = slice_timing.fourier_shift

    def watched(series, *arguments):
        widths.append(series.shape[1])
        return fourier_shift(series, *arguments)

    monkeypatch.setattr(slice_timing, "fourier_shift", watched)
    monkeypatch.setattr(slice_timing, "MEMORY_BYTES", 4 * 64 * N_TIME_POINTS)
    assert np.array_equal(shift(data, {"SliceTiming": TIMES["k"]}), whole)
    # A slice of 6 x 5 voxels, four at a time.
    assert widths == [4, 4, 4, 4, 4, 4, 4, 2] * 7


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        ({}, "gives no SliceTiming in seconds: found None"),
        ({"SliceTiming": 0.5}, "found 0.5"),
        ({"SliceTiming": ["0", *TIMES["k"][1:]]}, "gives no SliceTiming in seconds"),
        ({"SliceTiming": [float("nan"), *TIMES["k"][1:]]}, "gives no SliceTiming in seconds"),
        ({"SliceTiming": TIMES["k"][1:]}, "expected 7 entries in SliceTiming, one a slice along k, found 6"),
        ({"SliceTiming": []}, "expected 7 entries in SliceTiming, one a slice along k, found 0"),
        ({"SliceTiming": TIMES["k"], "SliceEncodingDirection": "i"}, "expected 6 entries .* along i, found 7"),
        ({"SliceTiming": [1000 * t for t in TIMES["k"]]}, r"from 0 to the repetition time of 2.0 s, found 0 to 1500 s"),
        ({"SliceTiming": [-0.1, *TIMES["k"][1:]]}, "found -0.1 to"),
        ({"SliceTiming": TIMES["k"], "SliceEncodingDirection": "z"}, "SliceEncodingDirection of i, j or k.* found 'z'"),
        ({"SliceTiming": TIMES["k"], "SliceEncodingDirection": ["k"]}, "SliceEncodingDirection of i, j or k"),
    ],
)
def test_incomplete_or_invalid_sidecars_are_refused(shift, tmp_path, sidecar, message):
    with pytest.raises(MetadataError, match=message):
        shift(np.ones((*SHAPE, 3)), sidecar)
    assert not (tmp_path / "slices").exists()


def test_a_value_that_is_not_finite(shift):
    data = np.ones((*SHAPE, 5))
    data[1, 2, 3, 4] = np.inf
    with pytest.raises(ImageError, match=r"found inf in volume 4, voxel \(1, 2, 3\)"):
        shift(data, {"SliceTiming": TIMES["k"]})


class TestFourierShift:
    @pytest.mark.parametrize("shift_s", [0.9, -0.35, 0.0])
    @pytest.mark.parametrize("n_time_points", [100, 101])
    def test_shift_of_mirrored_cosines_is_exact(self, shift_s, n_time_points):
        def signal(time):
            return sum(np.cos(np.pi * k * (time + 0.5) / n_time_points) * k for k in (0, 1, 7, 60))

        volumes = np.arange(n_time_points)
        found = fourier_shift(np.stack([signal(volumes)] * 2, axis=-1), shift_s, 1.8)
        np.testing.assert_allclose(found, np.stack([signal(volumes + shift_s / 1.8)] * 2, axis=-1), atol=1e-10)

    def test_band_limited_signal_is_shifted_inside_a_run(self):
        time = np.arange(400) * 2.0
        found = fourier_shift(np.sin(0.3 * time + 1), 0.8, 2.0)[50:-50]
        np.testing.assert_allclose(found, np.sin(0.3 * (time + 0.8) + 1)[50:-50], atol=5e-3)

    def test_a_drift_does_not_wrap_around(self):
        found = fourier_shift(np.linspace(1000, 1100, 201), 0.5, 1.0)
        np.testing.assert_allclose(found[20:-20], np.linspace(1000, 1100, 201)[20:-20] + 0.25, atol=0.02)

    def test_fourier_shift_keeps_noise_white_linear_does_not(self):
        noise = np.random.default_rng(11).normal(size=(600, 60))
        linear = (noise[1:] + noise[:-1]) / 2
        assert ar5_r2(fourier_shift(noise, 0.5, 1.0)) == pytest.approx(-0.01, abs=0.02)
        assert ar5_r2(linear) == pytest.approx(0.42, abs=0.03)

    def test_shifts_point_to_middle_of_acquired_span(self):
        np.testing.assert_allclose(slice_timing_shifts([0.0, 0.6, 0.3, 0.9]), [0.45, -0.15, 0.15, -0.45])
