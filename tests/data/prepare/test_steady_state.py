"""Volumes before the steady state: found or marked, on every route; they set nothing, and are stored as 0."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from phantom import STEM, Phantom, save

from titan_neuro.data.bids.recordings import find_recordings
from titan_neuro.data.prepare import PrepareConfig, prepare_run
from titan_neuro.data.prepare.confound_presets import select_confounds
from titan_neuro.data.prepare.confound_table import ConfoundSources, ConfoundTable, compute_confounds
from titan_neuro.data.prepare.images import BoldImage
from titan_neuro.data.prepare.motion import MOTION
from titan_neuro.data.prepare.scratch import ScratchSeries
from titan_neuro.data.prepare.slice_timing import correct_slice_timing
from titan_neuro.data.prepare.steady_state import (
    count_before_steady_state,
    examined_length,
    marked_steady_state,
    read_first_volumes,
)
from titan_neuro.data.store import RunStore
from titan_neuro.errors import MetadataError

SHAPE, N_TIME_POINTS = (12, 12, 10), 80
FACTORS = {
    "steady": (),
    "one": (1.8,),
    "one, weak": (1.1,),
    "one, dark": (0.5,),
    "two alike": (1.5, 1.5),
    "two": (1.8, 1.3),
    "three": (1.8, 1.4, 1.2),
    "four": (1.8, 1.4, 1.2, 1.1),
    "four, down to 3 %": (1.4, 1.2, 1.08, 1.03),
}


def autocorrelated(rng, n_time_points, n_features, phi=0.6):
    """AR(1) noise of unit variance."""
    noise = rng.normal(size=(n_time_points, n_features))
    for t in range(1, n_time_points):
        noise[t] = phi * noise[t - 1] + np.sqrt(1 - phi**2) * noise[t]
    return noise


def brightened(series, factors):
    series = series.copy()
    series[: len(factors)] *= np.reshape(factors, (-1, *[1] * (series.ndim - 1)))
    return series


class TestCount:
    @pytest.mark.parametrize("factors", FACTORS.values(), ids=FACTORS)
    @pytest.mark.parametrize(("n_examined", "noise"), [(10, 10), (10, 30), (20, 20), (50, 20)])
    def test_each_bright_volume_is_counted(self, factors, n_examined, noise):
        series = 1000 + noise * autocorrelated(np.random.default_rng(n_examined), n_examined, 500)
        assert count_before_steady_state(brightened(series, factors)) == len(factors)

    @pytest.mark.parametrize("n_bright", range(5))
    def test_parcels_scaled_over_the_run_are_counted(self, n_bright):
        series = 500 + 10 * autocorrelated(np.random.default_rng(n_bright), 300, 60)
        series = brightened(series, 1 + 0.5 / 2.0 ** np.arange(n_bright))
        scaled = (series - series.mean(axis=0)) / series.std(axis=0)
        assert count_before_steady_state(scaled[:20]) == n_bright

    @pytest.mark.parametrize("phi", [0.0, 0.6, 0.9])
    @pytest.mark.parametrize("n_examined", [10, 20, 50])
    def test_a_steady_run_has_none(self, phi, n_examined):
        rng = np.random.default_rng(7)
        for _ in range(40):
            common = autocorrelated(rng, n_examined, 1, phi)
            series = 1000 + 10 * common + 20 * autocorrelated(rng, n_examined, 60, phi)
            assert count_before_steady_state(series) == 0

    def test_a_drift_is_no_step(self):
        series = 1000 + 10 * np.random.default_rng(0).normal(size=(20, 200))
        assert count_before_steady_state(series + np.linspace(100, 0, 20)[:, None]) == 0

    @pytest.mark.parametrize("at", [1, 3, 12])
    def test_a_later_bright_volume_is_not_counted(self, at):
        series = 1000 + 10 * np.random.default_rng(0).normal(size=(20, 200))
        series[at] *= 1.5
        assert count_before_steady_state(series) == 0

    def test_features_without_values_do_not_matter(self):
        series = brightened(1000 + 10 * np.random.default_rng(0).normal(size=(20, 40)), (1.5, 1.2))
        series[:, :10], series[:, 10:15], series[3, 15] = 7.0, np.nan, np.inf
        assert count_before_steady_state(series) == 2
        assert count_before_steady_state(series[:, :15]) == 0
        assert count_before_steady_state(series[:5]) == 0

    @pytest.mark.parametrize(
        ("n_warmup", "n_time_points", "expected"),
        [(8, 121, 10), (20, 600, 20), (27, 600, 27), (90, 600, 50), (8, 14, 7)],
    )
    def test_the_warmup_is_examined(self, n_warmup, n_time_points, expected):
        assert examined_length(n_warmup, n_time_points) == expected

    def test_real_runs_have_none(self, haxby, sitcom):
        images = sorted(haxby.rglob("*_bold.nii.gz"))
        assert len(images) == 12
        assert [count_before_steady_state(read_first_volumes(BoldImage(path), 10)) for path in images] == [0] * 12
        tables = sorted(sitcom.rglob("*_timeseries.tsv"))
        assert [count_before_steady_state(pd.read_csv(path, sep="\t").to_numpy()[:20]) for path in tables] == [0] * 12

    @pytest.mark.parametrize("factors", FACTORS.values(), ids=FACTORS)
    def test_real_volumes_made_bright_are_counted(self, haxby, tmp_path, factors):
        image = nib.load(sorted(haxby.rglob("*_bold.nii.gz"))[0])
        path = tmp_path / "x.nii.gz"
        nib.save(
            nib.Nifti1Image(
                np.moveaxis(brightened(np.moveaxis(image.get_fdata()[..., :12], -1, 0), factors), 0, -1), image.affine
            ),
            path,
        )
        assert count_before_steady_state(read_first_volumes(BoldImage(path), 10)) == len(factors)


def table_of(**columns):
    frame = pd.DataFrame({"trans_x": np.arange(30) * 0.01, **columns})
    return ConfoundTable(columns=frame, source="confounds.tsv")


def row(*indices, n_rows=30):
    return np.isin(np.arange(n_rows), indices).astype(float)


class TestMarked:
    @pytest.mark.parametrize("n_marked", range(1, 5))
    @pytest.mark.parametrize("name", ["non_steady_state_outlier{:02d}", "NonSteadyStateOutlier{:d}"])
    def test_columns_are_counted(self, n_marked, name):
        table = table_of(**{name.format(index): row(index) for index in range(n_marked)})
        found = marked_steady_state(table)
        assert found.n_volumes_before == n_marked
        assert name.format(0) in found.rule

    def test_a_gap_counts_too(self):
        table = table_of(non_steady_state_outlier00=row(0), non_steady_state_outlier01=row(2))
        assert marked_steady_state(table).n_volumes_before == 3

    def test_nothing_marked_is_none(self):
        assert marked_steady_state(None) is None
        assert marked_steady_state(table_of(motion_outlier00=row(5))) is None
        assert marked_steady_state(table_of(non_steady_state_outlier00=row())) is None

    def test_a_late_mark_is_refused(self):
        with pytest.raises(MetadataError, match="found volume 22 of 30 marked"):
            marked_steady_state(table_of(non_steady_state_outlier00=row(22)))


class TestConfounds:
    def computed(self, n_bright, calibration):
        rng = np.random.default_rng(3)
        n = 150 + n_bright
        tissue = 500 + rng.normal(size=(n, 8)) @ rng.normal(size=(8, 60)) + rng.normal(size=(n, 60))
        tissue[:n_bright] *= 1.7
        motion = pd.DataFrame(rng.normal(size=(n, 6)).cumsum(axis=0) * 0.01, columns=list(MOTION))
        sources = {
            "motion": motion,
            "csf": tissue[:, :20],
            "white_matter": tissue[:, 20:],
            "global_signal": tissue.mean(axis=1),
        }

        def table(start, n_before):
            parts = {name: values[start:] for name, values in sources.items()}
            parts["motion"] = motion.iloc[start:].reset_index(drop=True)
            return compute_confounds(
                ConfoundSources(**parts),
                repetition_time=1.0,
                calibration_time_points=calibration,
                n_before_steady_state=n_before,
                source="sub-01",
            )

        return table(0, n_bright), table(n_bright, 0)

    @pytest.mark.parametrize("n_bright", range(5))
    @pytest.mark.parametrize("calibration", [60, None])
    def test_computed_ones_are_those_of_the_steady_run(self, n_bright, calibration):
        whole, steady = self.computed(n_bright, calibration)
        for prefix in ("a_comp_cor", "cosine"):
            found = whole.columns.filter(like=prefix)
            np.testing.assert_array_equal(found.iloc[n_bright:], steady.columns.filter(like=prefix))
            assert (found.iloc[:n_bright] == 0).all(axis=None)
        marks = whole.columns.filter(like="non_steady_state_outlier")
        np.testing.assert_array_equal(marks, np.eye(len(whole.columns))[:, :n_bright])

    @pytest.mark.parametrize("preset", ["motion24", "simple", "compcor"])
    @pytest.mark.parametrize("n_bright", [1, 4])
    def test_no_difference_reaches_back(self, preset, n_bright):
        whole, steady = self.computed(n_bright, 60)
        found = select_confounds(whole, preset, n_before_steady_state=n_bright)
        expected = select_confounds(steady, preset)
        assert found.names == expected.names
        np.testing.assert_array_equal(found.values[n_bright:], expected.values)


def bold(n_time_points=N_TIME_POINTS, background=5.0):
    """A block of head in dark air, ``(time, x, y, z)``."""
    rng = np.random.default_rng(0)
    head = np.zeros(SHAPE, dtype=bool)
    head[2:10, 2:10, 2:8] = True
    noise = autocorrelated(rng, n_time_points, head.size).reshape(n_time_points, *SHAPE)
    return np.where(head, 1000 + 20 * noise, background + np.abs(noise)), head


class Dataset:
    """One run on one of the routes, with a number of bright volumes before `N_TIME_POINTS` steady ones."""

    def __init__(self, route: str, root: Path, factors=(), *, marked=False, trimmed=False):
        self.route, self.root, self.marked = route, root, marked
        self.start = len(factors) if trimmed else 0
        self.n_time_points = N_TIME_POINTS + len(factors)
        volumes, self.head = bold(self.n_time_points)
        self.volumes = brightened(volumes, factors)[self.start :]
        self.factors = factors
        root.mkdir(parents=True)
        (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
        getattr(self, f"write_{route}")()

    def write_raw(self, with_mask=False):
        self._image(self.root, "sub-01_task-movie")
        if with_mask:
            self._mask(self.root / "derivatives/mask", "sub-01_task-movie")

    def write_masked(self):
        self.write_raw(with_mask=True)

    def write_preprocessed(self):
        stem = "sub-01_task-movie_space-MNI152NLin2009cAsym"
        self._image(self.root, "sub-01_task-movie")
        folder = self.root / "derivatives/fmriprep"
        self._image(folder, f"{stem}_desc-preproc")
        self._mask(folder, stem)
        rng = np.random.default_rng(5)
        confounds = pd.DataFrame(rng.normal(size=(self.n_time_points, 6)).cumsum(axis=0) * 0.01, columns=list(MOTION))
        confounds = confounds.iloc[self.start :].reset_index(drop=True)
        for name in MOTION:
            confounds[f"{name}_derivative1"] = confounds[name].diff()
        for name in [*confounds]:
            confounds[f"{name}_power2"] = confounds[name] ** 2
        if self.marked:
            for index in range(len(self.factors) - self.start):
                confounds[f"non_steady_state_outlier{index:02d}"] = row(index, n_rows=len(confounds))
        path = folder / "sub-01/func/sub-01_task-movie_desc-confounds_timeseries.tsv"
        confounds.to_csv(path, sep="\t", index=False, na_rep="n/a")

    def write_parcels(self):
        folder = self.root / "sub-01/func"
        folder.mkdir(parents=True)
        parcels = self.volumes[:, self.head][:, :60]
        stem = folder / "sub-01_task-movie_seg-X_timeseries"
        pd.DataFrame(parcels, columns=[f"p{n}" for n in range(60)]).to_csv(f"{stem}.tsv", sep="\t", index=False)
        Path(f"{stem}.json").write_text('{"RepetitionTime": 1.0}')

    def _image(self, folder, stem):
        path = folder / "sub-01/func" / f"{stem}_bold.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        (folder / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
        save(path, np.moveaxis(self.volumes, 0, -1).astype(np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))
        path.with_name(f"{stem}_bold.json").write_text('{"RepetitionTime": 1.0, "TaskName": "movie"}')

    def _mask(self, folder, stem):
        path = folder / "sub-01/func" / f"{stem}_desc-brain_mask.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, self.head.astype(np.uint8), np.diag([3.0, 3.0, 3.0, 1.0]))

    def prepare(self, **settings):
        [recording] = find_recordings(self.root)
        out, work = self.root.with_name(f"{self.root.name}-out"), self.root.with_name(f"{self.root.name}-work")
        return RunStore(prepare_run(recording, out, PrepareConfig(**settings), work_dir=work)[0])


def stored(store):
    return store.series(0, store.n_time_points)


class TestStore:
    @pytest.mark.parametrize("name", ["steady", "one", "two alike", "four"])
    @pytest.mark.parametrize("route", ["raw", "masked", "parcels"])
    def test_the_rest_is_the_run_without_them(self, tmp_path, route, name):
        factors = FACTORS[name]
        n = len(factors)
        found = Dataset(route, tmp_path / "whole", factors).prepare()
        expected = Dataset(route, tmp_path / "trimmed", factors, trimmed=True).prepare()
        np.testing.assert_array_equal(stored(found)[n:], stored(expected))
        assert (stored(found)[:n] == 0).all()
        assert found.record["steady_state"]["volumes_before"] == n
        assert "detection in the first 20 time points" in found.record["steady_state"]["rule"]
        assert np.flatnonzero(found.scored).tolist() == list(range(20 + n, N_TIME_POINTS + n))
        if route == "raw":
            np.testing.assert_array_equal(found.space.mask, expected.space.mask)

    @pytest.mark.parametrize("estimation", ["causal", "whole-run"])
    @pytest.mark.parametrize(
        ("settings", "n_bright"),
        [({}, 1), ({"confounds": "motion24"}, 4), ({"high_pass_hz": 0.01}, 2)],
        ids=["scale", "confounds", "high-pass"],
    )
    def test_marked_ones_set_no_estimate(self, tmp_path, settings, estimation, n_bright):
        # Not bright enough to be detected: the table decides.
        factors = (1.01,) * n_bright
        settings = {**settings, "estimation": estimation}
        found = Dataset("preprocessed", tmp_path / "whole", factors, marked=True).prepare(**settings)
        expected = Dataset("preprocessed", tmp_path / "trimmed", factors, trimmed=True).prepare(**settings)
        np.testing.assert_array_equal(stored(found)[n_bright:], stored(expected))
        assert (stored(found)[:n_bright] == 0).all()
        assert not found.scored[:n_bright].any()
        assert found.record["steady_state"] == {
            "volumes_before": n_bright,
            "rule": "non_steady_state_outlier00, ... of the table of confounds",
        }
        sidecar = json.loads(found.path.with_suffix(".json").read_text())
        assert sidecar["VolumesBeforeSteadyState"] == n_bright

    def test_the_mean_image_is_of_the_steady_run(self, tmp_path):
        found = Dataset("masked", tmp_path / "whole", (3.0, 2.0)).prepare()
        [path] = found.path.parent.glob("*_boldref.nii.gz")
        assert nib.load(path).get_fdata()[found.space.mask].mean() == pytest.approx(1000, abs=2)

    @pytest.mark.parametrize("first_changed", [20, 40])
    def test_later_volumes_change_no_earlier_one(self, tmp_path, first_changed):
        before = stored(Dataset("masked", tmp_path / "one", (1.8, 1.3)).prepare())
        changed = Dataset("masked", tmp_path / "two", (1.8, 1.3))
        changed.volumes[first_changed:] *= 3
        changed.write_masked()
        np.testing.assert_array_equal(stored(changed.prepare())[:first_changed], before[:first_changed])

    def test_deviation_of_the_rest_is_not_shrunk(self, tmp_path):
        store = Dataset("parcels", tmp_path / "bids", (1.8,)).prepare()
        assert stored(store)[30:].std() == pytest.approx(1.0, abs=0.1)

    @pytest.mark.parametrize("n_bright", [0, 1, 3])
    def test_the_route_of_transforms(self, tmp_path, n_bright):
        phantom = Phantom(shape=(16, 18, 14), voxel_mm=10.0, warp_spacing_mm=10.0, n_volumes=40)
        noise = np.random.default_rng(0).normal(0, 2, (*phantom.shape, 40))
        data = phantom.record(0)[..., None] + noise
        data[..., :n_bright] *= 1 + 0.8 / 2.0 ** np.arange(n_bright)
        [recording] = find_recordings(phantom.write(tmp_path / "bids", data))
        config = PrepareConfig(warmup_s=10, resolution_mm=10, calibration_s=20, confounds="motion24")
        store = RunStore(prepare_run(recording, tmp_path / "out", config, work_dir=tmp_path / "work")[0])
        assert store.record["steady_state"]["volumes_before"] == n_bright
        assert (stored(store)[:n_bright] == 0).all()
        assert np.abs(stored(store)[n_bright + 1 :]).max(axis=1).min() > 0.1
        table = pd.read_csv(store.path.with_name(f"{STEM}_desc-confounds_timeseries.tsv"), sep="\t")
        assert table.filter(like="non_steady_state").shape[1] == n_bright


def test_slice_timing_does_not_spread_them(tmp_path):
    dataset = Dataset("raw", tmp_path / "bids", (1.8, 1.8))
    [recording] = find_recordings(dataset.root)
    recording.sidecar["SliceTiming"] = [float(time) for time in np.arange(SHAPE[2]) / SHAPE[2]]

    def corrected(name, volumes, n_before):
        path = tmp_path / f"{name}.nii.gz"
        save(path, np.moveaxis(volumes, 0, -1).astype(np.float32), np.eye(4))
        with ScratchSeries(tmp_path / name) as scratch:
            image = correct_slice_timing(BoldImage(path), recording, 1.0, scratch, n_before)
            return image.read(0, image.n_volumes)

    whole = corrected("whole", dataset.volumes, 2)
    np.testing.assert_array_equal(whole[..., 2:], corrected("trimmed", dataset.volumes[2:], 0))
    np.testing.assert_array_equal(whole[..., :2], np.moveaxis(dataset.volumes[:2], 0, -1).astype(np.float32))
