import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.signal import clean
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, lfilter, sosfilt, sosfilt_zi
from sklearn.linear_model import Ridge

from titan_neuro.data.prepare.temporal import (
    CausalHighPass,
    CausalRegression,
    fourier_shift,
    is_band_passed,
    slice_timing_shifts,
)
from titan_neuro.errors import ConfigError, MetadataError


@pytest.fixture
def bold():
    rng = np.random.default_rng(0)
    return 900 + np.cumsum(rng.normal(size=(150, 7)), axis=0)


@pytest.fixture
def nuisance():
    """Five columns as confounds are: slow, fast, a spike, one on a large offset, one that starts late."""
    rng = np.random.default_rng(1)
    columns = rng.normal(size=(150, 5))
    columns[:, 0] = np.cumsum(columns[:, 0])
    columns[:, 2] = 0
    columns[70, 2] = 1
    columns[:, 3] = 1e4 + columns[:, 3]
    columns[:100, 4] = 0
    return columns


CAUSAL = {
    "high-pass": lambda: CausalHighPass(12, 0.01, 1.0),
    "regression": lambda: (lambda fit: lambda block: fit(block[:, :7], block[:, 7:]))(CausalRegression(7, 5)),
}


@pytest.mark.parametrize("make", CAUSAL.values(), ids=CAUSAL)
class TestEveryCausalPiece:
    @pytest.mark.parametrize("cuts", [(1,), (31, 32, 33, 100), tuple(range(1, 150)), (0, 0, 150)])
    def test_blocks_give_the_same_bits_as_one_call(self, bold, nuisance, make, cuts):
        stream = np.hstack([bold, nuisance])
        step = make()
        pieces = [step(part) for part in np.split(stream, cuts)]
        assert np.array_equal(np.concatenate(pieces), make()(stream))

    @pytest.mark.parametrize("volume", [0, 1, 69, 70, 148])
    @pytest.mark.parametrize("later", [np.nan, 1e9])
    def test_no_later_frame_changes_an_earlier_one(self, bold, nuisance, make, volume, later):
        stream = np.hstack([bold, nuisance])
        other = stream.copy()
        other[volume + 1 :] = later
        assert np.array_equal(make()(stream)[: volume + 1], make()(other)[: volume + 1])


class TestHighPass:
    def test_it_is_a_butterworth_filter_in_the_steady_state_of_the_first_frame(self, bold):
        sections = butter(2, 0.01, "highpass", fs=1.0, output="sos")
        state = sosfilt_zi(sections)[..., None] * bold[0]
        expected, _ = sosfilt(sections, bold, axis=0, zi=state)
        found = CausalHighPass(7, 0.01, 1.0)(bold)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        assert (found[0] == 0).all()

    def test_a_constant_gives_zero_for_ever(self):
        assert (CausalHighPass(1, 0.01, 1.0)(np.full((500, 1), 12345.678)) == 0).all()

    @pytest.mark.parametrize(("frequency_hz", "gain"), [(0.001, 0.0156), (0.008, np.sqrt(0.5)), (0.1, 1.0)])
    def test_slow_drifts_go_and_fast_signals_stay(self, frequency_hz, gain):
        time = np.arange(10_000) * 0.8
        found = CausalHighPass(1, 0.008, 0.8)(np.sin(2 * np.pi * frequency_hz * time)[:, None])[5000:]
        assert np.sqrt(2) * found.std() == pytest.approx(gain, abs=2e-3)

    @pytest.mark.parametrize("cutoff_hz", [0.0, -0.1, 0.25, 1.0])
    def test_a_cut_off_outside_the_spectrum_is_refused(self, cutoff_hz):
        with pytest.raises(ConfigError, match=r"below the Nyquist frequency: found .*Nyquist 0.25 Hz"):
            CausalHighPass(1, cutoff_hz, 2.0)


