import nibabel as nib
import numpy as np
import pytest
from nilearn.signal import clean
from scipy.stats import zscore

from titan_neuro.data.prepare.atlas import Atlas
from titan_neuro.data.prepare.atlas_table import parcel_layout
from titan_neuro.data.prepare.cleaning import Cleaning, clean_causally, clean_whole_run, read_in_blocks
from titan_neuro.data.prepare.confound_presets import ConfoundModel
from titan_neuro.data.prepare.confound_regression import CausalRegression
from titan_neuro.data.prepare.high_pass import CausalHighPass
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.data.prepare.inspection import Inspection
from titan_neuro.data.prepare.normalization import CausalZScore
from titan_neuro.data.prepare.scratch import ScratchSeries
from titan_neuro.data.prepare.time_series import MaskedVolumes, ParcelMeans, StoredSeries
from titan_neuro.data.space import Space
from titan_neuro.errors import ConfigError, ImageError

N_TIME_POINTS, N_FEATURES, TR = 300, 37, 1.5
CONSTANT = [4, 36]


@pytest.fixture
def run():
    """Noise on drifts and a baseline, correlated with the confounds; two voxels never change."""
    rng = np.random.default_rng(0)
    drift = np.cumsum(rng.normal(size=(N_TIME_POINTS, N_FEATURES)), axis=0)
    run = rng.uniform(500, 1500, N_FEATURES) + drift + rng.normal(0, 3, (N_TIME_POINTS, N_FEATURES))
    run += confounds().values @ rng.normal(size=(4, N_FEATURES))
    run[:, CONSTANT] = 1234.567
    return run.astype(np.float32)


def confounds(n_columns=4):
    values = np.random.default_rng(1).normal(size=(N_TIME_POINTS, n_columns)).cumsum(axis=0)
    names = tuple(f"c{number}" for number in range(n_columns))
    return ConfoundModel(names=names, values=values, whole_run=(), excluded=np.zeros(N_TIME_POINTS, dtype=bool))


STEPS = {
    "all": Cleaning(confounds=confounds(), high_pass_hz=0.01, repetition_time=TR),
    "confounds": Cleaning(confounds=confounds(), high_pass_hz=None, repetition_time=TR),
    "high-pass": Cleaning(confounds=confounds(0), high_pass_hz=0.01, repetition_time=TR),
    "scale": Cleaning(confounds=confounds(0), high_pass_hz=None, repetition_time=TR),
}


@pytest.fixture
def source(tmp_path, run):
    with ScratchSeries(tmp_path / "source") as scratch:
        scratch.append(run)
        yield StoredSeries(scratch, volume_space(run.shape[1]))


def volume_space(n_features):
    return Space(kind="volume", name="native", mask=np.ones((n_features, 1, 1), dtype=bool), affine=np.eye(4))


def inspection(n_features=N_FEATURES, repetition_time=TR):
    return Inspection("sub-1", n_features, repetition_time)


def causal(source, cleaning, memory_bytes=None):
    blocks = list(clean_causally(read_in_blocks(source, inspection(), memory_bytes), N_FEATURES, cleaning))
    return np.concatenate(blocks), len(blocks)


def whole_run(source, cleaning, tmp_path, memory_bytes=None):
    blocks = read_in_blocks(source, inspection(), memory_bytes)
    return np.concatenate(list(clean_whole_run(blocks, N_FEATURES, cleaning, tmp_path / "cleaned")))


class TestCausal:
    def test_order_is_high_pass_confounds_z_score(self, source, run):
        found, _ = causal(source, STEPS["all"])
        expected = CausalHighPass(N_FEATURES, 0.01, TR)(run)
        filtered = CausalHighPass(4, 0.01, TR)(confounds().values)
        expected = CausalZScore(N_FEATURES)(CausalRegression(N_FEATURES, 4)(expected, filtered))
        assert found.dtype == np.float32
        assert np.array_equal(found, expected)

    @pytest.mark.parametrize("cleaning", STEPS.values(), ids=STEPS)
    @pytest.mark.parametrize("memory_bytes", [1, 7 * N_FEATURES * 128, 101 * N_FEATURES * 128])
    def test_memory_changes_no_bit(self, source, cleaning, memory_bytes):
        whole, n_blocks = causal(source, cleaning)
        parts, n_parts = causal(source, cleaning, memory_bytes)
        assert np.array_equal(parts, whole)
        assert n_blocks == 1
        assert n_parts == {1: 300, 7 * N_FEATURES * 128: 43, 101 * N_FEATURES * 128: 3}[memory_bytes]

    @pytest.mark.parametrize("cleaning", STEPS.values(), ids=STEPS)
    @pytest.mark.parametrize("volume", [0, 1, 42, 298])
    def test_later_time_points_change_no_earlier_output(self, source, run, cleaning, volume):
        before, _ = causal(source, cleaning)
        later = run.copy()
        later[volume + 1 :] = np.random.default_rng(2).normal(1e4, 1e5, later[volume + 1 :].shape)
        spoilt = cleaning.confounds.values.copy()
        spoilt[volume + 1 :] *= -1e3
        model = ConfoundModel(**{**vars(cleaning.confounds), "values": spoilt})
        other = Cleaning(confounds=model, high_pass_hz=cleaning.high_pass_hz, repetition_time=TR)
        found = np.concatenate(list(clean_causally(iter(np.array_split(later, 5)), N_FEATURES, other)))
        assert np.array_equal(found[: volume + 1], before[: volume + 1])
        assert not np.array_equal(found, before)

    @pytest.mark.parametrize("cleaning", STEPS.values(), ids=STEPS)
    def test_constant_features_are_0_and_others_scaled(self, source, cleaning):
        found, _ = causal(source, cleaning)
        assert (found[:, CONSTANT] == 0).all()
        varying = np.delete(found, CONSTANT, axis=1)
        assert (varying[1:] != 0).all()
        assert varying[100:].std() == pytest.approx(1.1, abs=0.35)


