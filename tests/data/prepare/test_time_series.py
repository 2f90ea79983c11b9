import gzip
import zlib

import nibabel as nib
import numpy as np
import pytest

from titan_neuro.data.bids.recordings import Recording
from titan_neuro.data.prepare.atlas import Atlas
from titan_neuro.data.prepare.images import BoldImage, read_volume
from titan_neuro.data.prepare.resampling import Resampler
from titan_neuro.data.prepare.time_series import MaskedVolumes, ParcelMeans, ParcelTable, ResampledVolumes, StoredSeries
from titan_neuro.data.space import ParcelLayout, Space
from titan_neuro.errors import ImageError

SHAPE, N_TIME_POINTS = (9, 8, 7), 30
AFFINE = np.array([[-2.0, 0, 0, 9], [0, 2.0, 0.1, -8], [0, -0.1, 2.0, -7], [0, 0, 0, 1]])


def write(path, data, dtype=np.float32, unit="sec", tr=0.72):
    image = nib.Nifti1Image(np.asarray(data).astype(dtype), AFFINE)
    image.header.set_xyzt_units("mm", unit)
    if image.ndim == 4:
        image.header["pixdim"][4] = tr
    nib.save(image, path)
    return path


@pytest.fixture
def data():
    return np.random.default_rng(0).normal(1000, 50, (*SHAPE, N_TIME_POINTS))


@pytest.fixture
def space():
    return Space(kind="volume", name="native", mask=np.random.default_rng(1).random(SHAPE) > 0.5, affine=AFFINE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sub-1_bold.nii.gz"


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64, np.uint8])
def test_volumes_are_what_was_written(tmp_path, data, space, name, dtype):
    if dtype is np.uint8:
        data = data / 10
    volumes = BoldImage(write(tmp_path / name, data, dtype))
    assert (volumes.shape, volumes.n_volumes) == (SHAPE, N_TIME_POINTS)
    np.testing.assert_allclose(volumes.affine, AFFINE, atol=1e-6)
    expected = data.astype(dtype)
    for start, stop in ((0, 4), (4, 30), (2, 3)):
        assert np.array_equal(volumes.read(start, stop), expected[..., start:stop])
    assert np.array_equal(MaskedVolumes(volumes, space).read(5, 9), expected[space.mask].T[5:9])


def test_nifti_2(path, data):
    nib.save(nib.Nifti2Image(data.astype(np.float32), AFFINE), path)
    assert np.array_equal(BoldImage(path).read(3, 5), data.astype(np.float32)[..., 3:5])


def test_slope_and_intercept_are_applied(path, data, space):
    stored = np.random.default_rng(2).integers(-3000, 3000, (*SHAPE, N_TIME_POINTS), dtype=np.int16)
    image = nib.Nifti1Image(stored, AFFINE)
    nib.save(image, path)
    raw = bytearray(gzip.decompress(path.read_bytes()))
    # scl_slope and scl_inter lie at the bytes 112 and 116 of the header.
    raw[112:120] = np.array([0.25, 500.0], dtype="<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))
    found = MaskedVolumes(BoldImage(path), space).read(0, N_TIME_POINTS)
    assert np.array_equal(found, 0.25 * stored[space.mask].T.astype(np.float64) + 500)


@pytest.mark.parametrize(
    ("unit", "tr", "expected"),
    [("sec", 0.72, 0.72), ("msec", 720, 0.72), ("usec", 720_000, 0.72), ("unknown", 0.72, None), ("sec", 0, None)],
)
def test_the_repetition_time_of_the_header(path, data, unit, tr, expected):
    found = BoldImage(write(path, data, unit=unit, tr=tr)).header_repetition_time
    # Exactly 0.72, not the nearest number in single precision.
    assert found == (expected if unit != "usec" else pytest.approx(0.72, abs=1e-12))


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii"])
@pytest.mark.parametrize("ones", [(1,), (1, 1), (1, 1, 1)])
def test_trailing_axes_of_length_1_are_dropped(tmp_path, data, space, ones, name):
    volumes = BoldImage(write(tmp_path / name, data.reshape(*data.shape, *ones)))
    assert (volumes.shape, volumes.n_volumes) == (SHAPE, N_TIME_POINTS)
    assert np.array_equal(volumes.read(3, 7), data.astype(np.float32)[..., 3:7])
    assert np.array_equal(volumes.read(7, 30), data.astype(np.float32)[..., 7:])
    mask = write(tmp_path / f"mask-{name}", space.mask.reshape(*SHAPE, *ones), np.uint8)
    assert np.array_equal(read_volume(mask, "brain mask")[0], space.mask)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (SHAPE[:2], r"expected a 4D image \(x, y, z, time\), found 2D of shape \(9, 8\)"),
        (SHAPE, r"expected a 4D image \(x, y, z, time\), found 3D of shape \(9, 8, 7\)"),
        ((*SHAPE, 2, 3), "found 5D"),
        # The fifth axis of NIfTI holds vectors, not time.
        ((*SHAPE, 1, 30), r"found 5D of shape \(9, 8, 7, 1, 30\)"),
        ((*SHAPE, 1, 30, 1), r"found 5D of shape \(9, 8, 7, 1, 30, 1\)"),
        ((*SHAPE, 1, 1), "expected at least 2 volumes, found 1"),
        ((*SHAPE, 1), "expected at least 2 volumes, found 1"),
        ((*SHAPE, 0), "expected at least 2 volumes, found 0"),
    ],
)
def test_other_shapes(path, shape, message):
    with pytest.raises(ImageError, match=message):
        BoldImage(write(path, np.ones(shape)))


