import json
import shutil
from pathlib import Path

import nilearn.interfaces.fmriprep
import numpy as np
import pandas as pd
import pytest
from nilearn.interfaces.fmriprep import load_confounds, load_confounds_strategy
from scipy.special import eval_legendre

from titan_neuro.data.prepare.compcor import compcor
from titan_neuro.data.prepare.confound_presets import PRESETS, select_confounds
from titan_neuro.data.prepare.confound_regression import CausalRegression
from titan_neuro.data.prepare.confound_table import (
    ConfoundSources,
    ConfoundTable,
    check_rows,
    compute_confounds,
    read_confounds,
    write_confounds,
)
from titan_neuro.data.prepare.motion import MOTION, framewise_displacement
from titan_neuro.errors import ConfigError, ImageError, InputNotFoundError, MetadataError, NotFetchedError

# Real tables of two fMRIPreps, which nilearn tests itself on: 30 volumes, the first of them before the steady state.
REAL = Path(nilearn.interfaces.fmriprep.__file__).parent / "data"
TABLES = {
    "1.4": REAL / "test_desc-confounds_regressors.tsv",
    "21": REAL / "test-v21_desc-confounds_timeseries.tsv",
}
# nilearn's parser of decimals is wrong by one bit here and there.
EXACT = {"rtol": 1e-11, "atol": 1e-15}
STRATEGIES = ("simple", "scrubbing", "compcor", "ica_aroma")
AROMA = "sub-01_task-movie_desc-smoothAROMAnonaggr_bold.nii.gz"


@pytest.fixture(params=TABLES)
def fmriprep(request, tmp_path):
    """A folder of an fMRIPrep output: the table under the name of its time, the JSON, images of no content."""
    source, folder = TABLES[request.param], tmp_path / "func"
    folder.mkdir()
    name = f"sub-01_task-movie_run-1_desc-confounds_{source.stem.rsplit('_', 1)[1]}"
    columns = pd.read_csv(source, sep="\t")
    if request.param == "21":
        # A head five times stiller: as it was, scrubbing leaves no volume of it.
        columns[["framewise_displacement", "std_dvars"]] /= 5
    columns.to_csv(folder / f"{name}.tsv", sep="\t", na_rep="n/a", index=False)
    shutil.copy(source.with_suffix(".json"), folder / f"{name}.json")
    for image in ("space-MNI152NLin2009cAsym_desc-preproc", "space-MNI152NLin6Asym_desc-smoothAROMAnonaggr"):
        (folder / f"sub-01_task-movie_run-1_{image}_bold.nii.gz").touch()
    return folder


def table_of(folder):
    (path,) = folder.glob("*.tsv")
    return read_confounds(path)


def recording(n_time_points=150):
    rng = np.random.default_rng(0)
    motion = pd.DataFrame(np.cumsum(rng.normal(size=(n_time_points, 6)) * 0.01, axis=0), columns=list(MOTION))
    common = rng.normal(size=(n_time_points, 8)) @ rng.normal(size=(8, 60))
    csf, white_matter = np.split(500 + common + rng.normal(size=(n_time_points, 60)), [20], axis=1)
    return {
        "motion": motion,
        "global_signal": 700 + rng.normal(size=n_time_points),
        "csf": csf,
        "white_matter": white_matter,
    }


def computed(calibration_time_points=60, **changes):
    timing = {"repetition_time": 1.0, "calibration_time_points": calibration_time_points, "source": "sub-01, computed"}
    return compute_confounds(ConfoundSources(**(recording() | changes)), **timing)


