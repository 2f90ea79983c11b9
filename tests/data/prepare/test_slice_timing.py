import nibabel as nib
import numpy as np
import pytest

from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare import slice_timing
from titan_neuro.data.prepare.scratch import Scratch
from titan_neuro.data.prepare.slice_timing import shift_slices
from titan_neuro.data.prepare.sources import Volumes
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
    def shift_(data, sidecar, read=lambda volumes: volumes.read(0, volumes.n_time_points)):
        path = tmp_path / "sub-1_bold.nii.gz"
        nib.save(nib.Nifti1Image(data.astype(np.float32), np.diag([3.0, -3.0, 3.0, 1.0])), path)
        recording = Recording(
            **{"path": path, "kind": "volume", "route": "native", "entities": {"subject": "1"}, "sidecar": sidecar},
            **{"repetition_time": TR, "events": None, "mask": None},
        )
        with Scratch(tmp_path / "slices") as scratch:
            return read(shift_slices(Volumes(path), recording, TR, scratch))

    return shift_


@pytest.mark.parametrize("direction", ["k", "k-", "j", "i-", None])
def test_every_slice_is_as_if_acquired_in_the_middle_of_the_volume(shift, direction):
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


def test_volumes_come_back_one_by_one_as_together(shift):
    data = np.random.default_rng(1).normal(1000, 10, (*SHAPE, N_TIME_POINTS))
    sidecar = {"SliceTiming": TIMES["j"], "SliceEncodingDirection": "j"}
    together = shift(data, sidecar)
    single = shift(data, sidecar, lambda volumes: [volumes.read(t, t + 1) for t in (0, 7, N_TIME_POINTS - 1)])
    assert np.array_equal(np.concatenate(single, axis=-1), together[..., [0, 7, N_TIME_POINTS - 1]])


def test_only_some_columns_are_in_memory_at_a_time(shift, monkeypatch):
    data = np.random.default_rng(2).normal(1000, 10, (*SHAPE, N_TIME_POINTS))
    whole = shift(data, {"SliceTiming": TIMES["k"]})
    widths = []
    fourier_shift = slice_timing.fourier_shift

    def watched(series, *arguments):
        widths.append(series.shape[1])
        return fourier_shift(series, *arguments)

    monkeypatch.setattr(slice_timing, "fourier_shift", watched)
    monkeypatch.setattr(slice_timing, "_MEMORY_BYTES", 4 * 64 * N_TIME_POINTS)
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
def test_sidecars_that_say_too_little_or_nonsense(shift, tmp_path, sidecar, message):
    with pytest.raises(MetadataError, match=message):
        shift(np.ones((*SHAPE, 3)), sidecar)
    assert not (tmp_path / "slices").exists()


def test_a_value_that_is_not_finite(shift):
    data = np.ones((*SHAPE, 5))
    data[1, 2, 3, 4] = np.inf
    with pytest.raises(ImageError, match=r"found inf in volume 4, voxel \(1, 2, 3\)"):
        shift(data, {"SliceTiming": TIMES["k"]})