def test_colors_and_complex_numbers(path):
    colors = np.zeros((*SHAPE, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for values in (colors, np.ones((*SHAPE, 3), dtype=np.complex64)):
        nib.save(nib.Nifti1Image(values, AFFINE), path)
        with pytest.raises(ImageError, match="expected real numbers, found values of type"):
            BoldImage(path)


def test_singular_affine_is_refused(path, data):
    raw = bytearray(gzip.decompress(write(path, data).read_bytes()))
    # The last row of the affine lies at the byte 312 of the header.
    raw[312:328] = bytes(16)
    path.write_bytes(gzip.compress(bytes(raw)))
    with pytest.raises(ImageError, match="expected an invertible affine"):
        BoldImage(path)


def test_another_kind_of_image(tmp_path):
    path = tmp_path / "x.mgz"
    nib.save(nib.MGHImage(np.ones((*SHAPE, 3), np.float32), np.eye(4)), path)
    with pytest.raises(ImageError, match="expected a NIfTI image of volumes, found MGHImage"):
        BoldImage(path)


@pytest.mark.parametrize(
    "content", [b"", b"no image", gzip.compress(b"no image", mtime=0), gzip.compress(b"\x00" * 2000, mtime=0)]
)
def test_no_image(path, content):
    path.write_bytes(content)
    with pytest.raises(ImageError, match="not a readable NIfTI image"):
        BoldImage(path)


def read_all(path, step=7):
    volumes = BoldImage(path)
    return [volumes.read(start, min(start + step, N_TIME_POINTS)) for start in range(0, N_TIME_POINTS, step)]


@pytest.mark.parametrize("share", [0.3, 0.7, 0.999])
@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii"])
def test_a_truncated_file(tmp_path, data, name, share):
    path = write(tmp_path / name, data)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ImageError, match=r"x\.nii.*: (can't be read at volumes|not a readable)"):
        read_all(path)


@pytest.mark.parametrize("at", [0.4, 0.8])
@pytest.mark.parametrize("level", [0, 6])
def test_damage_is_detected_by_gzip_checksum(path, data, at, level, monkeypatch):
    """Stored without compression, nothing but the checksum at the very end tells."""
    # With indexed_gzip, which the package does not need, nibabel looks at all of a small file while it opens it.
    monkeypatch.setattr(nib._compression, "HAVE_INDEXED_GZIP", False)
    raw = gzip.decompress(write(path, data).read_bytes())
    sound = gzip.compress(raw, level)
    path.write_bytes(sound)
    assert len(read_all(path)) == 5
    damaged = bytearray(sound)
    damaged[int(at * len(sound))] ^= 0x10
    path.write_bytes(damaged)
    with pytest.raises(ImageError, match=r"can't be read at volumes|not a readable"):
        read_all(path)


def test_a_damaged_file_that_can_not_be_unpacked(path, data, monkeypatch):
    monkeypatch.setattr(nib._compression, "HAVE_INDEXED_GZIP", False)
    damaged = bytearray(write(path, data).read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 300] = b"\xff" * 300
    path.write_bytes(damaged)
    with pytest.raises(ImageError, match="can't be read at volumes") as caught:
        read_all(path)
    assert isinstance(caught.value.__cause__, zlib.error)


def test_damaged_headers_are_refused_or_read(path, data):
    """Any byte of the header may be wrong: only our own errors come of it."""
    raw = gzip.decompress(write(path, data).read_bytes())
    rng = np.random.default_rng(3)
    refused = 0
    for at in rng.permutation(348)[:200]:
        damaged = bytearray(raw)
        damaged[at] ^= int(rng.integers(1, 256))
        path.write_bytes(gzip.compress(bytes(damaged), 1))
        try:
            BoldImage(path)
        except ImageError:
            refused += 1
    assert 3 < refused < 100


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(path, data, space, value):
    voxel = tuple(np.argwhere(space.mask)[40])
    data[(*voxel, 17)] = value
    volumes = BoldImage(write(path, data))
    place = rf"found {value} in volume 17, voxel \({', '.join(map(str, voxel))}\)"
    masked = MaskedVolumes(volumes, space)
    assert np.isfinite(masked.read(0, 17)).all()
    with pytest.raises(ImageError, match=place):
        masked.read(10, 20)
    resampled = ResampledVolumes(volumes, space, Resampler(np.argwhere(space.mask) * 2.0, AFFINE))
    assert np.isfinite(resampled.read(10, 17)).all()
    with pytest.raises(ImageError, match=place):
        resampled.read(10, 20)


def test_outside_the_mask_nothing_matters(path, data, space):
    data[~space.mask] = np.nan
    assert np.isfinite(MaskedVolumes(BoldImage(write(path, data)), space).read(0, N_TIME_POINTS)).all()


@pytest.mark.parametrize("dtype", [np.int16, np.float64])
def test_resampling_to_its_own_grid_is_identity(path, data, space, dtype):
    points = np.argwhere(space.mask) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    volumes = BoldImage(write(path, data, dtype))
    found = ResampledVolumes(volumes, space, Resampler(points, volumes.affine)).read(3, 6)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, data.astype(dtype)[space.mask].T[3:6], atol=0.05)