class TestWholeRun:
    @pytest.mark.parametrize("cleaning", STEPS.values(), ids=STEPS)
    @pytest.mark.parametrize("memory_bytes", [1, 50 * N_FEATURES * 128, None])
    def test_it_is_nilearns_clean_and_a_z_score(self, source, run, tmp_path, cleaning, memory_bytes):
        found = whole_run(source, cleaning, tmp_path, memory_bytes)
        values = cleaning.confounds.values
        oracle = clean(
            run.astype(np.float64),
            confounds=values if values.shape[1] else None,
            high_pass=cleaning.high_pass_hz,
            **{"t_r": TR, "detrend": False, "standardize": None},
        )
        varying = np.delete(np.arange(N_FEATURES), CONSTANT)
        np.testing.assert_allclose(found[:, varying], zscore(oracle[:, varying]), atol=1e-4)
        assert (found[:, CONSTANT] == 0).all()
        assert not (tmp_path / "cleaned").exists()

    def test_the_memory_bounds_the_columns_too(self, source, tmp_path, monkeypatch):
        seen = []
        columns = ScratchSeries.read_columns
        monkeypatch.setattr(
            ScratchSeries, "read_columns", lambda self, a, b: (seen.append(b - a), columns(self, a, b))[1]
        )
        whole_run(source, STEPS["scale"], tmp_path, 100 * N_FEATURES * 128)
        # Of 300 volumes a third as many columns as blocks of 100 volumes had.
        assert seen == [12, 12, 12, 1]

    def test_fully_explained_voxel_is_0(self, run, tmp_path):
        run = run.astype(np.float32)
        run[:, 0] = confounds().values[:, 0]
        exact = run[:, :1].astype(np.float64)
        model = ConfoundModel(**{**vars(confounds(1)), "values": exact})
        cleaning = Cleaning(confounds=model, high_pass_hz=None, repetition_time=TR)
        found = np.concatenate(list(clean_whole_run(iter([run]), N_FEATURES, cleaning, tmp_path / "x")))
        assert (found[:, 0] == 0).all()
        assert found[:, 1].std() == pytest.approx(1)

    def test_small_fluctuations_on_a_large_baseline_are_kept(self, tmp_path):
        small = np.random.default_rng(3).normal(1e4, 0.004, (N_TIME_POINTS, 3)).astype(np.float32)
        found = np.concatenate(list(clean_whole_run(iter([small]), 3, STEPS["scale"], tmp_path / "x")))
        np.testing.assert_allclose(found, zscore(small.astype(np.float64)), atol=1e-5)

    def test_a_cut_off_above_nyquist(self, source, tmp_path):
        cleaning = Cleaning(confounds=confounds(0), high_pass_hz=0.4, repetition_time=TR)
        with pytest.raises(ConfigError, match="below the Nyquist frequency"):
            whole_run(source, cleaning, tmp_path)

    @pytest.mark.parametrize(
        ("cleaning", "needed"),
        [
            (Cleaning(confounds=confounds(28), high_pass_hz=None, repetition_time=TR), 30),
            (Cleaning(confounds=confounds(4), high_pass_hz=0.01, repetition_time=TR), 19),
            (Cleaning(confounds=confounds(0), high_pass_hz=None, repetition_time=TR), 2),
        ],
    )
    def test_runs_that_are_too_short(self, run, tmp_path, cleaning, needed):
        def cleaned(n_time_points):
            model = ConfoundModel(**{**vars(cleaning.confounds), "values": cleaning.confounds.values[:n_time_points]})
            short = Cleaning(confounds=model, high_pass_hz=cleaning.high_pass_hz, repetition_time=TR)
            return np.concatenate(list(clean_whole_run(iter([run[:n_time_points]]), N_FEATURES, short, tmp_path / "x")))

        assert np.isfinite(cleaned(needed)).all()
        with pytest.raises(ImageError, match=f"need at least {needed} time points, found {needed - 1}"):
            cleaned(needed - 1)
        assert not (tmp_path / "x").exists()


def test_block_length_counts_all_voxels_read(tmp_path):
    """Three parcels in volumes of 8,000 voxels: a time point takes what its volume takes."""
    path = tmp_path / "x.nii"
    data = np.random.default_rng(8).normal(size=(20, 20, 20, 50)).astype(np.float32)
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    volumes = BoldImage(path)
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[:3] = True
    space = Space(kind="volume", name="native", mask=mask, affine=np.eye(4))
    labels, names = np.repeat([1, 2, 3], 400), {1: "a", 2: "b", 3: "c"}
    layout = parcel_layout(space, labels - 1, list(names.values()), {})
    source = MaskedVolumes(volumes, space)
    source = ParcelMeans(source, Atlas(name="X", labels=labels, names=names, lost=(), layout=layout))
    # A volume as it is read, and its voxels inside the mask.
    blocks = list(read_in_blocks(source, inspection(3), 10 * (8000 + 1200) * 16 + 10 * 3 * 112))
    assert [len(block) for block in blocks] == [10] * 5
    np.testing.assert_allclose(np.concatenate(blocks), data[:3].mean(axis=(1, 2)).T, atol=1e-6)