class TestRegression:
    @pytest.mark.parametrize("volume", [1, 2, 5, 40, 149])
    def test_it_is_ridge_regression_on_the_frames_so_far_solved_anew(self, bold, volume):
        columns = np.random.default_rng(3).normal(size=(150, 4)) * [1, 100, 0.01, 1] + [0, 1e4, 0, 3]
        found = CausalRegression(7, 4)(bold, columns)
        seen, target = columns[: volume + 1], bold[: volume + 1]
        deviation = seen.std(axis=0)
        # A penalty of n0 variances is one of n0 on standardized columns.
        oracle = Ridge(alpha=4).fit(seen / deviation, target)
        expected = target[-1] - oracle.predict(seen[-1:] / deviation)[0]
        np.testing.assert_allclose(found[volume], expected, atol=1e-9)

    def test_late_it_is_least_squares(self):
        rng = np.random.default_rng(4)
        columns, noise = rng.normal(size=(3000, 3)), rng.normal(size=(3000, 6))
        bold = 500 + columns @ rng.normal(size=(3, 6)) + noise
        found = CausalRegression(6, 3)(bold, columns)
        design = np.column_stack([np.ones(3000), columns])
        expected = bold - design @ np.linalg.lstsq(design, bold, rcond=None)[0]
        np.testing.assert_allclose(found[-1], expected[-1], atol=5e-3)
        assert np.corrcoef(found[500:].ravel(), noise[500:].ravel())[0, 1] > 0.998

    def test_a_confound_goes_and_the_rest_stays(self):
        rng = np.random.default_rng(5)
        columns, signal = np.cumsum(rng.normal(size=(600, 2)), axis=0), rng.normal(size=(600, 1))
        bold = 1000 + signal + columns @ [[5.0], [-0.5]]
        found = CausalRegression(1, 2)(bold, columns)[200:]
        assert np.corrcoef(found[:, 0], signal[200:, 0])[0, 1] > 0.97
        before, after = (np.corrcoef(np.column_stack([y, columns[200:]]).T)[0, 1:] for y in (bold[200:], found))
        assert np.abs(before).max() > 0.9
        assert np.abs(after).max() < 0.2

    def test_the_first_frames_fade_in_instead_of_being_fitted_away(self):
        rng = np.random.default_rng(6)
        columns, noise = rng.normal(size=(60, 24)), rng.normal(size=(60, 2000))
        centered = noise - [noise[: t + 1].mean(axis=0) for t in range(60)]
        found = CausalRegression(2000, 24)(noise, columns)
        share = found.std(axis=1)[1:] / centered.std(axis=1)[1:]
        # By the ridge: a third of volume 1, half within ten volumes.
        assert share.min() == pytest.approx(1 / 3)
        assert share[10:].min() > 0.5
        # Without the ridge, 25 unknowns take all of the first 25 volumes.
        design = np.column_stack([np.ones(20), columns[:20]])
        assert np.abs(noise[:20] - design @ np.linalg.lstsq(design, noise[:20], rcond=None)[0]).max() < 1e-10

    def test_a_column_that_starts_late_fades_in_as_well(self):
        rng = np.random.default_rng(7)
        noise, late = rng.normal(size=(200, 2000)), np.zeros((200, 6))
        late[100:] = rng.normal(size=(100, 6))
        found, without = CausalRegression(2000, 6)(noise, late), CausalRegression(2000, 0)(noise, late[:, :0])
        assert np.array_equal(found[:100], without[:100])
        assert (found[100:].std(axis=1) / without[100:].std(axis=1)).min() > 0.3

    def test_constant_columns_contribute_nothing(self, bold):
        high_motion = np.random.default_rng(8).normal(size=(150, 2))
        constant = np.column_stack([high_motion, np.zeros(150), np.full(150, 0.1)])
        found = CausalRegression(7, 4)(bold, constant)
        assert np.isfinite(found).all()
        # They count as columns, though: the ridge is the same for every run of a study.
        deviation = high_motion.std(axis=0)
        oracle = Ridge(alpha=4).fit(high_motion / deviation, bold)
        np.testing.assert_allclose(found[-1], bold[-1] - oracle.predict(high_motion[-1:] / deviation)[0], atol=1e-9)

    def test_a_large_baseline_costs_no_precision(self, nuisance):
        small = np.random.default_rng(9).normal(size=(150, 3))
        near, far = CausalRegression(3, 5)(small, nuisance), CausalRegression(3, 5)(small + 2.0**20, nuisance)
        np.testing.assert_allclose(far, near, atol=1e-8)

    def test_many_features_are_those_of_few(self, nuisance):
        wide = np.random.default_rng(10).normal(size=(150, 9000)).astype(np.float32)
        found = CausalRegression(9000, 5)(wide, nuisance)
        for part in (slice(0, 10), slice(4090, 4100), slice(8990, 9000)):
            np.testing.assert_allclose(found[:, part], CausalRegression(10, 5)(wide[:, part], nuisance), atol=1e-12)

    def test_another_number_of_rows_is_refused(self, bold, nuisance):
        with pytest.raises(MetadataError, match="found 149 for 150"):
            CausalRegression(7, 5)(bold, nuisance[:-1])


def ar5_r2(series):
    """r2 of an autoregression of order 5, fitted on the first half and scored on the second, over all columns."""
    past = np.stack([series[4 - lag : len(series) - 1 - lag] for lag in range(5)], axis=-1)
    target, half = series[5:], len(series) // 2
    scores = []
    for column in range(series.shape[1]):
        weights = np.linalg.lstsq(past[:half, column], target[:half, column], rcond=None)[0]
        error = target[half:, column] - past[half:, column] @ weights
        scores.append(1 - error.var() / target[half:, column].var())
    return np.mean(scores)


