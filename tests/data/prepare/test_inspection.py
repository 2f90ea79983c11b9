import nibabel as nib
import numpy as np
import pytest
from nilearn.signal import clean
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, lfilter, sosfilt

from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.data.prepare.high_pass import CausalHighPass
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.data.prepare.inspection import Inspection, is_band_passed
from titan_neuro.data.prepare.time_series import MaskedVolumes, ParcelTable
from titan_neuro.data.space import Space
from titan_neuro.errors import ImageError

TR = 1.5


def inspection(n_features, repetition_time=TR):
    return Inspection("sub-1", n_features, repetition_time)


def inspect(series, repetition_time, block=50):
    found = inspection(series.shape[1], repetition_time)
    for start in range(0, len(series), block):
        found.inspect(series[start : start + block])
    found.finish()
    return found


def low_passed(series, repetition_time, cutoff_hz=0.1):
    return clean(series, low_pass=cutoff_hz, t_r=repetition_time, standardize=None, detrend=False)


def sitcom_parcels(sitcom, subject):
    return ParcelTable(find_recordings(sitcom, subjects=[subject])[0]).read(0, 1486)


def haxby_voxels(haxby, run):
    recording = next(found for found in find_recordings(haxby) if int(found.entities["run"]) == run)
    mask = nib.load(recording.mask).get_fdata() > 0
    volumes = BoldImage(recording.path)
    return MaskedVolumes(volumes, Space(kind="volume", name="native", mask=mask, affine=volumes.affine)).read(0, 121)


class TestInspection:
    def test_constant_voxels_are_counted(self):
        run = np.random.default_rng(0).normal(size=(300, 37)).cumsum(axis=0)
        run[:, [4, 36]] = 1234.567
        assert inspect(run, TR).n_constant == 2
        late = run.copy()
        late[-1, 4] += 1
        assert inspect(late, TR).n_constant == 1
        assert inspect(late, TR, block=1).n_constant == 1

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
    @pytest.mark.parametrize("block", [1, 50])
    def test_temporal_snr_is_mean_over_deviation(self, dtype, block):
        run = (3000 + np.random.default_rng(1).normal(0, np.arange(10, 47), size=(300, 37))).astype(dtype)
        run[:, 5] = 1200
        others = np.delete(run, 5, axis=1).astype(float)
        found = inspect(run, TR, block).temporal_snr
        assert np.isnan(found[5])
        np.testing.assert_allclose(np.delete(found, 5), others.mean(axis=0) / others.std(axis=0), rtol=1e-4)

    def test_scaled_recordings_have_no_temporal_snr(self):
        noise = np.random.default_rng(2).normal(size=(300, 37))
        assert inspect(noise - noise.mean(axis=0), TR).temporal_snr is None
        assert inspect(noise + 100, TR).temporal_snr is not None

    def test_nothing_but_constants_is_refused(self):
        with pytest.raises(ImageError, match="sub-1: expected values that change over time, found every one of 9"):
            inspect(np.tile(np.arange(9.0), (40, 1)), TR)

    @pytest.mark.parametrize("n_time_points", [40, 255, 256, 257, 900])
    @pytest.mark.parametrize("block", [1, 64, 1000])
    def test_band_passed_run_is_refused(self, n_time_points, block):
        noise = np.random.default_rng(4).normal(size=(1000, 30))
        inspect(noise[:n_time_points], TR, block)
        with pytest.raises(
            ImageError, match=r"low-passed or band-passed.*predict even white noise \(r2 = 0\.99\)"
        ) as caught:
            inspect(low_passed(noise, TR)[:n_time_points], TR, block)
        assert "high-pass is fine" in caught.value.hint

    def test_band_passed_run_is_refused_early(self):
        noise = low_passed(np.random.default_rng(5).normal(size=(1000, 30)), TR)
        found = inspection(30)
        found.inspect(noise[:255])
        with pytest.raises(ImageError, match="band-passed"):
            found.inspect(noise[255:256])

    def test_of_many_voxels_those_far_apart_are_judged(self):
        """Were it the first thousand, the noise of air would hide what was done to the brain."""
        noise = np.random.default_rng(6).normal(size=(200, 9000))
        noise[:, 2000:] = low_passed(noise[:, 2000:], TR)
        with pytest.raises(ImageError, match="band-passed"):
            inspect(noise, TR)

    @pytest.mark.parametrize("n_time_points", [2, 5, 31])
    def test_too_short_to_tell(self, n_time_points):
        noise = low_passed(np.random.default_rng(7).normal(size=(200, 30)), TR)
        assert inspect(noise[:n_time_points], TR).n_constant == 0

    @pytest.mark.parametrize("subject", ["003", "007"])
    def test_real_parcels_are_refused_only_once_band_passed(self, sitcom, subject):
        series = sitcom_parcels(sitcom, subject)
        assert inspect(series, 1.0).n_constant == 0
        with pytest.raises(ImageError, match="band-passed"):
            inspect(low_passed(series, 1.0), 1.0)

    @pytest.mark.parametrize("run", [1, 8])
    def test_real_voxels_are_refused_only_once_band_passed(self, haxby, run):
        series = haxby_voxels(haxby, run)
        inspect(series, 2.5)
        with pytest.raises(ImageError, match="band-passed"):
            inspect(low_passed(series, 2.5), 2.5)