class TestNilearnStrategies:
    @pytest.mark.parametrize("preset", STRATEGIES)
    def test_columns_and_censored_volumes_equal_nilearns(self, fmriprep, preset):
        (image,) = fmriprep.glob("*smoothAROMAnonaggr_bold.nii.gz" if preset == "ica_aroma" else "*preproc_bold.nii.gz")
        expected, kept = load_confounds_strategy(str(image), preset, demean=False)
        found = select_confounds(table_of(fmriprep), preset, image.name)
        assert found.names == tuple(expected.columns)
        # The first volume's derivatives don't exist: nilearn writes the second's there, which is a later volume's.
        np.testing.assert_allclose(found.values[1:], expected.to_numpy()[1:], **EXACT)
        derivative = ["derivative1" in name for name in found.names]
        first = np.where(derivative, 0.0, expected.to_numpy()[0])
        np.testing.assert_allclose(found.values[0], first, **EXACT)
        np.testing.assert_array_equal(np.flatnonzero(~found.excluded), np.arange(30) if kept is None else kept)

    def test_scrubbing_drops_what_moves_and_the_start(self, fmriprep):
        table = table_of(fmriprep)
        moved = (table.columns["framewise_displacement"] > 0.5) | (table.columns["std_dvars"] > 1.5)
        unsteady = table.columns.filter(like="non_steady_state").sum(axis=1) > 0
        found = select_confounds(table, "scrubbing")
        assert found.excluded[moved | unsteady].all()
        assert moved.sum() in (0, 8)
        assert not select_confounds(table, "motion24").excluded.any()
        np.testing.assert_array_equal(select_confounds(table, "simple").excluded, unsteady)

    def test_motion24_is_nilearns_full_motion(self, fmriprep):
        (image,) = fmriprep.glob("*preproc_bold.nii.gz")
        expected, _ = load_confounds(str(image), strategy=("motion",), motion="full", demean=False)
        found = select_confounds(table_of(fmriprep), "motion24")
        assert sorted(found.names) == sorted(expected.columns)
        assert len(found.names) == 24
        np.testing.assert_allclose(found.values[1:], expected[list(found.names)].to_numpy()[1:], **EXACT)

    @pytest.mark.parametrize("preset", ["simple", "compcor"])
    def test_a_computed_table_is_one_that_nilearn_takes(self, tmp_path, preset):
        table = computed()
        write_confounds(tmp_path / "sub-01_task-movie_desc-confounds_timeseries.tsv", table)
        image = tmp_path / "sub-01_task-movie_space-T1w_desc-preproc_bold.nii.gz"
        expected, _ = load_confounds_strategy(str(image), preset, demean=False)
        found = select_confounds(table, preset)
        assert found.names == tuple(expected.columns)
        np.testing.assert_allclose(found.values[1:], expected.to_numpy()[1:], **EXACT)
        assert {name for name in found.names if name.startswith("cosine")} == {"cosine00"}

    def test_ica_aroma_needs_the_denoised_image(self, fmriprep):
        table = table_of(fmriprep)
        assert select_confounds(table, "ica_aroma", AROMA).whole_run == ("desc-smoothAROMAnonaggr_bold",)
        for image in ("", "sub-01_task-movie_desc-preproc_bold.nii.gz"):
            with pytest.raises(MetadataError, match="is for an image desc-smoothAROMAnonaggr_bold, found"):
                select_confounds(table, "ica_aroma", image)

    def test_temporary_folder_is_removed(self, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        select_confounds(computed(), "simple")
        assert not list(tmp_path.iterdir())


class TestPresets:
    def test_preset_none_has_no_column(self):
        found = select_confounds(computed(), "none")
        assert found.names == ()
        assert found.values.shape == (150, 0)

    def test_budapest_has_23_columns_with_the_intercept(self):
        table = computed()
        found = select_confounds(table, "budapest2020")
        assert len(found.names) + 1 == 23
        assert found.names[-2:] == ("legendre01", "legendre02")
        values = pd.DataFrame(found.values, columns=found.names)
        time = np.linspace(-1, 1, 150)
        for order in (1, 2):
            np.testing.assert_allclose(values[f"legendre0{order}"], eval_legendre(order, time), atol=1e-12)
        same = list(found.names[:-2])
        np.testing.assert_array_equal(values[same], table.columns[same].fillna(0))
        assert {f"a_comp_cor_0{i}" for i in range(6)} | {"global_signal", "framewise_displacement"} < set(same)
        # Full rank with the intercept: nothing is doubled.
        standard = (found.values - found.values.mean(axis=0)) / found.values.std(axis=0)
        assert np.linalg.matrix_rank(np.column_stack([np.ones(150), standard])) == 23

    @pytest.mark.parametrize("fmriprep", ["1.4"], indirect=True)
    @pytest.mark.parametrize("preset", [name for name in PRESETS if name != "ica_aroma"])
    def test_whole_run_components_are_named(self, fmriprep, preset):
        found = select_confounds(table_of(fmriprep), preset)
        assert set(found.whole_run) == {name for name in found.names if "comp_cor" in name}
        assert bool(found.whole_run) == (preset in ("compcor", "budapest2020"))

    @pytest.mark.parametrize("preset", ["compcor", "budapest2020"])
    def test_calibrated_components_are_causal_also_once_written(self, tmp_path, preset):
        path = tmp_path / "sub-01_desc-confounds_timeseries.tsv"
        for calibration, expected in ((60, 0), (None, 6)):
            write_confounds(path, computed(calibration))
            assert len(select_confounds(read_confounds(path), preset).whole_run) == expected

    @pytest.mark.parametrize("fmriprep", ["1.4"], indirect=True)
    @pytest.mark.parametrize(
        ("preset", "lacking"),
        [
            ("motion24", "rot_y_power2"),
            ("simple", "white_matter"),
            ("scrubbing", "std_dvars"),
            ("compcor", "a_comp_cor_00"),
            ("ica_aroma", "csf"),
            ("budapest2020", "global_signal"),
        ],
    )
    def test_missing_columns_are_named_and_the_table(self, fmriprep, preset, lacking):
        table = table_of(fmriprep)
        less = ConfoundTable(columns=table.columns.drop(columns=lacking), metadata=table.metadata, source=table.source)
        with pytest.raises(MetadataError, match=rf"_desc-confounds_\w+\.tsv: .* {preset} needs .* lacks: {lacking}\."):
            select_confounds(less, preset, AROMA)

    def test_components_without_their_json_are_refused(self, fmriprep):
        table = ConfoundTable(columns=table_of(fmriprep).columns, metadata={}, source="bare.tsv")
        with pytest.raises(MetadataError, match=r"bare\.tsv: nilearn can't make the confounds preset compcor"):
            select_confounds(table, "compcor")

    def test_a_table_with_too_few_components_is_refused(self, fmriprep):
        table = table_of(fmriprep)
        if "a_comp_cor_05" in table.columns:
            table = ConfoundTable(columns=table.columns.drop(columns="a_comp_cor_05"), source="x.tsv")
        with pytest.raises(MetadataError, match="lacks: a_comp_cor_05"):
            select_confounds(table, "budapest2020")

    def test_preset_that_censors_every_volume_is_refused(self, fmriprep):
        table = table_of(fmriprep)
        moving = ConfoundTable(columns=table.columns.assign(framewise_displacement=0.6), source="x.tsv")
        with pytest.raises(MetadataError, match=r"x\.tsv: the confounds preset scrubbing censors all 30 volumes"):
            select_confounds(moving, "scrubbing")

    def test_a_column_without_a_value_is_refused(self):
        table = computed()
        empty = ConfoundTable(columns=table.columns.assign(trans_x=np.nan), metadata=table.metadata, source="x.tsv")
        with pytest.raises(MetadataError, match=r"x\.tsv: no value in the columns trans_x of"):
            select_confounds(empty, "motion24")

    def test_an_unknown_preset_is_refused(self):
        with pytest.raises(ConfigError, match="no preset 'motion12'") as caught:
            select_confounds(computed(), "motion12")
        assert "motion24" in caught.value.hint

    @pytest.mark.parametrize("preset", [name for name in PRESETS if name not in ("scrubbing", "ica_aroma")])
    @pytest.mark.parametrize("volume", [59, 60, 148])
    def test_later_time_points_change_no_earlier_residual(self, preset, volume):
        other = recording()
        for value in (other["motion"].to_numpy(), *(other[name] for name in ("global_signal", "csf", "white_matter"))):
            value[volume + 1 :] = -3 * value[volume + 1 :]
        assert not other["motion"].equals(recording()["motion"])
        bold = np.random.default_rng(5).normal(size=(150, 4))
        models = [select_confounds(computed(**inputs), preset) for inputs in ({}, other)]
        assert np.array_equal(models[0].values[: volume + 1], models[1].values[: volume + 1])
        assert preset == "none" or not np.array_equal(models[0].values, models[1].values)
        residuals = [CausalRegression(4, len(model.names))(bold, model.values) for model in models]
        assert np.array_equal(residuals[0][: volume + 1], residuals[1][: volume + 1])


class TestComputed:
    def test_columns_are_what_fmriprep_names_so(self):
        parts, columns = recording(), computed().columns
        both = np.hstack([parts["csf"], parts["white_matter"]])
        for name, expected in {
            "csf": parts["csf"].mean(axis=1),
            "white_matter": parts["white_matter"].mean(axis=1),
            "csf_wm": both.mean(axis=1),
            "global_signal": parts["global_signal"],
            "rot_y": parts["motion"]["rot_y"],
        }.items():
            np.testing.assert_allclose(columns[name], expected, err_msg=name)
        for name in ("csf", "white_matter", "global_signal", *MOTION):
            change = columns[name].diff()
            pd.testing.assert_series_equal(columns[f"{name}_derivative1"], change, check_names=False)
            pd.testing.assert_series_equal(columns[f"{name}_power2"], columns[name] ** 2, check_names=False)
            pd.testing.assert_series_equal(columns[f"{name}_derivative1_power2"], change**2, check_names=False)
        np.testing.assert_array_equal(columns["framewise_displacement"], framewise_displacement(parts["motion"]))
        components, _ = compcor(both, 6, 60, 1.0)
        np.testing.assert_array_equal(columns.filter(like="a_comp_cor"), components)

    def test_metadata_give_variance_explained(self):
        metadata = computed().metadata
        shares = [metadata[f"a_comp_cor_{number:02d}"]["VarianceExplained"] for number in range(6)]
        assert shares == sorted(shares, reverse=True)
        last = metadata["a_comp_cor_05"]
        assert last["CumulativeVarianceExplained"] == pytest.approx(sum(shares))
        assert (last["Mask"], last["Method"], last["CalibrationVolumes"]) == ("combined", "aCompCor", 60)
        assert metadata["csf"] == {"Method": "Mean"}
        assert metadata["trans_z"] == {"Units": "mm"}

    def test_what_a_run_has_not_makes_no_column(self):
        table = computed(motion=None, csf=None)
        assert not {*MOTION, "framewise_displacement", "csf", "csf_wm", "a_comp_cor_00"} & set(table.columns)
        assert {"global_signal", "white_matter", "cosine00"} < set(table.columns)
        nothing = computed(motion=None, csf=None, white_matter=None, global_signal=None)
        assert not nothing.columns.size

    def test_an_empty_tissue_mask_is_refused(self):
        with pytest.raises(ImageError, match="sub-01, computed: no voxel of csf"):
            computed(csf=np.empty((150, 0)))


class TestFiles:
    def test_a_table_is_read_as_it_was_written(self, tmp_path):
        table = computed()
        path = tmp_path / "func" / "sub-01_desc-confounds_timeseries.tsv"
        write_confounds(path, table)
        found = read_confounds(path)
        pd.testing.assert_frame_equal(found.columns, table.columns, check_exact=True)
        assert found.metadata == table.metadata
        assert found.source == str(path)
        assert path.read_text().splitlines()[1].split("\t")[table.columns.columns.get_loc("csf_derivative1")] == "n/a"
        assert sorted(file.name for file in path.parent.iterdir()) == [path.with_suffix(".json").name, path.name]

    def test_real_tables_are_read(self, fmriprep):
        table = table_of(fmriprep)
        assert len(table.columns) == 30
        assert np.isnan(table.columns["trans_x_derivative1"][0])
        assert table.metadata["a_comp_cor_00"]["Mask"] == "combined"
        np.testing.assert_array_equal(
            table.columns["csf"], pd.read_csv(next(fmriprep.glob("*.tsv")), sep="\t")["csf"].to_numpy()
        )

    def test_the_json_may_be_missing(self, fmriprep):
        next(fmriprep.glob("*.json")).unlink()
        assert table_of(fmriprep).metadata == {}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "expected a table with a header, found an empty file"),
            ("a\tb\n1\t2\t3\n1\t2\t3\t4\t5\n", "line 2: expected 2 cells, found 3"),
            ("0.1\t0.2\n0.3\t0.4\n", r"expected a header of column names, found numbers: 0\.1, 0\.2"),
            ("csf\tnote\n0.1\tmoved\n", "line 2, column 'note': expected a number or n/a, found 'moved'"),
        ],
    )
    def test_what_is_no_table_is_refused(self, tmp_path, content, message):
        path = tmp_path / "sub-01_desc-confounds_timeseries.tsv"
        path.write_text(content)
        with pytest.raises(MetadataError, match=rf"sub-01_desc-confounds_timeseries\.tsv: .*{message}"):
            read_confounds(path)

    @pytest.mark.parametrize("content", ["{", json.dumps([1, 2])])
    def test_what_is_no_json_is_refused(self, tmp_path, content):
        path = tmp_path / "x_timeseries.tsv"
        path.write_text("csf\n1.0\n")
        path.with_suffix(".json").write_text(content)
        with pytest.raises(MetadataError, match=r"x_timeseries\.json: (is not valid JSON|expected a JSON object)"):
            read_confounds(path)

    def test_missing_table_is_an_error(self, tmp_path):
        with pytest.raises(InputNotFoundError, match="No such file"):
            read_confounds(tmp_path / "x.tsv")

    @pytest.mark.parametrize("suffix", [".tsv", ".json"])
    def test_table_that_was_not_fetched_is_an_error(self, fmriprep, suffix):
        (path,) = fmriprep.glob(f"*{suffix}")
        path.unlink()
        path.symlink_to("../.git/annex/objects/a/b/MD5E-s9--0123456789abcdef/MD5E-s9--0123456789abcdef")
        with pytest.raises(NotFetchedError, match=rf"confounds_\w+\{suffix}: in the dataset"):
            read_confounds(path.with_suffix(".tsv"))

    @pytest.mark.parametrize("n_time_points", [29, 31])
    def test_another_number_of_rows_is_refused(self, fmriprep, n_time_points):
        table = table_of(fmriprep)
        check_rows(table, 30)
        with pytest.raises(MetadataError, match=rf"\.tsv: expected {n_time_points} rows of confounds, .* found 30"):
            check_rows(table, n_time_points)