class InMemorySeries:
    def __init__(self, values):
        self.values, self.n_time_points = values, len(values)

    def read(self, start, stop):
        return self.values[start:stop]


def test_parcels_are_means_whatever_their_order():
    rng = np.random.default_rng(4)
    values, labels = rng.normal(size=(12, 60)), rng.choice([0, 3, 8, 900], 60)
    space = Space(kind="volume", name="native", mask=np.ones((3, 4, 5), bool), affine=np.eye(4))
    names = {8: "eight", 900: "many", 3: "three"}
    layout = ParcelLayout(
        space=space, labels=np.zeros(60, np.int32), names=("eight",), hemispheres=("",), networks=("",)
    )
    atlas = Atlas(name="mine", labels=labels, names=names, lost=(), layout=layout)
    parcels = ParcelMeans(StoredSeries(InMemorySeries(values), space), atlas)
    expected = np.stack([values[2:9, labels == label].mean(axis=1) for label in names], axis=1)
    np.testing.assert_allclose(parcels.read(2, 9), expected, rtol=1e-12)
    assert parcels.space.parcels == ("eight", "many", "three")
    assert (parcels.space.name, parcels.n_time_points, parcels.n_values_read) == ("mine", 12, 2 * 60)


def table(tmp_path, text):
    path = tmp_path / "sub-1_seg-X_timeseries.tsv"
    path.write_text(text)
    return ParcelTable(
        Recording(
            **{"path": path, "kind": "parcels", "route": "parcels", "entities": {"subject": "1", "segmentation": "X"}},
            **{"events": None, "mask": None},
        )
    )


def test_a_table_is_read(tmp_path):
    found = table(tmp_path, "left hand\t7\n1.5\t-2\n3\t4e2\n5\t6\n")
    assert found.space.parcels == ("left hand", "7")
    assert found.space.name == "X"
    assert found.read(1, 3).tolist() == [[3, 400], [5, 6]]


