import numpy as np
import pytest
from autoregression import ar5_r2
from scipy.signal import butter, sosfilt
from sklearn.linear_model import Ridge

from titan_neuro.data.prepare.confound_regression import CausalRegression
from titan_neuro.data.prepare.high_pass import CausalHighPass
from titan_neuro.errors import MetadataError


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
    def test_later_time_points_change_no_earlier_one(self, bold, nuisance, make, volume, later):
        stream = np.hstack([bold, nuisance])
        other = stream.copy()
        other[volume + 1 :] = later
        assert np.array_equal(make()(stream)[: volume + 1], make()(other)[: volume + 1])


class TestRegression:
    @pytest.mark.parametrize("volume", [1, 2, 5, 40, 149])
    def test_residual_equals_ridge_on_time_points_so_far(self, bold, volume):
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

    def test_confound_is_removed_and_signal_kept(self):
        rng = np.random.default_rng(5)
        columns, signal = np.cumsum(rng.normal(size=(600, 2)), axis=0), rng.normal(size=(600, 1))
        bold = 1000 + signal + columns @ [[5.0], [-0.5]]
        found = CausalRegression(1, 2)(bold, columns)[200:]
        assert np.corrcoef(found[:, 0], signal[200:, 0])[0, 1] > 0.97
        before, after = (np.corrcoef(np.column_stack([y, columns[200:]]).T)[0, 1:] for y in (bold[200:], found))
        assert np.abs(before).max() > 0.9
        assert np.abs(after).max() < 0.2

    def test_ridge_prevents_perfect_fit_of_first_time_points(self):
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

    def test_confound_that_starts_late_fades_in(self):
        rng = np.random.default_rng(7)
        noise, late = rng.normal(size=(200, 2000)), np.zeros((200, 6))
        late[100:] = rng.normal(size=(100, 6))
        found, without = CausalRegression(2000, 6)(noise, late), CausalRegression(2000, 0)(noise, late[:, :0])
        assert np.array_equal(found[:100], without[:100])
        assert (found[100:].std(axis=1) / without[100:].std(axis=1)).min() > 0.3

    def test_constant_columns_contribute_nothing(self, bold):
        varying = np.random.default_rng(8).normal(size=(150, 2))
        constant = np.column_stack([varying, np.zeros(150), np.full(150, 0.1)])
        found = CausalRegression(7, 4)(bold, constant)
        assert np.isfinite(found).all()
        # They count as columns, though: the ridge is the same for every run of a study.
        deviation = varying.std(axis=0)
        oracle = Ridge(alpha=4).fit(varying / deviation, bold)
        np.testing.assert_allclose(found[-1], bold[-1] - oracle.predict(varying[-1:] / deviation)[0], atol=1e-9)

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
        with pytest.raises(MetadataError, match="found 149 rows for 150"):
            CausalRegression(7, 5)(bold, nuisance[:-1])


def test_causal_steps_keep_white_noise_unpredictable():
    rng = np.random.default_rng(14)
    noise, slow = rng.normal(size=(800, 60)), np.cumsum(rng.normal(size=(800, 24)), axis=0)
    assert ar5_r2(CausalHighPass(60, 0.008, 1.0)(noise)) < 0.01
    assert ar5_r2(CausalRegression(60, 24)(noise, slow)) < 0.01
    # A band-pass does, causal or not.
    assert ar5_r2(sosfilt(butter(2, [0.01, 0.1], "bandpass", fs=1.0, output="sos"), noise, axis=0)) > 0.9