def autoregressive(phi, n_time_points=600):
    noise = np.random.default_rng(12).normal(size=(n_time_points + 500, 40))
    return lfilter([1], [1, -phi], noise, axis=0)[500:]


def hemodynamic(repetition_time, noise):
    time = np.arange(0, 30, repetition_time)
    response = time**5 * np.exp(-time) / 120 - time**15 * np.exp(-time) / 1.307674368e12 / 6
    rng = np.random.default_rng(13)
    smooth = lfilter(response, [1], rng.normal(size=(700, 40)), axis=0)[100:]
    return smooth / smooth.std(axis=0) + np.sqrt(noise) * rng.normal(size=smooth.shape)


def causal_low_pass(series):
    return sosfilt(butter(2, 0.1, fs=1.0, output="sos"), series, axis=0)


class TestBandPassed:
    @pytest.mark.parametrize("phi", [0.0, 0.9, 0.95])
    @pytest.mark.parametrize("repetition_time", [0.72, 1.0, 2.5])
    def test_autoregressive_noise_is_not(self, phi, repetition_time):
        assert not is_band_passed(autoregressive(phi), repetition_time)

    @pytest.mark.parametrize("repetition_time", [0.72, 1.0, 2.0])
    def test_hemodynamics_with_a_little_noise_are_not(self, repetition_time):
        assert not is_band_passed(hemodynamic(repetition_time, 0.05), repetition_time)

    @pytest.mark.parametrize("subject", [1, 5, 12])
    def test_real_parcels_are_not_until_they_are(self, sitcom, subject):
        series = sitcom_parcels(sitcom, f"{subject:03d}")
        assert not is_band_passed(series, 1.0)
        assert is_band_passed(low_passed(series, 1.0), 1.0)
        assert is_band_passed(gaussian_filter1d(series, 1.0, axis=0), 1.0)
        assert is_band_passed(causal_low_pass(series), 1.0)

    @pytest.mark.parametrize("run", [1, 12])
    def test_real_voxels_are_not_until_they_are(self, haxby, run):
        series = haxby_voxels(haxby, run)
        assert not is_band_passed(series, 2.5)
        assert not is_band_passed(CausalHighPass(series.shape[1], 0.008, 2.5)(series), 2.5)
        assert is_band_passed(low_passed(series, 2.5, 0.09), 2.5)

    @pytest.mark.parametrize("series", [autoregressive(0.0), autoregressive(0.9), hemodynamic(1.0, 0.05)])
    def test_filtered_series_are(self, series):
        for cutoff_hz in (0.08, 0.1, 0.2):
            assert is_band_passed(low_passed(series, 1.0, cutoff_hz), 1.0)
        assert is_band_passed(causal_low_pass(series), 1.0)
        # As a file holds it: on a baseline, with a drift, rounded to whole numbers.
        stored = 1000 + 50 * np.linspace(0, 1, 600)[:, None] + 10 * gaussian_filter1d(series, 1.0, axis=0)
        assert is_band_passed(np.round(stored).astype(np.int16), 1.0)

    @pytest.mark.parametrize(
        ("series", "repetition_time"),
        [(autoregressive(0.9), 4.0), (autoregressive(0.9)[:31], 1.0), (np.full((200, 3), 7.0), 1.0)],
        ids=["too slow", "too short", "constant"],
    )
    def test_undecidable_runs_are_accepted(self, series, repetition_time):
        assert not is_band_passed(series, repetition_time)
        assert not is_band_passed(gaussian_filter1d(series, 3.0, axis=0), repetition_time)