COUNTS = {
    "index from 0": [str(row) for row in range(8)],
    "index from 1": [str(row + 1) for row in range(8)],
    "times of unequal digits": [f"{row / 3:.3f}" for row in range(8)],
    "times in ms": [str(800 * row) for row in range(8)],
}


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "index", "time"])
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("place", [0, 2])
def test_a_column_that_counts_is_no_parcel(tmp_path, caplog, name, count, place):
    rows = [["a", "b"], *(row.split() for row in ("1 5", "3 4", "2 1", "7 9", "1 1", "0 2", "3 3", "4 1"))]
    for row, cell in zip(rows, [name, *COUNTS[count]], strict=True):
        row.insert(place, cell)
    found = table(tmp_path, "".join("\t".join(row) + "\n" for row in rows))
    assert found.space.parcels == ("a", "b")
    assert found.read(0, 2).tolist() == [[1, 5], [3, 4]]
    assert "left out" in caplog.text


def test_a_long_column_that_only_rises_is_no_parcel(tmp_path, caplog):
    """Row numbers of a table from which censored volumes were removed."""
    numbers = [row for row in range(40) if row not in (7, 8, 20)]
    rng = np.random.default_rng(0)
    found = table(tmp_path, "volume\ta\n" + "".join(f"{row}\t{rng.normal():.3f}\n" for row in numbers))
    assert found.space.parcels == ("a",)
    assert "'volume' rises from row to row" in caplog.text


def test_a_column_that_counts_down_is_no_parcel(tmp_path, caplog):
    found = table(tmp_path, "a\tleft\n" + "".join(f"{(row * 7) % 5}\t{9 - row}\n" for row in range(10)))
    assert found.space.parcels == ("a",)
    assert "'left' falls from row to row" in caplog.text


@pytest.mark.parametrize("rows", [["1 2", "2 1", "3 3"], ["1 0", "2 1", "4 0", "5 1", "6 0", "9 1"]])
def test_a_few_rising_values_are_a_parcel(tmp_path, rows):
    found = table(tmp_path, "a\tb\n" + "".join(row.replace(" ", "\t") + "\n" for row in rows))
    assert found.space.parcels == ("a", "b")


def test_rows_with_names_as_r_writes_them(tmp_path):
    found = table(tmp_path, "a\tb\n1\t1.5\t-2\n2\t3\t4\n3\t5\t6\n")
    assert found.space.parcels == ("a", "b")
    assert found.read(0, 3).tolist() == [[1.5, -2], [3, 4], [5, 6]]


def test_parcels_without_any_value_are_lost(tmp_path, caplog):
    found = table(tmp_path, "a\tb\tc\td\n1\tn/a\t2\tnan\n3\tn/a\t1\t\n")
    assert (found.space.parcels, found.space.lost_parcels) == (("a", "c"), ("b", "d"))
    assert found.read(0, 2).tolist() == [[1, 2], [3, 1]]
    assert "2 of its 4 parcels are n/a in the whole run, and are left out: b, d." in caplog.text
    with pytest.raises(ImageError, match="found no column with values"):
        table(tmp_path, "a\tb\nn/a\tn/a\nn/a\tn/a\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\n1\ttwo\n3\t4\n", "line 2, column 'b': expected a number or n/a, found 'two'"),
        ("a\tb\n1\t2\t3\t4\n3\n", "line 2: expected 2 cells, found 4"),
        ("a\tb\n1\t2\n\n3\t4\n", "line 3: expected 2 cells, found 1"),
        ('a\tb\n1\t2\n3\t4\n"5"\t6\n', "line 4, column 'a': expected a number or n/a, found '\"5\"'"),
        ("", "expected a table with a header, found an empty file"),
        ("a\tb\n1\t2\n", r"at least 2 time points \(rows\), found 1"),
        ("a\tb\n1\t2\n3\tn/a\n", "found nan in volume 1, parcel b"),
        ("0.1\t-0.2\n1\t2\n3\t4\n", "expected the names of parcels in its first line, found numbers: 0.1, -0.2"),
    ],
)
def test_invalid_parcel_tables_are_refused(tmp_path, text, message):
    with pytest.raises(ImageError, match=message):
        table(tmp_path, text).read(0, 2)
