"""The benchmark of the store, at sizes that take seconds; how fast anything is, is not tested."""

import json
import sys

import common
import numpy as np
import pytest
import store
import store_sides
import torch

TINY = store.Sizes(voxel_mm=8, n_time_points=45, n_windows=3, n_plain=2, n_passes=2)


@pytest.fixture(autouse=True)
def _threads():
    pytest.importorskip("indexed_gzip", reason="indexed-gzip comes with the extra [dev]")
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def run():
    space = store_sides.brain(8)
    return space, store_sides.noise(space, 45, 8)


@pytest.fixture
def sides(run, tmp_path):
    pytest.importorskip("indexed_gzip", reason="indexed-gzip comes with the extra [dev]")
    return store_sides.make_sides(tmp_path, *run)


def test_all_rows_are_measured_and_written(tmp_path, monkeypatch):
    # Small files are read ahead of, and the folder of the tests may lie in memory.
    monkeypatch.setattr(store, "disk_bytes", iter(range(0, 10**12, 10**8)).__next__)
    target = tmp_path / "found.json"
    assert store.main(["--output", str(target), "--folder", str(tmp_path)], TINY) == 0
    content = json.loads(target.read_text())
    rows = ["bytes", *(f"{what}, {how}" for what in ("window", "sequential") for how in ("warm", "cold")), "grid, warm"]
    assert list(dict.fromkeys(result["row"] for result in content["results"])) == rows
    assert len(content["results"]) == len(rows) * 4
    page = target.with_suffix(".md").read_text()
    for result in content["results"]:
        assert result["found"] > 0
        assert result["case"] in page
    found = {(result["row"], result["case"]): result for result in content["results"]}
    assert found["window, warm", "plain .nii.gz over store"]["details"]["peer"]["n_rounds"] == TINY.n_plain
    assert found["window, cold", "store over memmap"]["reach"] == 2.5
    assert found["window, warm", "indexed .nii.gz over store"]["reach"] == 5
    # Half precision inside the mask, over half precision everywhere.
    mask = store_sides.brain(8).mask
    assert found["bytes", "store over memmap"]["found"] == pytest.approx(mask.mean(), rel=0.2)
    assert content["gate"]["store"] == 0
    assert str(tmp_path) not in target.read_text()
    assert sorted(tmp_path.iterdir()) == [target, target.with_suffix(".md")]


@pytest.mark.parametrize("name", ["store", "memmap", "a file a time point", "indexed .nii.gz", "plain .nii.gz"])
def test_all_sides_give_the_same(sides, run, name):
    space, series = run
    window, grid = sides[name].window(17, 37), sides[name].grid(17, 37)
    assert (window.dtype, grid.dtype) == (torch.float32, torch.float32)
    tolerance = store_sides.STEP / 2 if ".nii.gz" in name else 0
    np.testing.assert_allclose(window.numpy()[:, sides[name].order], series[17:37], rtol=0, atol=tolerance)
    np.testing.assert_allclose(grid.numpy(), space.scatter(series[17:37]), rtol=0, atol=tolerance)


def test_nifti_is_one_that_others_read(sides, run, tmp_path):
    import nibabel as nib

    space, series = run
    image = nib.load(tmp_path / "run.nii.gz")
    assert np.array_equal(image.affine, space.affine)
    values = np.asarray(image.dataobj)[space.mask].T
    np.testing.assert_allclose(values, series, rtol=0, atol=store_sides.STEP / 2)


def test_nothing_is_timed_when_the_frames_differ(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        store_sides.Memmap, "window", lambda self, *given: self.grid(*given).flatten(1)[:, self._voxels + 1]
    )
    assert store.main(["--output", str(tmp_path / "found.json")], TINY) != 0
    assert "memmap: differs by" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_cold_passes_must_read_the_disk():
    times = {"store": store.Times(disk=[100, 89])}
    with pytest.raises(common.BenchmarkError, match="expected 100 bytes from the disk in a cold pass, found 89"):
        store.check_cold(times, {"store": 100})


def test_ratios_are_of_the_windows_that_both_read():
    series = dict.fromkeys(("memmap", "a file a time point", "indexed .nii.gz"), [1.0] * 3)
    series |= {"store": [2.0, 2.0, 100.0, 100.0], "plain .nii.gz": [6.0, 6.0]}
    found = {result.case: result.found for result in store.compare("window, warm", series, 20)}
    assert found["plain .nii.gz over store"] == 3.0
    assert found["store over memmap"] == 2.0


def test_a_missing_peer_is_named(monkeypatch, run, tmp_path):
    monkeypatch.setitem(sys.modules, "indexed_gzip", None)
    with pytest.raises(common.BenchmarkError, match=r"pip install -e '\.\[dev\]'"):
        store_sides.make_sides(tmp_path, *run)