def test_what_is_causal_teaches_white_noise_nothing():
    rng = np.random.default_rng(14)
    noise, slow = rng.normal(size=(800, 60)), np.cumsum(rng.normal(size=(800, 24)), axis=0)
    assert ar5_r2(CausalHighPass(60, 0.008, 1.0)(noise)) < 0.01
    assert ar5_r2(CausalRegression(60, 24)(noise, slow)) < 0.01
    # A band-pass does, causal or not.
    assert ar5_r2(sosfilt(butter(2, [0.01, 0.1], "bandpass", fs=1.0, output="sos"), noise, axis=0)) > 0.9


class TestFourierShift:
    @pytest.mark.parametrize("shift_s", [0.9, -0.35, 0.0])
    @pytest.mark.parametrize("n_time_points", [100, 101])
    def test_it_is_exact_on_what_the_mirrored_series_can_hold(self, shift_s, n_time_points):
        def signal(time):
            return sum(np.cos(np.pi * k * (time + 0.5) / n_time_points) * k for k in (0, 1, 7, 60))

        volumes = np.arange(n_time_points)
        found = fourier_shift(np.stack([signal(volumes)] * 2, axis=-1), shift_s, 1.8)
        np.testing.assert_allclose(found, np.stack([signal(volumes + shift_s / 1.8)] * 2, axis=-1), atol=1e-10)

    def test_inside_a_run_any_band_limited_signal_is_shifted(self):
        time = np.arange(400) * 2.0
        found = fourier_shift(np.sin(0.3 * time + 1), 0.8, 2.0)[50:-50]
        np.testing.assert_allclose(found, np.sin(0.3 * (time + 0.8) + 1)[50:-50], atol=5e-3)

    def test_a_drift_does_not_wrap_around(self):
        found = fourier_shift(np.linspace(1000, 1100, 201), 0.5, 1.0)
        np.testing.assert_allclose(found[20:-20], np.linspace(1000, 1100, 201)[20:-20] + 0.25, atol=0.02)

    def test_white_noise_stays_white_and_would_not_under_a_linear_shift(self):
        noise = np.random.default_rng(11).normal(size=(600, 60))
        linear = (noise[1:] + noise[:-1]) / 2
        assert ar5_r2(fourier_shift(noise, 0.5, 1.0)) == pytest.approx(-0.01, abs=0.02)
        assert ar5_r2(linear) == pytest.approx(0.42, abs=0.03)

    def test_slices_move_to_the_middle_of_the_acquired_span(self):
        np.testing.assert_allclose(slice_timing_shifts([0.0, 0.6, 0.3, 0.9]), [0.45, -0.15, 0.15, -0.45])


def autoregressive(phi, n_time_points=600):
    noise = np.random.default_rng(12).normal(size=(n_time_points + 500, 40))
    return lfilter([1], [1, -phi], noise, axis=0)[500:]


def hemodynamic(repetition_time, noise):
    time = np.arange(0, 30, repetition_time)
    response = time**5 * np.exp(-time) / 120 - time**15 * np.exp(-time) / 1.307674368e12 / 6
    rng = np.random.default_rng(13)
    smooth = lfilter(response, [1], rng.normal(size=(700, 40)), axis=0)[100:]
    return smooth / smooth.std(axis=0) + np.sqrt(noise) * rng.normal(size=smooth.shape)


def parcels(folder, subject):
    (path,) = folder.glob(f"sub-{subject:03d}/func/*_timeseries.tsv")
    return pd.read_csv(path, sep="\t").to_numpy()


def voxels(folder, run):
    (mask,) = folder.glob("derivatives/mask/sub-01/func/*_mask.nii.gz")
    (path,) = folder.glob(f"sub-01/func/*run-{run:02d}_bold.nii.gz")
    return nib.load(path).get_fdata()[nib.load(mask).get_fdata() > 0].T


def low_passed(series, repetition_time, cutoff_hz=0.1):
    return clean(series, low_pass=cutoff_hz, t_r=repetition_time, standardize=None, detrend=False)


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
        series = parcels(sitcom, subject)
        assert not is_band_passed(series, 1.0)
        assert is_band_passed(low_passed(series, 1.0), 1.0)
        assert is_band_passed(gaussian_filter1d(series, 1.0, axis=0), 1.0)
        assert is_band_passed(causal_low_pass(series), 1.0)

    @pytest.mark.parametrize("run", [1, 12])
    def test_real_voxels_are_not_until_they_are(self, haxby, run):
        series = voxels(haxby, run)
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
    def test_what_can_not_be_told_is_not_accused(self, series, repetition_time):
        assert not is_band_passed(series, repetition_time)
        assert not is_band_passed(gaussian_filter1d(series, 3.0, axis=0), repetition_time)
